"""A small HTTP service around one network: predictions, and a page that shows what every block makes of an image."""

from forwardonly.serve.app import Limits, make_app

__all__ = ["Limits", "make_app"]
