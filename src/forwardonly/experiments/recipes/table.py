"""The form of a recipe: the runs that a paper's table needs, and how each of its rows is computed from them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from forwardonly.data import Images, load_test
from forwardonly.experiments.batch import Finished
from forwardonly.experiments.compare import Arm
from forwardonly.measure import evaluate
from forwardonly.network import storage
from forwardonly.network.network import Network
from forwardonly.network.readout import Kind, Readout

Scale = Literal["full", "cpu", "quick"]


@dataclass(frozen=True)
class Figure:
    """A row's number as a function `of` one seed's runs by the names of their arms; `arms` are those that it needs."""

    arms: tuple[str, ...]
    of: Callable[[Mapping[str, Finished]], float]


@dataclass(frozen=True)
class Row:
    """One row; `paper` is the published number, None where the paper has none."""

    name: str
    paper: float | None
    figure: Figure


@dataclass(frozen=True)
class Table:
    """A table of a paper at one scale.

    Args:
        title: the table's name.
        source: the paper.
        unit: of all rows' numbers.
        arms: the runs of one seed; each arm's options are those of `forwardonly train`, without data, seed and folder.
        data: the data set of every arm, by the arm's name.
        rows: the rows.
        seeds: number of seeds.
        says: how the runs differ from the paper's, in sentences.
        compared: groups of arms of one data set; a paired test is made of any two in a group.
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

    def only(self, arms: Sequence[str]) -> "Table":
        """The table of these arms alone, with the rows that need no other.

        Raises:
            ValueError: there is no such arm.
        """
        names = [arm.name for arm in self.arms]
        for name in arms:
            if name not in names:
                raise ValueError(f"This table has no arm {name!r}, but these: {'; '.join(names)}.")
        compared = (tuple(name for name in group if name in arms) for group in self.compared)
        return replace(
            self,
            arms=tuple(arm for arm in self.arms if arm.name in arms),
            rows=tuple(row for row in self.rows if set(row.figure.arms) <= set(arms)),
            compared=tuple(group for group in compared if len(group) > 1),
        )


def option_names(training: Mapping[str, Any]) -> dict[str, Any]:
    """Training options under their names on the command line, without dashes."""
    return {name.replace("_", "-"): value for name, value in training.items()}


def test_accuracy(arm: str) -> Figure:
    """An arm's test accuracy in percent."""

    return Figure((arm,), lambda runs: 100 * float(runs[arm].result["test_accuracy"]))


def reread(arm: str, readout: Kind) -> Figure:
    """An arm's test accuracy in percent under a fixed `readout`, which trains nothing: the networks are the same."""

    def figure(runs: Mapping[str, Finished]) -> float:
        network, test = trained(runs[arm])
        network.readout = Readout(readout, len(network.row))
        return 100 * evaluate(network, test, precision=runs[arm].result["precision"]).accuracy

    return Figure((arm,), figure)


def trained(run: Finished) -> tuple[Network, Images]:
    """A run's network, and the test images of its data set."""
    options = run.job.options
    data, data_dir = (
        options[options.index(name) + 1] if name in options else None for name in ("--data", "--data-dir")
    )
    assert data is not None
    return storage.load(run.job.folder), load_test(data, data_dir=data_dir, whole=False)[0]
