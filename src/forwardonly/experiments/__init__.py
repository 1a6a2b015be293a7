"""Experiments: rules compared over seeds, tables of papers reproduced, and their reports."""

from forwardonly.experiments.compare import compare
from forwardonly.experiments.reproduce import reproduce

__all__ = ["compare", "reproduce"]
