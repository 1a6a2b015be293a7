"""A small HTTP service around one network: predictions, and a page that shows each block's scores for an image."""

from forwardonly.serve.app import Limits, make_app

__all__ = ["Limits", "make_app"]
