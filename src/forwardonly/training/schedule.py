"""The schedule: which blocks have started to learn, and the learning rate of each step."""

import math
from collections.abc import Callable, Sequence

from forwardonly.training.config import TrainingConfig
from forwardonly.training.update import Update

SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda left: left,
    "cosine": lambda left: 0.5 - 0.5 * math.cos(math.pi * left),
    "step": lambda left: float(left > 0.5),
}
"""The part of the fall that is still to come, by the share of the run that is left after warm-up."""


class Schedule:
    """The schedule of a run, or of each block's own run where blocks train one after another.

    Args:
        config: its epochs, delay and learning rates.
        steps_per_epoch: batches in an epoch.
        depth: number of blocks.
    """

    def __init__(self, config: TrainingConfig, steps_per_epoch: int, depth: int):
        self.config = config
        self.steps_per_epoch = steps_per_epoch
        self.steps = config.epochs * steps_per_epoch
        shares = (config.delay * index / max(depth - 1, 1) for index in range(depth))
        self.first_steps = [min(round(self.steps * share), self.steps - 1) for share in shares]
        """The step from which each block learns."""

    def started(self, step: int) -> int:
        """Number of blocks, counted from the first, that learn in a step."""
        return sum(first <= step for first in self.first_steps)

    def heads_alone(self, step: int) -> bool:
        """Whether only the rules' own weights learn in a step."""
        return step < round(self.steps * self.config.heads_first)

    def rate_factor(self, step: int) -> float:
        """Learning rate of a step as a share of the highest; a block that starts late joins at this rate."""
        config, progress = self.config, step / self.steps
        if progress < config.warmup:  # the first of n steps has 1/n of the highest rate, not 0, which teaches nothing
            return min(1.0, (step + 1) / (config.warmup * self.steps))
        if config.lr_schedule == "constant":
            return 1.0
        left = 1 - (progress - config.warmup) / (1 - config.warmup)
        share = SHAPES[config.lr_schedule](left)
        return config.final_rate + (1 - config.final_rate) * share

    def set_rate(self, updates: Sequence[Update], step: int) -> None:
        """Sets the learning rate of the updates for a step."""
        for update in updates:
            update.set_rate(self.rate_factor(step))

    def steps_in_epoch(self, epoch: int) -> list[int]:
        """Number of steps of an epoch in which each block learns."""
        done = (epoch + 1) * self.steps_per_epoch
        return [max(0, min(done - first, self.steps_per_epoch)) for first in self.first_steps]
