"""Output for people, on standard error: progress while training, tables afterwards."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # the screen is made before PyTorch is imported
    from forwardonly import training
    from forwardonly.experiments.batch import Standing


EVERY = 30.0  # seconds between two lines, where standard error is no terminal
SECONDS_OF_SILENCE = 3.0  # before it is said that something goes on
LONGEST_WORD = 24  # that a column of a table always has room for
SHOWN = 4  # blocks whose losses are shown on one line; of more, only the first and the last


def leads() -> bool:
    """Whether this is torchrun's first process, or one alone: it prints, and writes reports."""
    return os.environ.get("RANK", "0") == "0"


class Screen:
    """Standard error. A quiet screen shows nothing, for `--json` without a terminal.

    Args:
        quiet: whether nothing is shown.
        clock: the time in seconds.
    """

    def __init__(self, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.console = Console(stderr=True, quiet=quiet, highlight=False)

    def say(self, text: str) -> None:
        """Prints one paragraph verbatim: brackets in it are not markup."""
        self.console.print(text, markup=False, soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, words: int = 1) -> None:
        """A table whose first `words` columns are text and whose others are numbers.

        No column is narrower than its longest word, except for text such as paths, which may be longer than a line.
        """
        self.say(title)
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for index, (column, least) in enumerate(zip(columns, _least(columns, rows), strict=True)):
            side: Literal["left", "right"] = "left" if index < words else "right"
            table.add_column(Text(column), justify=side, overflow="fold", min_width=min(least, LONGEST_WORD))
        for row in rows:
            table.add_row(*[Text(str(cell)) for cell in row])  # as Text, so that names may contain brackets
        self.console.print(table)

    def fits(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> bool:
        """Whether a table can be shown without breaking a word."""
        least = _least(columns, rows)
        return sum(least) + 2 * (len(least) - 1) <= self.console.width

    @contextlib.contextmanager
    def unless_quick(self, text: str) -> Iterator[None]:
        """Says what goes on if it is not done within seconds."""
        timer = threading.Timer(SECONDS_OF_SILENCE, self.say, [text])
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    @contextlib.contextmanager
    def progress(self, title: str, about: str = "") -> Iterator[Callable[["training.StepEvent"], None]]:
        """A progress bar, updated by the function that it yields.

        Without a terminal, lines: one at the start with what `about` says of the work, by the first step or after three
        seconds, one per epoch, and one whenever there was none for 30 seconds, with an estimate of the time that is
        left.
        """
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[latest]}"),
        )
        watched = self.console.is_terminal
        pace = None if watched else _Pace(self.clock)
        opening = [f"{title}: {about}" if about else title]

        def begin() -> None:
            """Says once what begins; not at once, as a mistake may end the run before its first step."""
            with contextlib.suppress(IndexError):
                self.say(opening.pop())

        late = threading.Timer(SECONDS_OF_SILENCE, begin)  # a plan of memory, and measuring before a tuning, take time
        with Progress(
            *columns, console=self.console, transient=True, redirect_stdout=False, disable=not watched
        ) as bar:
            task = bar.add_task(title, latest="")

            def draw(event: "training.StepEvent") -> None:
                if not watched:
                    begin()
                bar.update(task, completed=event.step, total=event.steps)
                if event.row is not None:
                    bar.update(task, latest=_epoch(event.row))
                if pace is None:
                    return
                left, due = pace.left(event.step / event.steps), pace.due()
                if event.row is not None:
                    self.say(_epoch(event.row))
                elif due:
                    self.say(f"step {event.step:,} of {event.steps:,}{left}")
                if due or event.row is not None:
                    pace.said()

            if not watched:
                late.start()
            try:
                yield draw
            finally:
                late.cancel()

    @contextlib.contextmanager
    def batch(self, title: str) -> Iterator[Callable[["Standing"], None]]:
        """A progress bar for many runs, updated by the function that it yields.

        Without a terminal, lines: one at the start, one per run, and one whenever there was none for 30 seconds.
        """
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        watched = self.console.is_terminal
        pace: _Pace | None = None
        done = 0
        with Progress(
            *columns, console=self.console, transient=True, redirect_stdout=False, disable=not watched
        ) as bar:
            task = bar.add_task(title, total=1.0)

            def draw(standing: "Standing") -> None:
                nonlocal pace, done
                runs = f"{standing.runs}/{standing.runs_in_all} runs"
                bar.update(task, completed=standing.share, description=f"{title}: {runs}")
                if watched:
                    return
                if pace is None:
                    pace, done = _Pace(self.clock), standing.runs
                    self.say(f"{title}: {standing.runs_in_all} runs, {standing.runs} of them done before")
                left = pace.left(standing.share)
                if standing.runs > done or pace.due():
                    done = standing.runs
                    self.say(f"{title}: {done} of {standing.runs_in_all} runs done{left}")
                    pace.said()

            yield draw


def _least(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[int]:
    """The length of the longest word in each column."""
    words = zip(*([str(cell) for cell in row] for row in (columns, *rows)), strict=True)
    return [max((len(word) for cell in column for word in cell.split()), default=0) for column in words]


class _Pace:
    """When the next line is due, and how much time is left at the pace so far."""

    def __init__(self, clock: Callable[[], float]):
        self.clock = clock
        self.latest = clock()  # when the last line was said
        self.begun: tuple[float, float] | None = None  # work of an earlier call says nothing about the pace

    def due(self) -> bool:
        return self.clock() - self.latest >= EVERY

    def said(self) -> None:
        self.latest = self.clock()

    def left(self, share: float) -> str:
        """ ", about 3 min left", from the share of the work that is done; nothing where it cannot be told yet."""
        if self.begun is None:
            self.begun = self.clock(), share
        started, before = self.begun
        if share <= before:
            return ""
        return f", about {duration((self.clock() - started) * (1 - share) / (share - before))} left"


def duration(seconds: float) -> str:
    """A time in words: 40 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def sizes(train: Any, config: Any, weights: Any) -> str:
    """A run's sizes on one line: its images, classes, batches and steps, and the weights of its network."""
    from forwardonly.training.session import steps_per_epoch  # here, as the screen is made before PyTorch is imported

    batch = min(config.batch_size, len(train))
    steps = steps_per_epoch(train, config, batch)
    shape = " x ".join(map(str, train.shape))
    what, of = ("rows", f"{shape} tokens") if train.kind == "token" else ("images", shape)
    classes = f" in {len(train.classes)} classes" if train.classes else ""
    return (
        f"{len(train):,} {what} of {of}{classes}, {steps:,} steps of {batch} {what} an "
        f"epoch, {config.epochs} epochs; {weights.bodies:,} weights in bodies, {weights.rules:,} in rules' heads"
    )


def percent(share: float) -> str:
    """A fraction of 1 as a percentage."""
    return f"{100 * share:.2f} %"


def _epoch(row: dict[str, Any]) -> str:
    """An epoch's figures on one line."""
    losses = ["not started" if loss is None else f"{loss:.3f}" for loss in row["loss"]]
    if len(losses) > SHOWN:
        losses[1:-1] = ["..."]
    measured = f", validation {percent(row['validation_accuracy'])}" if "validation_accuracy" in row else ""
    if "validation_cross_entropy" in row:
        measured = f", validation loss {row['validation_cross_entropy']:.4f}"
    return f"epoch {row['epoch'] + 1}: loss {', '.join(losses)}{measured}, {row['seconds']:.1f} s"
