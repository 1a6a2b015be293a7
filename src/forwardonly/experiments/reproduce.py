"""Reproduction of one table of a paper: its runs, and the paper's numbers next to ours."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from forwardonly.experiments import recipes
from forwardonly.experiments import report as reports
from forwardonly.experiments.batch import Finished, Job, Standing, run_all
from forwardonly.experiments.compare import group_runs, planned_jobs, summary, tests
from forwardonly.measure.statistics import mean_and_deviation
from forwardonly.names import nearest
from forwardonly.network.storage import write_json


def reproduce(
    name: str,
    *,
    scale: recipes.Scale = "quick",
    out: str | Path,
    seeds: int | None = None,
    arms: Sequence[str] = (),
    options: tuple[str, ...] = (),
    jobs: int = 1,
    progress: Callable[[Standing], None] | None = None,
) -> dict[str, Any]:
    """Does the runs that a recipe still lacks, and sets its rows next to the paper's.

    Args:
        name: of a recipe in `recipes.TABLE`.
        scale: `full` is the paper's protocol; `quick` a short form that says what it leaves out; `cpu`, which the
            convolutional tables have, what a CPU does in an hour or some hours per row.
        out: folder of the runs, `reproduction.json` and `report.html`.
        seeds: replaces the recipe's own number.
        arms: names of the arms to run; none names all. The rows are theirs, and those of other arms that are finished
            in the folder with the same options.
        options: further options of `forwardonly train`, such as ("--data-dir", DIR).
        jobs: runs at a time.
        progress: called twice a second.

    Returns:
        `rows`, `scale`, `says`, `unit`, `tests` and `report`, as `forwardonly reproduce --json` prints them.

    Raises:
        ValueError: an unknown name, scale or arm; a run that failed; a folder with runs of other options.
    """
    table, out = find(name, scale), Path(out)
    count = table.seeds if seeds is None else seeds
    planned = {}
    for arm in table.arms:
        planned.update(planned_jobs([arm], [table.data[arm.name]], count, out, options))
    if arms:
        there = [arm for (_, arm), jobs in planned.items() if all(map(_is_there, jobs))]
        table = table.only([*arms, *there])
        planned = {key: jobs for key, jobs in planned.items() if key[1] in (*arms, *there)}
    done = run_all([job for group in planned.values() for job in group], at_once=jobs, report=progress)
    groups = group_runs(planned, done)
    by_arm = {arm: runs for (_, arm), runs in groups.items()}
    rows = [_row(row, by_arm, count) for row in table.rows]
    result: dict[str, Any] = {
        "rows": rows,
        "scale": scale,
        "unit": table.unit,
        "says": sentences(table, seeds),
        "tests": [
            test
            for group in table.compared
            for test in tests({arm: by_arm[arm] for arm in group}, table.data[group[0]])
        ],
        "report": str(out / "report.html"),
    }
    content = reports.Content(
        title=f"{table.title}: {table.source}, scale {scale}",
        groups=groups,
        arms=[summary(data, arm, runs) for (data, arm), runs in groups.items()],
        tests=result["tests"],
        before=reports.card(f"paper and ours: {table.unit}", reports.table(COLUMNS, [cells(row) for row in rows])),
        notes=result["says"],
    )
    reports.write(out / "report.html", content)
    write_json(out / "reproduction.json", result)
    return result


def sentences(table: recipes.Table, seeds: int | None) -> list[str]:
    """How the runs differ from the paper's, and how many seeds there are."""
    count = table.seeds if seeds is None else seeds
    usual = "" if count == table.seeds else f", where the scale has {table.seeds}"
    return [*table.says, f"Seeds: {count}{usual}."]


COLUMNS = ("", "paper", "ours", "std", "n")


def cells(row: dict[str, Any]) -> list[str]:
    """A row as text."""
    return [row["name"], *(_number(row[key]) for key in ("paper", "mean", "std")), str(row["n"])]


def find(name: str, scale: str, arms: Sequence[str] = ()) -> recipes.Table:
    """The recipe of that name at that scale; with only some of its arms if `arms` names any.

    Raises:
        ValueError: there is no such recipe, scale or arm.
    """
    if name not in recipes.TABLE:
        raise ValueError(f"unknown table {name!r}: {nearest(name, recipes.TABLE)}")
    for known in recipes.SCALES[name]:
        if scale == known:
            table = recipes.TABLE[name](known)
            return table.only(arms) if arms else table
    raise ValueError(f"{name} has no scale {scale!r}: {nearest(scale, recipes.SCALES[name])}")


def _is_there(job: Job) -> bool:
    return job.finished and job.noted() == job.options


def _row(row: recipes.Row, by_arm: dict[str, list[Finished]], seeds: int) -> dict[str, Any]:
    values = [row.figure.of({arm: runs[seed] for arm, runs in by_arm.items()}) for seed in range(seeds)]
    values = [value for value in values if math.isfinite(value)]
    mean, deviation = mean_and_deviation(values) if values else (None, None)
    return {"name": row.name, "paper": row.paper, "mean": mean, "std": deviation, "n": len(values)}


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"
