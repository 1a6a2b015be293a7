"""Experiments: comparisons of rules over seeds, reproductions of papers' tables, and their reports."""

from forwardonly.experiments.compare import compare
from forwardonly.experiments.reproduce import reproduce

__all__ = ["compare", "reproduce"]
