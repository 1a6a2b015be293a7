"""The rules in whole numbers: scores, and the gradient of an activation by its block's own loss.

Shapes: K channels, H x W space, C classes, D features.
"""

from typing import NamedTuple

import numpy as np

from forwardonly import rules
from forwardonly.export.c.int8_arithmetic import (
    CHANCE,
    COSINE,
    ONE,
    Array,
    divided,
    fitted,
    raised,
    root,
    shifted,
    sigmoid,
    surprise,
)
from forwardonly.export.c.int8_maps import windowed
from forwardonly.export.c.int8_update import Int8Update
from forwardonly.export.c.plan import BlockPlan


class Judged(NamedTuple):
    """The gradient of an activation by its block's own loss, the bits behind its point, and the rate at 2^24."""

    gradient: Array
    bits: int
    rate: int


class Int8Rules:
    """Judges activations (K, H, W) or (D,) of a network of some classes, whose weights `update` moves."""

    def __init__(self, classes: int, update: Int8Update):
        self.classes, self.update, self.held = classes, update, update.held

    def features(self, block: BlockPlan, activation: Array) -> Array:
        """The means of the windows that the read-out sees, (D,)."""
        maps = activation.reshape(block.outgoing)
        sums, sizes = windowed(block, maps), windowed(block, np.ones_like(maps))
        return divided(sums, sizes).reshape(-1)

    def scores(self, block: BlockPlan, activation: Array) -> tuple[Array, int]:
        """The class scores (under ff the goodness), and the bits behind their point."""
        rule = block.rule
        if isinstance(rule, rules.ForwardForward):
            size = activation.size if rule.reduction == "mean" else 1
            return divided([int((activation**2).sum()) << 8], size), 16
        if isinstance(rule, rules.ChannelStatic):
            groups, counts = self.groups(block)
            values = activation**2 if rule.goodness == "squared" else activation << ONE
            sums = values.reshape(len(groups), -1).sum(1)
            return divided(np.bincount(groups, sums).astype(np.int64) << 4, counts), 12
        features = self.features(block, activation)
        if isinstance(rule, rules.Hyperspherical):
            return self._cosines(block, features)[0], COSINE
        return self.held.linear(block.name("rule.classifier"), features)

    def groups(self, block: BlockPlan) -> tuple[Array, Array]:
        """The class of each channel, and how many values each class has."""
        channels, classes = block.outgoing.channels, self.classes
        groups = np.arange(channels) * classes // channels
        return groups, np.bincount(groups) * block.outgoing.pixels

    def _cosines(self, block: BlockPlan, features: Array) -> tuple[Array, Array, Array, Array, int]:
        """Cosines (C,), unit features (D,), unit prototypes (C, D), 16 times the lengths of both; all but the last two
        at 2^COSINE."""
        prototypes = self.held.weights[block.name("rule.prototypes")].reshape(self.classes, -1)
        length = max(1, root(256 * int((features**2).sum())))
        lengths = np.array([max(1, root(256 * int((own**2).sum()))) for own in prototypes])
        unit = shifted(features * ((1 << (COSINE + 12)) // length), 8)
        units = shifted(prototypes * ((1 << (COSINE + 12)) // lengths)[:, None], 8)
        cosines = divided((prototypes @ features) << (COSINE + 8), length * lengths)
        return cosines, unit, units, lengths, length

    def judge(self, block: BlockPlan, activation: Array, label: int) -> Judged:
        """The gradient of one activation; the rule's own weights take their step.

        Under ff the label says whether the stream is the positive one.
        """
        rule = block.rule
        scores, bits = self.scores(block, activation)
        rate = self.update.whole_rate
        if isinstance(rule, rules.ForwardForward):
            over = int(scores[0]) - round(rule.threshold * 2**bits)
            chance = sigmoid((-over if label else over) * round(rule.sharpness * 64), bits)
            errors, up = raised(np.array([-chance if label else chance]))
            size = activation.size if rule.reduction == "mean" else 1
            return Judged(divided((errors[0] * activation) << 8, size), CHANCE + up + ONE - 1 + 8, rate << 8)
        if isinstance(rule, rules.ChannelStatic):
            groups, counts = self.groups(block)
            sharpness = round(rule.scale * 64)
            errors, up = surprise(scores * sharpness, bits, label)
            each = divided(errors[groups] << 8, counts[groups])
            gradient, bits = each.repeat(block.outgoing.pixels).reshape(activation.shape), CHANCE + up + 8
            if rule.goodness == "squared":
                gradient, bits = gradient * activation, bits + ONE - 1
            return Judged(gradient, bits, int(shifted(rate * sharpness, 6)) << 8)
        features = self.features(block, activation)
        if isinstance(rule, rules.Hyperspherical):
            name = block.name("rule.prototypes")
            cosines, unit, units, lengths, length = self._cosines(block, features)
            sharpness = round(rule.scale * 64)
            handicapped = cosines.copy()
            handicapped[label] -= round(rule.margin * 2**COSINE)
            errors, up = surprise(handicapped * sharpness, COSINE, label)
            rate = int(shifted(rate * sharpness, 6))
            gradient = errors @ units - shifted((errors * cosines).sum() * unit, COSINE)  # of 2^(28 + up) / length
            bits = CHANCE + up + COSINE
            own = divided((rate * errors) << 8, lengths)  # lengths are 16 times too long
            turn = unit[None] - shifted(cosines[:, None] * units, COSINE)
            self.update.step(name, own[:, None] * turn, bits + 16 + 8 - 4 - 2 * self.held.exponents[name] - 8)
            rate = int(divided(rate << 16, length))  # the length is 16 times that of features of 2^ONE
        else:
            name = block.name("rule.classifier.weight")
            errors, up = surprise(scores * 64, bits, label)
            gradient, bits = self.held.weights[name].T @ errors, self.held.exponents[name] + CHANCE + up
            self.update.linear(block.name("rule.classifier"), features, errors, up)
            rate <<= 8
        return Judged(*self._to_activation(block, gradient, bits), rate)

    def _to_activation(self, block: BlockPlan, gradient: Array, bits: int) -> tuple[Array, int]:
        """From the gradient of features that of the activation: each pixel of a window has an equal share."""
        if not block.pooled:
            return gradient.reshape(block.outgoing), bits
        gradient, bits = fitted(gradient, bits)
        high, wide = block.windows
        rows, columns = -(-block.read.height // high), -(-block.read.width // wide)
        means = gradient.reshape(block.read.channels, rows, columns)
        spread = means.repeat(high, 1).repeat(wide, 2)[:, : block.read.height, : block.read.width]
        sizes = windowed(block, np.ones(block.outgoing, np.int64)).repeat(high, 1).repeat(wide, 2)
        sizes = sizes[:, : block.read.height, : block.read.width]
        return divided(spread << 8, sizes), bits + 8


def score_factor(block: BlockPlan) -> float:
    """By what a block's scores as whole numbers are multiplied, besides their scale."""
    return block.rule.scale if isinstance(block.rule, rules.ChannelStatic) else 1.0
