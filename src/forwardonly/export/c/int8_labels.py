"""The label classifier of ff in whole numbers: what `Int8Learner` learns and draws wrong labels from.

Its logits are sums over the blocks that it reads, at 2^LOGIT; its gradient is that of the rule projection. A wrong
label is drawn by a random number of 24 bits from the softmax without the right class, whose chances are at least
1 / 32768 of the largest.

Shapes: C classes, D outputs of a block.
"""

from collections.abc import Sequence

import numpy as np

from forwardonly.export.c.int8_arithmetic import ONE, Array, exponential, shifted, surprise
from forwardonly.export.c.int8_update import Int8Update
from forwardonly.export.c.plan import LabelClassifier

LOGIT = 12
"""The bits behind the point of a logit."""


class Int8Labels:
    """The label classifier, whose weights `update` moves."""

    def __init__(self, classifier: LabelClassifier, update: Int8Update):
        self.classifier, self.update, self.held = classifier, update, update.held

    def part(self, index: int, output: Array) -> tuple[Array, int]:
        """One map's share of the logits, from the output (D,) of its block, and the bits behind the point."""
        return self.held.linear(self.classifier.name(f"maps.{index}"), output)

    def logits(self, outputs: Sequence[Array]) -> Array:
        """The logits (C,) at 2^LOGIT, from the outputs (D,) of the blocks that it reads."""
        parts = [self.part(index, output) for index, output in enumerate(outputs)]
        return np.sum([shifted(sums, bits - LOGIT) for sums, bits in parts], axis=0)

    def learn(self, outputs: Sequence[Array], label: int) -> None:
        """A step down the gradient of the cross-entropy."""
        errors, up = surprise(self.logits(outputs) * 64, LOGIT, label)
        for index, output in enumerate(outputs):
            self.update.linear(self.classifier.name(f"maps.{index}"), output, errors, up)

    def draw(self, outputs: Sequence[Array], label: int, number: int) -> int:
        """The wrong label that a random number of 32 bits draws."""
        logits = self.logits(outputs) * 64
        chances = [max(1, exponential(t)) for t in ((int(logits.max()) - logits) >> LOGIT).tolist()]
        chances[label] = 0
        left, wrong = (number >> 8) * sum(chances) >> 24, label
        for c, chance in enumerate(chances):
            if c != label and left >= 0:
                wrong, left = c, left - chance
        return wrong


def label_signal(value: float) -> int:
    """What a label writes into a feature, as a signal."""
    return min(127, round(value * 2**ONE))
