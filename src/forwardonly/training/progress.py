"""Progress of a run: a step's position, the event that a caller receives, and the state that a checkpoint holds."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Position(NamedTuple):
    """Position of a step in a run."""

    phase: int
    """Index of the block that learns, in greedy training; 0 otherwise."""
    epoch: int
    step: int
    """Step of the epoch."""
    run_step: int
    """Step of the run, or of the block's own run in greedy training; the schedule counts it."""
    last: bool = False
    """Whether processes sync after this step."""


class StepEvent(NamedTuple):
    """The argument of `progress=`: steps done, steps in all, and at the end of an epoch its row of the history."""

    step: int
    steps: int
    row: dict[str, Any] | None = None


@dataclass
class Progress:
    """Progress of a run: phase (the block that learns, in greedy training), epoch, step of the epoch, time, history."""

    phase: int = 0
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    before: dict[str, Any] = field(default_factory=dict)
    """Figures before the first step, where a run measures what is forgotten."""
