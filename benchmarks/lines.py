"""The lines of `results/`, and the figures that pages take from them by name.

An expression is a statistic, a name and sometimes an argument; `results/README.md` lists them. The name of a run's line
is its `id`; the `id` without its seed names the group of all seeds. A group speaks for the seeds by whose test images
nothing was chosen, so none with `chosen_by` "test" is in a figure.
"""

import json
import shlex
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "results" / "runs.jsonl"
TIMINGS = ROOT / "results" / "timings.jsonl"

Line = Mapping[str, Any]


def read(path: Path) -> list[dict[str, Any]]:
    """All lines of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def group_of(line: Line) -> str:
    """A run's id without its seed."""
    return str(line["id"]).rpartition("/")[0]


class Results:
    """What the two files hold, for pages to ask."""

    def __init__(self, runs: Sequence[Line] | None = None, timings: Sequence[Line] | None = None) -> None:
        self.runs = read(RUNS) if runs is None else runs
        self.timings = {line["id"]: line for line in (read(TIMINGS) if timings is None else timings)}

    def group(self, name: str) -> list[Line]:
        """The lines of a group that speak for it, or the one line of that id.

        Raises:
            ValueError: there is none.
        """
        found = [line for line in self.runs if group_of(line) == name and line["chosen_by"] != "test"]
        found = found or [line for line in self.runs if line["id"] == name]
        if not found:
            raise ValueError(f"{RUNS.name} has no group {name!r} with a seed that chose nothing.")
        return found

    def timing(self, name: str) -> Line:
        """The timing of that id.

        Raises:
            ValueError: there is none.
        """
        if name not in self.timings:
            raise ValueError(f"{TIMINGS.name} has no line {name!r}.")
        return self.timings[name]

    def beside(self, name: str, other: str) -> list[Line]:
        """The lines of a group of the same seeds as the other's, or all where they share none."""
        seeds = {line["seed"] for line in self.group(other)}
        return [line for line in self.group(name) if line["seed"] in seeds] or self.group(name)

    def mean(self, name: str) -> float:
        """Mean test accuracy in %."""
        return statistics.mean(percents(self.group(name)))

    def gap(self, name: str, other: str) -> float:
        """Points by which the other group is ahead, over the seeds of both."""
        ahead, behind = self.beside(other, name), self.beside(name, other)
        return statistics.mean(percents(ahead)) - statistics.mean(percents(behind))

    def seconds(self, name: str) -> float:
        """Mean seconds of a run, from the data set's files where that was measured."""
        return statistics.mean(float(line.get("total_seconds") or line["seconds"]) for line in self.group(name))

    def ratio(self, name: str, which: str | None = None) -> float:
        """A ratio of a timing: the one named, else that to backprop, else the only one."""
        ratios = self.timing(name)["ratios"]
        which = which or ("backprop" if "backprop" in ratios else next(iter(ratios), ""))
        if which not in ratios:
            raise ValueError(f"{name} has no ratio {which!r}, but these: {', '.join(ratios)}.")
        return float(ratios[which])

    def value(self, name: str, path: str) -> float:
        """A number of a timing's arms, such as `ours.seconds.all`."""
        found: Any = self.timing(name)["arms"]
        for part in path.split("."):
            if not isinstance(found, Mapping) or part not in found:
                raise ValueError(f"{name} has no {path!r} in its arms.")
            found = found[part]
        return float(found)

    def free_riding(self, name: str, quantity: str, block: int | None = None) -> float:
        """Mean over seeds of what the diagnosis of free-riding measured, of a block if it has one a block."""
        values = [line["free_riding"][quantity] for line in self.group(name)]
        return statistics.mean(float(value if block is None else value[block - 1]) for value in values)

    def probe(self, name: str, share: str, method: str = "ridge", which: str = "accuracy") -> float:
        """Mean over seeds of a probe's test accuracy in %, or of `untrained_accuracy`, by its share of the labels.

        Of a probe of all blocks but the first.
        """
        values = []
        for line in self.group(name):
            asked = (float(share), method, "all-but-first")
            found = [one for one in line["probes"] if (one["labels_share"], one["method"], one["blocks"]) == asked]
            if not found or which not in found[-1]:
                raise ValueError(f"{name} has no {method} probe of a share of {share} with its {which}.")
            values.append(100 * float(found[-1][which]))
        return statistics.mean(values)

    def figure(self, expression: str) -> str:
        """The text that an expression stands for.

        Raises:
            ValueError: it is not one, or names nothing.
        """
        words = shlex.split(expression)
        places = int(words.pop()[1:]) if len(words) > 2 and words[-1].startswith("@") else None
        if len(words) < 2 or words[0] not in STATISTICS:
            raise ValueError(f"{expression!r} is not STATISTIC NAME: the statistics are {', '.join(STATISTICS)}.")
        statistic, usual = STATISTICS[words[0]]
        try:
            value = statistic(self, *words[1:])
        except TypeError:
            raise ValueError(f"{expression!r} has too few or too many words for {words[0]!r}.") from None
        return value if isinstance(value, str) else f"{value:.{usual if places is None else places}f}"


def percents(runs: Sequence[Line]) -> list[float]:
    """Their test accuracies in %."""
    return [100 * float(line["test_accuracy"]) for line in runs]


def deviation(runs: Sequence[Line]) -> float | None:
    """Standard deviation of their test accuracies in points, None of one run."""
    return statistics.stdev(percents(runs)) if len(runs) > 1 else None


def accuracy(results: Results, name: str, beside: str | None = None) -> str:
    """Mean ± standard deviation in %, or the one figure of one seed; of the seeds that another group has too."""
    runs = results.group(name) if beside is None else results.beside(name, beside)
    spread = deviation(runs)
    return f"{statistics.mean(percents(runs)):.2f}" + ("" if spread is None else f" ± {spread:.2f}")


def published(_: Results, table: str, row: str) -> str:
    """A paper's figure, as the recipe of its table has it."""
    from forwardonly.experiments.recipes import TABLE  # here, as pictures need no recipes

    for line in TABLE[table]("full").rows if table in TABLE else ():
        if line.name == row and line.paper is not None:
            return f"{line.paper:.10g}"
    raise ValueError(f"No recipe has a published figure of {row!r} in {table!r}.")


def _deviation(results: Results, name: str) -> float:
    found = deviation(results.group(name))
    if found is None:
        raise ValueError(f"{name} is one seed, which has no deviation.")
    return found


STATISTICS: dict[str, tuple[Callable[..., float | str], int]] = {
    "accuracy": (accuracy, 2),
    "mean": (Results.mean, 2),
    "std": (_deviation, 2),
    "seeds": (lambda results, name: len(results.group(name)), 0),
    "block": (
        lambda results, name, k: statistics.mean(
            100 * line["block_accuracy"][int(k) - 1] for line in results.group(name)
        ),
        1,
    ),
    "gap": (Results.gap, 2),
    "minutes": (lambda results, name: results.seconds(name) / 60, 0),
    "seconds": (Results.seconds, 0),
    "time": (lambda results, name, other: results.seconds(name) / results.seconds(other), 2),
    "starvation": (lambda results, name, k: results.free_riding(name, "starvation", int(k)), 3),
    "separation": (lambda results, name, k: results.free_riding(name, "separation", int(k)), 2),
    "slope": (lambda results, name: results.free_riding(name, "law_slope"), 2),
    "probe": (Results.probe, 2),
    "ratio": (Results.ratio, 2),
    "percent": (lambda results, name, which=None: 100 * results.ratio(name, which), 0),
    "value": (Results.value, 1),
    "share": (lambda results, name, path: 100 * results.value(name, path), 1),
    "mib": (lambda results, name, path: results.value(name, path) / 2**20, 0),
    "machine": (lambda results, name: str(results.timing(name)["machine"]), 0),
    "paper": (published, 0),
}
"""Each statistic: what it is of a name and its arguments, and how many decimals it has where `@N` says nothing."""
