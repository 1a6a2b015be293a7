"""Recipes, each of which reproduces one table of a paper, and the table of them."""

from collections.abc import Callable, Mapping
from functools import partial

from forwardonly.experiments.recipes import convolutional, fast, free_riding, locality, lorberbom, networkff, tinycnn
from forwardonly.experiments.recipes.table import Row, Scale, Table

TABLE: dict[str, Callable[[Scale], Table]] = {
    "networkff-mnist": networkff.mnist,
    "networkff-fashion": networkff.fashion,
    "lorberbom": lorberbom.table,
    "free-riding": free_riding.table,
    "tinycnn": tinycnn.table,
    "price-of-locality": locality.table,
    **{name: partial(convolutional.table, name) for name in convolutional.SOURCES},
    **{name: partial(fast.table, name) for name in fast.RECIPES},
}
"""Every recipe by the name that `forwardonly reproduce` takes."""

SCALES: Mapping[str, tuple[Scale, ...]] = {
    **dict.fromkeys(TABLE, ("full", "quick")),
    **dict.fromkeys(("tinycnn", "price-of-locality", *convolutional.SOURCES), ("full", "cpu", "quick")),
}
"""The scales that each recipe has."""

__all__ = ["SCALES", "TABLE", "Row", "Scale", "Table"]
