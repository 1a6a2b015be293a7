"""Moments at which a process kills itself with SIGKILL, to the line: nothing is flushed, no `finally` runs.

As a script it is the command `forwardonly` with such moments: `python moments.py FIRST,SECOND,... train ...`. Its n-th
start, as torchrun or FORWARDONLY_START counts them, dies at the n-th of them, and further starts live.
"""

import os
import runpy
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from forwardonly.network import storage
from forwardonly.training.distributed import team
from forwardonly.training.runs import checkpoint, figures
from forwardonly.training.trainer import Trainer


def die(*_: Any, **__: Any) -> None:
    """Kills this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def in_step(at: int) -> None:
    """Behind so many of an epoch's steps, when others may wait for what this process would have sent."""
    step = Trainer._step

    def watched(self: Trainer, *given: Any) -> None:
        step(self, *given)
        if self.progress.step == at:
            die()

    Trainer._step = watched  # type: ignore[method-assign]


def in_writing(of: str, progress: str) -> None:
    """In writing a file: half of its bytes are there, all of them without its name, or the whole file."""
    write = storage.write_atomically

    def watched(path: Path, content: Any) -> None:
        if of not in path.as_posix():
            write(path, content)
            return
        if progress == "half":
            whole = b"".join([content] if isinstance(content, bytes) else content)
            path.with_name(f".{path.name}.{os.getpid()}.tmp").write_bytes(whole[: len(whole) // 2])
            die()
        if progress == "unnamed":
            Path.replace = die  # type: ignore[assignment, method-assign]
        write(path, content)
        die()

    storage.write_atomically = checkpoint.write_atomically = watched  # type: ignore[attr-defined]


def in_measuring() -> None:
    """In the final evaluation, which processes share."""
    measured = figures.result_of

    def watched(*given: Any) -> Any:
        team.evaluate = die  # type: ignore[assignment]
        return measured(*given)

    figures.result_of = watched


class Moment(NamedTuple):
    """What has a process die, and whether it is in the leading process alone, which writes."""

    strike: Callable[[], None]
    leads: bool = False


MOMENTS = {
    "in-an-epoch": Moment(partial(in_step, 3)),
    "half-a-checkpoint": Moment(partial(in_writing, "checkpoint/", "half"), True),
    "unnamed-checkpoint": Moment(partial(in_writing, "checkpoint/", "unnamed"), True),
    "checkpoint-without-metrics": Moment(partial(in_writing, "checkpoint/", "whole"), True),
    "first-step": Moment(partial(in_step, 1)),
    "final-evaluation": Moment(in_measuring),
    "half-a-network": Moment(partial(in_writing, "model.safetensors", "half"), True),
    "network-without-result": Moment(partial(in_writing, "model.safetensors", "whole"), True),
}
"""In the order in which a run comes to them."""


def strike(start: int, rank: int, world: int, moments: list[str]) -> None:
    """Has this process die at the moment of this start, if it is its turn: that of the leading one, or of each rank."""
    if start < len(moments):
        moment = MOMENTS[moments[start]]
        if rank == (0 if moment.leads else start % world):
            moment.strike()


if __name__ == "__main__":
    count = os.environ.get("FORWARDONLY_START") or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    names = [name for name in sys.argv.pop(1).split(",") if name]
    strike(int(count), int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)), names)
    runpy.run_module("forwardonly", run_name="__main__", alter_sys=True)
