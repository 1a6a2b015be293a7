"""How far a run is: what a step is told, what a checkpoint keeps, what a caller hears."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Position(NamedTuple):
    """Which step of a run this is."""

    phase: int
    """The block that learns, in greedy training."""
    epoch: int
    step: int
    """Of the epoch."""
    run_step: int
    """Of the run, or of the block's run in greedy training: what the schedule counts."""
    last: bool = False
    """Whether processes sync after it."""


class StepEvent(NamedTuple):
    """Steps done and in all, and at the end of an epoch its row of the history."""

    step: int
    steps: int
    row: dict[str, Any] | None = None


@dataclass
class Progress:
    """The phase (the block that learns, in greedy training), the epoch, the step of it, and what happened so far."""

    phase: int = 0
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
