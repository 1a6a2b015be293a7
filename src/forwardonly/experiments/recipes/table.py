"""What a recipe is: the runs that a paper's table needs, and how each of its rows is read from them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from forwardonly.experiments.batch import Finished
from forwardonly.experiments.compare import Arm

Scale = Literal["full", "quick"]

Figure = Callable[[Mapping[str, Finished]], float]
"""A row's number from one seed's runs, by the names of their arms."""


@dataclass(frozen=True)
class Row:
    """One line: `paper` is the published number, None where the paper has none."""

    name: str
    paper: float | None
    figure: Figure


@dataclass(frozen=True)
class Table:
    """A table of a paper at one scale.

    Args:
        title, source: what it is called and where it stands.
        unit: of all rows' numbers.
        arms: the runs of one seed; each arm's options are its whole `forwardonly train` call but data, seed and folder.
        data: the data set of every arm, by the arm's name.
        rows: the lines.
        seeds: how many.
        says: how the runs differ from the paper's, in sentences.
        compared: groups of arms of one data set, between any two of which a paired test is made.
    """

    title: str
    source: str
    unit: str
    arms: tuple[Arm, ...]
    data: Mapping[str, str]
    rows: tuple[Row, ...]
    seeds: int
    says: tuple[str, ...]
    compared: tuple[tuple[str, ...], ...] = ()


def option_names(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A rule's recipe under the names that the command line has for its options."""
    return {name.replace("_", "-"): value for name, value in recipe.items()}


def words(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Options of `forwardonly train` by name, without their dashes, as its command line; a tuple is several values."""
    return tuple(
        word
        for name, value in options.items()
        for word in (f"--{name}", *map(str, value if isinstance(value, tuple) else (value,)))
    )


def test_accuracy(arm: str) -> Figure:
    """An arm's test accuracy in percent."""

    def figure(runs: Mapping[str, Finished]) -> float:
        return 100 * float(runs[arm].result["test_accuracy"])

    return figure
