"""Recipes: one function a table of a paper, and the table of them."""

from collections.abc import Callable
from functools import partial

from forwardonly.experiments.recipes import convolutional, fast, free_riding, lorberbom, networkff
from forwardonly.experiments.recipes.table import Row, Scale, Table

TABLE: dict[str, Callable[[Scale], Table]] = {
    "networkff-mnist": networkff.mnist,
    "networkff-fashion": networkff.fashion,
    "lorberbom": lorberbom.table,
    "free-riding": free_riding.table,
    **{name: partial(convolutional.table, name) for name in convolutional.SOURCES},
    **{name: partial(fast.table, name) for name in fast.RECIPES},
}
"""Every recipe by the name that `forwardonly reproduce` takes."""

__all__ = ["TABLE", "Row", "Scale", "Table"]
