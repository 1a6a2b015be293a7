"""Comparison of rules over seeds and data sets: runs, table, tests, report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from forwardonly import rules as rule_module
from forwardonly.experiments import report as reports
from forwardonly.experiments.batch import Finished, Job, Standing, run_all
from forwardonly.measure.statistics import holm, mean_and_deviation, paired_test
from forwardonly.names import as_words, nearest
from forwardonly.network.storage import read_config, write_json


@dataclass(frozen=True)
class Arm:
    """One arm of a comparison: its name in tables, and its options of `forwardonly train`."""

    name: str
    options: tuple[str, ...]


def parse_arm(text: str) -> Arm:
    """An arm from `RULE` or `RULE:option=value,option=value`, such as `cumulative:remedy=mgc,gamma=1`.

    Raises:
        ValueError: an unknown rule, one without labels, or not of that form.
    """
    rule, _, rest = text.partition(":")
    if rule not in rule_module.TABLE:
        raise ValueError(f"unknown rule {rule!r}: {nearest(rule, rule_module.TABLE)}")
    if not rule_module.rule_class(rule_module.TABLE[rule]).labelled:
        raise ValueError(f"{rule!r} learns without labels, so its runs have no test accuracy to compare: probe them.")
    options = ["--rule", rule]
    for part in filter(None, rest.split(",")):
        name, equals, value = part.partition("=")
        if not equals or not name or not value:
            raise ValueError(f"{text!r} is not of the form RULE:option=value,option=value.")
        options += as_words({f"rule.{name}": {"true": True, "false": False}.get(value.lower(), value)})
    return Arm(text, tuple(options))


def planned_jobs(
    arms: Sequence[Arm], data: Sequence[str], seeds: int, out: Path, options: Sequence[str] = ()
) -> dict[tuple[str, str], list[Job]]:
    """The jobs of every (data set, arm), one for each seed; `options` of `forwardonly train` hold for all.

    Raises:
        ValueError: no arms, data sets or seeds, or one named twice.
    """
    if not arms or not data or seeds < 1:
        raise ValueError("A comparison needs at least one rule, one data set and one seed.")
    for names in ([arm.name for arm in arms], data):
        twice = [name for name in names if list(names).count(name) > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} is named twice.")
    return {
        (name, arm.name): [
            Job(
                (*arm.options, "--data", name, "--seed", str(seed), *options),
                out / "runs" / "-".join(map(_plain, (name, arm.name, f"seed{seed}"))),
            )
            for seed in range(seeds)
        ]
        for name in data
        for arm in arms
    }


def compare(
    rules: Sequence[str],
    data: Sequence[str],
    *,
    out: str | Path,
    seeds: int = 5,
    options: Sequence[str] = (),
    jobs: int = 1,
    progress: Callable[[Standing], None] | None = None,
) -> dict[str, Any]:
    """Trains every rule on every data set with every seed, and compares the results.

    Args:
        rules: as `parse_arm` reads them.
        data: names or paths, as `forwardonly train --data` takes them.
        out: folder of the runs, `comparison.json` and `report.html`. Finished runs in it are not repeated.
        seeds: runs of each rule on each data set, seeds 0, 1, ...
        options: further options of `forwardonly train` for all runs, such as ["--epochs", "5"].
        jobs: runs at a time.
        progress: called twice a second.

    Returns:
        `arms`, `tests`, `notes` and `report`, as `forwardonly compare --json` prints them.

    Raises:
        ValueError: invalid options, a run that failed, or a folder with runs of other options.
    """
    out = Path(out)
    arms = [parse_arm(text) for text in rules]
    planned = planned_jobs(arms, data, seeds, out, options)
    done = run_all([job for group in planned.values() for job in group], at_once=jobs, report=progress)
    groups = group_runs(planned, done)
    result: dict[str, Any] = {
        "arms": [summary(name, arm, runs) for (name, arm), runs in groups.items()],
        "tests": [
            test for name in data for test in tests({arm: runs for (d, arm), runs in groups.items() if d == name}, name)
        ],
        "notes": notes(groups),
        "report": str(out / "report.html"),
    }
    title = f"{', '.join(rules)} on {', '.join(data)}"
    reports.write(out / "report.html", reports.Content(title, groups, result["arms"], result["tests"]))
    write_json(out / "comparison.json", result)
    return result


def group_runs(
    planned: dict[tuple[str, str], list[Job]], done: Sequence[Finished]
) -> dict[tuple[str, str], list[Finished]]:
    """Finished runs in the order and under the keys of the planned jobs."""
    by_folder = {run.job.folder: run for run in done}
    return {key: [by_folder[job.folder] for job in jobs] for key, jobs in planned.items()}


def notes(groups: Mapping[tuple[str, str], Sequence[Finished]]) -> list[str]:
    """What runs noted of their data, each sentence once, and of their results, the first of each arm."""
    found: dict[str, None] = {}  # in order
    for (data, arm), runs in groups.items():
        noted = [text for run in runs for text in run.result.get("notes", ())]
        for run in runs:
            found.update(dict.fromkeys(read_config(run.job.folder).get("data", {}).get("notes", ())))
        if noted:
            more = f" ({len(noted) - 1} more of this arm's notes are in the runs' result.json)" if noted[1:] else ""
            found[f"{arm} on {data}: {noted[0]}{more}"] = None
    return list(found)


def summary(data: str, arm: str, runs: Sequence[Finished]) -> dict[str, Any]:
    """An arm's figures on a data set; accuracies are fractions of 1, deviations are over seeds."""
    accuracies = [run.result["test_accuracy"] for run in runs]
    mean, deviation = mean_and_deviation(accuracies)
    return {
        "rule": arm,
        "data": data,
        "seeds": [run.result["seed"] for run in runs],
        "test_accuracy": accuracies,
        "mean": mean,
        "std": deviation,
        "block_accuracy": [
            sum(values) / len(values) for values in zip(*(r.result["block_accuracy"] for r in runs), strict=True)
        ],
        "seconds": sum(run.result["seconds"] for run in runs) / len(runs),
        "peak_memory_bytes": max(run.result["peak_memory_bytes"] for run in runs),
    }


def tests(groups: Mapping[str, Sequence[Finished]], data: str) -> list[dict[str, Any]]:
    """Every pair of arms on one data set: paired t-tests with Holm's correction over these pairs."""
    pairs = list(combinations(groups, 2))
    values = {arm: [run.result["test_accuracy"] for run in runs] for arm, runs in groups.items()}
    results = [paired_test(values[b], values[a]) for a, b in pairs]
    corrected = holm([result.p for result in results])
    return [
        {"data": data, "a": b, "b": a, **asdict(result), "p_holm": p}
        for (a, b), result, p in zip(pairs, results, corrected, strict=True)
    ]


def _plain(name: str) -> str:
    """A name that can be part of a folder's name."""
    return "".join(letter if letter.isalnum() or letter in "-_.=" else "_" for letter in Path(name).name)
