"""The update in whole numbers: at once for one example a step, else after a batch, whose steps are added up.

A batch has an int32 for each weight: the sum of its examples' steps, in 65536ths of the weight's unit (a bias's in the
bias's own unit), saturating. After the last example the mean is taken off the weights as a single step is. `clip`
limits the norm of a block's mean gradient, as in `TrainingConfig`, so that it too needs these sums.
"""

from collections.abc import Iterable

import numpy as np

from forwardonly.export.c.int8_arithmetic import CHANCE, LARGEST_RATE, MOST, ONE, Array, divided, excess, root, shifted
from forwardonly.export.c.int8_weights import Quantised, is_bias
from forwardonly.export.c.plan import BlockPlan, LabelClassifier, Plan

SHARE = 30
"""The bits behind the point of what the sums are multiplied by."""
NORM_BITS = 20
"""Bits of the largest step where a norm is taken."""
LARGEST_LIMIT = 1 << 40
"""A limit of the norm, at 2^16, that no gradient reaches, and whose product with a rate fits into an int64."""


def unit_bits(exponents: dict[str, int], name: str) -> int:
    """The bits behind the point of a sum of steps."""
    return exponents[name] + (12 if is_bias(name) else 16)


def mean_share(plan: Plan) -> int:
    """1 / batch at 2^SHARE."""
    return int(divided(1 << SHARE, plan.batch))


def clip_limit(plan: Plan) -> int:
    """The largest norm of the sum of a batch's gradients, at 2^16."""
    assert plan.config.clip is not None
    return min(LARGEST_LIMIT, max(1, round(plan.config.clip * plan.batch * 2**16)))


def whole_rate(rate: float) -> int:
    """A learning rate at 2^16, from 0 to LARGEST_RATE; 0 for NaN."""
    rate = min(rate, LARGEST_RATE) if rate > 0 else 0.0
    return int(np.float32(rate) * np.float32(65536) + np.float32(0.5))


class Int8Update:
    """Moves weights, or collects their steps until a batch is complete.

    Args:
        held: is changed in place.
    """

    def __init__(self, plan: Plan, held: Quantised):
        self.plan, self.held, self.rate = plan, held, plan.config.learning_rate
        self.sums = {name: np.zeros_like(own) for name, own in held.weights.items()} if plan.gathers else None

    @property
    def whole_rate(self) -> int:
        """The learning rate at 2^16."""
        return whole_rate(self.rate)

    def step(self, name: str, step: Array, bits: int) -> None:
        """Takes step / 2^bits off a weight, in 256ths of its unit, or off a bias, in its unit."""
        if self.sums is None:
            self.held.move(name, shifted(step, bits))
            return
        more = shifted(step, bits if is_bias(name) else bits - 8)
        self.sums[name] = np.clip(self.sums[name] + more.reshape(self.sums[name].shape), -MOST, MOST)

    def linear(self, path: str, given: Array, errors: Array, up: int) -> None:
        """A linear map's step, of its signal (D,) and the errors of its outputs, which are `up` bits larger."""
        weight, e = f"{path}.weight", self.held.exponents[f"{path}.weight"]
        self.step(weight, self.whole_rate * errors[:, None] * given[None], 16 + CHANCE + up + ONE - e - 8)
        self.step(f"{path}.bias", self.whole_rate * errors, 16 + CHANCE + up - e - ONE - 8)

    def finish(self, parts: Iterable[BlockPlan | LabelClassifier]) -> None:
        """The update of some parts after a batch."""
        if self.sums is None:
            return
        for part in parts:
            share = self._share(part)
            for name in map(part.name, part.parameters):
                self.held.move(name, shifted(self.sums[name] * share, SHARE + (0 if is_bias(name) else 8)))
                self.sums[name][...] = 0

    def _share(self, part: BlockPlan | LabelClassifier) -> int:
        """By what a part's sums are multiplied, at 2^SHARE: 1 / batch, and less where its norm exceeds the limit."""
        mean = mean_share(self.plan)
        if self.plan.config.clip is None:
            return mean
        assert self.sums is not None
        bits = {name: unit_bits(self.held.exponents, name) for name in map(part.name, part.parameters)}
        coarsest = min(bits.values())
        largest = max(int(np.abs(shifted(self.sums[name], own - coarsest)).max()) for name, own in bits.items())
        down = excess(largest, NORM_BITS)
        squares = [int((shifted(self.sums[name], own - coarsest + down) ** 2).sum()) for name, own in bits.items()]
        norm = root(sum(squares))
        limit = int(shifted(self.whole_rate * clip_limit(self.plan), 32 - coarsest + down))
        return mean if norm <= limit else int(divided(limit << SHARE, norm * self.plan.batch))
