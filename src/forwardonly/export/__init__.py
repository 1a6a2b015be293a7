"""Export: a network, or the step that trains it, for runtimes that do not need this library."""

from forwardonly.export.c import export_c, read_saved, write_saved
from forwardonly.export.c.plan import Precision
from forwardonly.export.converters import executorch_program
from forwardonly.export.files import Format, export_network, export_training_step, input_about
from forwardonly.export.step import TrainingStep, training_step

__all__ = [
    "Format",
    "Precision",
    "TrainingStep",
    "executorch_program",
    "export_c",
    "export_network",
    "export_training_step",
    "input_about",
    "read_saved",
    "training_step",
    "write_saved",
]
