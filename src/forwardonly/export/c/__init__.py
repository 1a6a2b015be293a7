"""The training step as one C99 file without dependencies."""

from forwardonly.export.c.files import export_c
from forwardonly.export.c.saved import read_saved, write_saved

__all__ = ["export_c", "read_saved", "write_saved"]
