"""Output for people, on standard error: progress while training, tables afterwards."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # the screen is made before PyTorch is imported
    from forwardonly import training
    from forwardonly.experiments.batch import Standing


SHOWN = 4  # blocks whose losses are shown on one line; of more, only the first and the last


class Screen:
    """Standard error. A quiet screen shows nothing, for `--json` without a terminal."""

    def __init__(self, *, quiet: bool = False):
        self.console = Console(stderr=True, quiet=quiet, highlight=False)

    def say(self, text: str) -> None:
        """Prints one paragraph verbatim: brackets in it are not markup."""
        self.console.print(text, markup=False, soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, words: int = 1) -> None:
        """A table whose first `words` columns are text and whose others are numbers."""
        self.say(title)
        table = Table()
        for index, column in enumerate(columns):
            table.add_column(Text(column), justify="left" if index < words else "right", overflow="fold")
        for row in rows:
            table.add_row(*[Text(str(cell)) for cell in row])  # as Text, so that names may contain brackets
        self.console.print(table)

    @contextlib.contextmanager
    def progress(self, title: str) -> Iterator[Callable[["training.StepEvent"], None]]:
        """A progress bar, updated by the function that it yields; without a terminal, a line per epoch."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[latest]}"),
        )
        watched = self.console.is_terminal
        with Progress(
            *columns, console=self.console, transient=True, redirect_stdout=False, disable=not watched
        ) as bar:
            task = bar.add_task(title, latest="")

            def draw(event: "training.StepEvent") -> None:
                bar.update(task, completed=event.step, total=event.steps)
                if event.row is not None:
                    latest = _epoch(event.row)
                    bar.update(task, latest=latest)
                    if not watched:
                        self.say(latest)

            yield draw

    @contextlib.contextmanager
    def batch(self, title: str) -> Iterator[Callable[["Standing"], None]]:
        """A progress bar for many runs, updated by the function that it yields; without a terminal, a line per run."""
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        watched = self.console.is_terminal
        started, begun, said = time.monotonic(), None, 0
        with Progress(
            *columns, console=self.console, transient=True, redirect_stdout=False, disable=not watched
        ) as bar:
            task = bar.add_task(title, total=1.0)

            def draw(standing: "Standing") -> None:
                nonlocal begun, said
                if begun is None:  # work of an earlier call says nothing about the pace
                    begun = standing.share
                bar.update(
                    task, completed=standing.share, description=f"{title}: {standing.runs}/{standing.runs_in_all} runs"
                )
                if not watched and standing.runs > said and standing.share > begun:
                    said = standing.runs
                    left = (time.monotonic() - started) * (1 - standing.share) / (standing.share - begun)
                    self.say(f"{title}: {said} of {standing.runs_in_all} runs done, about {left / 60:.0f} min left")

            yield draw


def percent(share: float) -> str:
    """A fraction of 1 as a percentage."""
    return f"{100 * share:.2f} %"


def _epoch(row: dict[str, Any]) -> str:
    """An epoch's figures on one line."""
    losses = ["not started" if loss is None else f"{loss:.3f}" for loss in row["loss"]]
    if len(losses) > SHOWN:
        losses[1:-1] = ["..."]
    measured = f", validation {percent(row['validation_accuracy'])}" if "validation_accuracy" in row else ""
    return f"epoch {row['epoch'] + 1}: loss {', '.join(losses)}{measured}, {row['seconds']:.1f} s"
