"""Learning in whole numbers: the definition of an int8 training step, which the C file computes bit for bit.

A signal or an activation is an int8 of value / 16. A weight is an int8 of value / 2^e, with a fixed e for each tensor,
chosen so that the largest weight is at most 64 at the start; beside it stands an int8 error, a 256th as large. Products
are summed in int32. A gradient is an int32 of at most 11 bits, whose exponent is shared by a block (block floating
point).

**Error feedback.** An update is rounded to 256ths of a weight's unit and added to its error; what then exceeds half a
unit moves the weight, and the rest stays in the error. So small updates add up, and nothing is drawn at random. After
Seide et al. 2014 ("1-Bit Stochastic Gradient Descent"), who feed a gradient's rounding error back into the next one.
Biases are int32 of value / 2^(e+12). The block floating point of gradients is that of NITI, Wang et al. 2020, arXiv
2009.13108. Ours: the scales, the table of exponentials, and the rules' gradients below.

All divisions and right shifts round to the nearest, halves up. One example is one step of plain SGD.

Shapes: K channels, H x W space, C classes, D features.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from forwardonly import rules
from forwardonly.export.c.int8_maps import backward, convolved, correlated, pooled, unpooled, windowed
from forwardonly.export.c.plan import BlockPlan, Plan

Array = np.ndarray
ONE = 4
"""A signal of 1.0 is 2^ONE."""
COSINE = 13
"""A cosine of 1.0 is 2^COSINE."""
CHANCE = 15
"""A probability of 1.0 is 2^CHANCE."""
BITS = 11
"""Bits of a gradient."""
LARGEST_MAP = 1 << 13
"""Products with a gradient whose sum fits into an int32: 11 + 7 + 13 bits."""
LARGEST_FAN_IN = 1 << 17
"""Products of weights and signals whose sum fits into an int32: 7 + 7 + 17 bits."""

RULES = ("hyperspherical", "projection", "backprop")
"""Rules whose gradient is defined here."""

WHOLE = [round(2**CHANCE * math.exp(-i)) for i in range(16)]
PART = [round(2**CHANCE * math.exp(-i / 64)) for i in range(64)]
"""exp(-t / 64) is WHOLE[t // 64] PART[t % 64], both of 2^CHANCE."""


def shifted(values: ArrayLike, bits: int) -> Array:
    """values / 2^bits."""
    values = np.asarray(values, np.int64)
    if bits > 62:
        return np.zeros_like(values)
    return (values + (1 << (bits - 1))) >> bits if bits > 0 else values * (1 << -bits)


def divided(values: ArrayLike, by: ArrayLike) -> Array:
    """values / by, for by > 0."""
    by = np.asarray(by, np.int64)
    return (2 * np.asarray(values, np.int64) + by) // (2 * by)


def clamped(values: Array) -> Array:
    """Values as an int8 holds them, from -127 to 127."""
    return np.clip(values, -127, 127)


def root(value: int) -> int:
    """The whole part of a square root."""
    return math.isqrt(int(value))


class Quantised(NamedTuple):
    """A network's weights as whole numbers, by their names in the state dict."""

    weights: dict[str, Array]
    """int8 weights, and int32 biases."""
    errors: dict[str, Array]
    """The int8 errors of weights."""
    exponents: dict[str, int]
    """e of each weight; a bias has that of its layer's weight."""


def is_bias(name: str) -> bool:
    """Whether a parameter is a bias, which is held in 32 bits."""
    return name.endswith(".bias")


def quantise(plan: Plan) -> Quantised:
    """The weights of a plan's network as whole numbers."""
    state = plan.network.state_dict()
    weights: dict[str, Array] = {}
    errors: dict[str, Array] = {}
    exponents: dict[str, int] = {}
    for block in plan.blocks:
        for path in sorted(block.parameters, key=is_bias):  # a bias needs its weight's exponent
            name = f"blocks.{block.index}.{path}"
            values = state[name].detach().cpu().double().numpy()
            if is_bias(name):
                exponents[name] = exponents[name.removesuffix(".bias") + ".weight"]
                weights[name] = np.floor(values * 2.0 ** (exponents[name] + ONE + 8) + 0.5).astype(np.int64)
                continue
            largest = float(np.abs(values).max())
            exponents[name] = min(14, max(0, math.floor(math.log2(64 / largest)))) if largest else 7
            fine = np.floor(values * 2.0 ** (exponents[name] + 8) + 0.5).astype(np.int64)
            weights[name] = clamped((fine + 128) >> 8)
            errors[name] = np.clip(fine - 256 * weights[name], -128, 127)
    return Quantised(weights, errors, exponents)


class Int8Learner:
    """The reference: learns and predicts as the C file does, one example at a time.

    Args:
        plan: of a network that `check` admits; its weights are quantised and not changed.
    """

    def __init__(self, plan: Plan):
        check(plan)
        self.plan = plan
        self.weights, self.errors, self.exponents = quantise(plan)
        self.rate = plan.config.learning_rate
        prepare = plan.network.prepare
        self.mean, self.std = (each.flatten().numpy().astype(np.float32) for each in (prepare.mean, prepare.std))

    def learn(self, example: Array, label: int) -> None:
        """One step of every block on an example (K, H, W) with its label."""
        signal = self.signal(example)
        for block in self.plan.blocks:
            kept = self._forward(block, signal)
            self._update(block, kept, int(label))
            signal = self._pass(block, kept[-1][1])

    def scores(self, example: Array) -> Array:
        """The class scores (C,) in float32."""
        signal, total = self.signal(example), np.zeros(self.plan.network.classes, np.float32)
        for block, weight in zip(self.plan.blocks, self.plan.network.readout.weights.numpy(), strict=True):
            activation = self._forward(block, signal)[-1][1]
            scores, bits = self._scores(block, self._features(block, activation))
            total += np.float32(weight) * (scores.astype(np.float32) * np.float32(2.0**-bits))
            signal = self._pass(block, activation)
        return total

    def signal(self, example: Array) -> Array:
        """An example as int8, (K, H, W)."""
        values = np.asarray(example, np.float32)
        if not self.plan.features:
            values = values / np.float32(255)
        shape = (-1, 1, 1)
        values = (values - self.mean.reshape(shape)) / self.std.reshape(shape)
        return np.clip(np.floor(values * np.float32(2**ONE) + np.float32(0.5)), -127, 127).astype(np.int64)

    # A block

    def _name(self, block: BlockPlan, path: str) -> str:
        return f"blocks.{block.index}.{path}"

    def _forward(self, block: BlockPlan, signal: Array) -> list[tuple[Array, Array, Array | None]]:
        """Of each stage its input, its output and the places of maxima; the last output is the activation."""
        kept: list[tuple[Array, Array, Array | None]] = []
        for stage in block.stages:
            name = self._name(block, f"{stage.path}.weight")
            places = None
            if stage.convolution is None:
                signal = signal.reshape(-1)
                sums = self.weights[name] @ signal
            else:
                sums, places = pooled(stage, convolved(stage, self.weights[name], signal))
            if stage.bias:
                bias = shifted(self.weights[self._name(block, f"{stage.path}.bias")], 8)
                sums = sums + bias.reshape(-1, *[1] * (sums.ndim - 1))
            out = clamped(shifted(sums, self.exponents[name]))
            if stage.relu:
                out = np.maximum(out, 0)
            kept.append((signal, out, places))
            signal = out
        return kept

    def _features(self, block: BlockPlan, activation: Array) -> Array:
        """The means of the windows that the read-out sees, (D,)."""
        maps = activation.reshape(block.outgoing)
        sums, sizes = windowed(block, maps), windowed(block, np.ones_like(maps))
        return divided(sums, sizes).reshape(-1)

    def _scores(self, block: BlockPlan, features: Array) -> tuple[Array, int]:
        """The class scores, and the bits behind their point."""
        if isinstance(block.rule, rules.Hyperspherical):
            return self._cosines(block, features)[0], COSINE
        weight = self._name(block, "rule.classifier.weight")
        bias = shifted(self.weights[self._name(block, "rule.classifier.bias")], 8)
        return self.weights[weight] @ features + bias, self.exponents[weight] + ONE

    def _cosines(self, block: BlockPlan, features: Array) -> tuple[Array, Array, Array, Array, int]:
        """Cosines (C,), unit features (D,), unit prototypes (C, D), 16 times the lengths of both; all but the last two
        at 2^COSINE."""
        prototypes = self.weights[self._name(block, "rule.prototypes")].reshape(self.plan.network.classes, -1)
        length = max(1, root(256 * int((features**2).sum())))
        lengths = np.array([max(1, root(256 * int((own**2).sum()))) for own in prototypes])
        unit = shifted(features * ((1 << (COSINE + 12)) // length), 8)
        units = shifted(prototypes * ((1 << (COSINE + 12)) // lengths)[:, None], 8)
        cosines = divided((prototypes @ features) << (COSINE + 8), length * lengths)
        return cosines, unit, units, lengths, length

    def _update(self, block: BlockPlan, kept: list[tuple[Array, Array, Array | None]], label: int) -> None:
        """The gradient of the block's own loss, and the step down it."""
        rule, activation = block.rule, kept[-1][1]
        features = self._features(block, activation)
        rate = int(np.float32(self.rate) * np.float32(65536) + np.float32(0.5))  # at 2^16
        if isinstance(rule, rules.Hyperspherical):
            name, e = self._name(block, "rule.prototypes"), self.exponents[self._name(block, "rule.prototypes")]
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
            self._move(name, shifted(own[:, None] * turn, bits + 16 + 8 - 4 - 2 * e - 8))
            rate = int(divided(rate << 16, length))  # at 2^24; the length is 16 times that of features of 2^ONE
        else:
            name, bias = (self._name(block, f"rule.classifier.{which}") for which in ("weight", "bias"))
            e = self.exponents[name]
            scores, bits = self._scores(block, features)
            errors, up = surprise(scores * 64, bits, label)
            gradient, bits = self.weights[name].T @ errors, e + CHANCE + up
            self._move(name, shifted(rate * errors[:, None] * features[None], 16 + CHANCE + up + ONE - e - 8))
            self.weights[bias] = self.weights[bias] - shifted(rate * errors, 16 + CHANCE + up - e - ONE - 8)
            rate <<= 8
        gradient, bits = self._to_activation(block, gradient, bits)
        for index in reversed(range(len(block.stages))):
            stage, (given, out, places) = block.stages[index], kept[index]
            if stage.relu:
                gradient = np.where(out.reshape(gradient.shape) > 0, gradient, 0)
            gradient, bits = fitted(gradient, bits)
            weight, e = (
                self._name(block, f"{stage.path}.weight"),
                self.exponents[self._name(block, f"{stage.path}.weight")],
            )
            gradient = gradient.reshape(stage.outgoing)
            spread = gradient if places is None else unpooled(stage, gradient, places)
            back = backward(stage, self.weights[weight], spread) if index else gradient
            sums = correlated(stage, given, spread)
            self._move(weight, shifted(rate * sums, 24 + bits + ONE - e - 8))
            if stage.bias:
                own = gradient.reshape(stage.outgoing.channels, -1).sum(1)
                bias = self._name(block, f"{stage.path}.bias")
                self.weights[bias] = self.weights[bias] - shifted(rate * own, 24 + bits - e - ONE - 8)
            gradient, bits = back, bits + e

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

    def _move(self, name: str, step: Array) -> None:
        """Takes a step, in 256ths of a unit, off a weight: error feedback."""
        fine = self.errors[name].reshape(step.shape) - step
        whole = (fine + 128) >> 8
        moved = clamped(self.weights[name].reshape(step.shape) + whole)
        shape = self.weights[name].shape
        self.errors[name] = (fine - 256 * whole).reshape(shape)
        self.weights[name] = moved.reshape(shape)

    def _pass(self, block: BlockPlan, activation: Array) -> Array:
        """The next block's signal."""
        if block.passes == "unit_rms":
            squares = int((activation**2).sum())
            if squares == 0:
                return activation
            size = activation.size
            factor = int(divided(size << (ONE + 16), root((squares * size) << 8)))  # 2^(ONE + 12) / rms
            return clamped(shifted(activation * factor, 12))
        if block.passes == "instance_norm":
            together = activation.reshape(block.outgoing.channels, -1)
            if together.shape[1] == 1:
                together = together.reshape(1, -1)
            return np.stack([standardised(values) for values in together]).reshape(activation.shape)
        return activation


def standardised(values: Array) -> Array:
    """Values with mean 0 and deviation 1."""
    count, total = values.size, int(values.sum())
    spread = count * int((values**2).sum()) - total**2  # count^2 times the variance
    factor = (1 << (ONE + 16)) // max(1, root(spread))
    return clamped(shifted((values * count - total) * factor, 16))


def surprise(scores: Array, bits: int, label: int) -> tuple[Array, int]:
    """softmax - one-hot of scores, 64 times too large, of `bits` behind the point; and by how many bits it is larger
    than at 2^CHANCE, so that its largest value has at least 14.
    """
    below = (int(scores.max()) - scores) >> bits
    powers = np.array([0 if t >= 1024 else WHOLE[t >> 6] * PART[t & 63] >> CHANCE for t in below.tolist()], np.int64)
    errors = (powers << CHANCE) // int(powers.sum())
    errors[label] -= 1 << CHANCE
    up, largest = 0, int(np.abs(errors).max())
    while 0 < largest < 1 << (CHANCE - 1):
        largest, up = largest * 2, up + 1
    return errors << up, up


def fitted(gradient: Array, bits: int) -> tuple[Array, int]:
    """A gradient whose largest value has BITS bits, and the bits behind its point."""
    largest, down = int(np.abs(gradient).max()), 0
    while largest >= 1 << BITS:
        largest, down = largest >> 1, down + 1
    while 0 < largest < 1 << (BITS - 1):
        largest, down = largest << 1, down - 1
    return shifted(gradient, down), bits - down


def check(plan: Plan) -> None:
    """Raises ValueError unless a plan's network can learn in int8, with what can."""
    if plan.rule_name not in RULES:
        raise ValueError(
            f"int8 is not defined for the rule {plan.rule_name!r}: choose {' or '.join(RULES[:2])}, or float32."
        )
    rule = plan.network.rule
    if isinstance(rule, rules.Hyperspherical) and (rule.prototypes_per_class != 1 or plan.blocks[0].head is not None):
        raise ValueError("int8 holds hyperspherical with one prototype a class and aux_channels 0.")
    if getattr(rule, "label_smoothing", 0.0):
        raise ValueError("int8 holds no label smoothing: train without it.")
    config = plan.config
    if plan.batch != 1 or plan.momentum or config.weight_decay or config.clip is not None:
        raise ValueError(
            "int8 learns one example a step by plain sgd: choose batch_size 1, momentum 0, weight_decay 0 and no clip."
        )
    for block in plan.blocks:
        for stage in block.stages:
            if stage.norm or stage.standardise:
                which = "batch norm: choose the body mlp, conv or separable" if stage.norm else "norm under backprop"
                raise ValueError(f"int8 holds no {which}.")
            taps = 1 if stage.convolution is None else math.prod(stage.convolution.kernel_size)
            back = 0 if stage is block.stages[0] else stage.outgoing.channels * taps
            if (
                max(stage.fan_in, stage.outgoing.size) > LARGEST_FAN_IN
                or max(stage.incoming.pixels, back) > LARGEST_MAP
            ):
                raise ValueError(
                    f"int8 sums at most {LARGEST_FAN_IN} values forwards and {LARGEST_MAP} backwards; block "
                    f"{block.index + 1} has more."
                )
