"""`forwardonly reproduce`: one table of a paper, with the paper's numbers next to ours."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from forwardonly.cli.compare import check, show_tests
from forwardonly.cli.parsing import UNSET, Common
from forwardonly.cli.screen import Screen
from forwardonly.experiments import recipes, reproduce
from forwardonly.experiments.reproduce import COLUMNS, cells, find, sentences


@dataclass(frozen=True, kw_only=True)
class Reproduce(Common):
    """Options of the command."""

    table: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="{" + ",".join(recipes.TABLE) + "}")]
    """The table to reproduce."""
    scale: recipes.Scale = "quick"
    """The paper's protocol (full), an hour or more of a CPU per row, of some tables (cpu), or minutes (quick)."""
    out: Annotated[Path | None, UNSET, tyro.conf.DisallowNone] = None
    """Folder of the runs and the report, by default runs/TABLE-SCALE; finished runs in it are not repeated."""
    seeds: Annotated[int | None, UNSET, tyro.conf.DisallowNone] = None
    """Runs of each arm; by default the scale's number."""
    arms: tuple[str, ...] = ()
    """Arms to run; by default all. Rows that need other arms appear if those are finished in the folder."""
    jobs: int = 1
    """Runs at a time; they share the processor's cores."""
    data_dir: Annotated[Path | None, UNSET, tyro.conf.DisallowNone] = None
    """Folder of the data sets; by default $FORWARDONLY_DATA, then the user's cache."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda or cuda:N."""


def options(argv: Sequence[str]) -> type[Reproduce]:
    """The options of the command, which do not depend on `argv`."""
    return Reproduce


def run(chosen: Reproduce, screen: Screen) -> dict[str, Any]:
    """Does the runs that are not finished, and sets the rows side by side."""
    table = find(chosen.table, chosen.scale, chosen.arms)
    for sentence in sentences(table, chosen.seeds):
        screen.say(sentence)
    shared: tuple[str, ...] = () if chosen.data_dir is None else ("--data-dir", str(chosen.data_dir))
    shared += () if chosen.device == "auto" else ("--device", chosen.device)
    for arm in table.arms:
        check((*arm.options, *shared))
    with screen.batch(chosen.table) as draw:
        return reproduce(
            chosen.table,
            scale=chosen.scale,
            out=chosen.out or Path("runs") / f"{chosen.table}-{chosen.scale}",
            seeds=chosen.seeds,
            arms=chosen.arms,
            options=shared,
            jobs=chosen.jobs,
            progress=draw,
        )


def show(result: dict[str, Any], screen: Screen) -> None:
    """Paper and ours, side by side."""
    screen.table(
        f"paper and ours: {result['unit']}, scale {result['scale']}", COLUMNS, [cells(row) for row in result["rows"]]
    )
    show_tests(result, screen)
    screen.say(f"report: {result['report']}")
