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
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from forwardonly import rules
from forwardonly.export.c.int8_arithmetic import (
    CHANCE,
    COSINE,
    LARGEST_FAN_IN,
    LARGEST_MAP,
    ONE,
    Array,
    clamped,
    divided,
    fitted,
    raised,
    root,
    shifted,
    sigmoid,
    standardised,
    surprise,
    unit_rms,
)
from forwardonly.export.c.int8_maps import backward, convolved, correlated, pooled, unpooled, windowed
from forwardonly.export.c.plan import BlockPlan, Plan
from forwardonly.export.c.text import SEED


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
        self.draws = xorshift32(SEED)
        prepare = plan.network.prepare
        self.mean, self.std = (each.flatten().numpy().astype(np.float32) for each in (prepare.mean, prepare.std))

    def learn(self, example: Array, label: int) -> None:
        """One step of every block on an example (K, H, W) with its label.

        Under ff there are two steps: the positive stream learns on its way through the network, then the negative one.
        """
        if not self.plan.contrastive:
            self._learn(self.signal(example), label)
            return
        classes = self.plan.network.classes
        wrong = (label + 1 + next(self.draws) % (classes - 1)) % classes
        self._learn(self.labelled(example, label), 1)
        self._learn(self.labelled(example, wrong), 0)

    def _learn(self, signal: Array, label: int) -> None:
        for block in self.plan.blocks:
            kept = self._forward(block, signal)
            self._backward(block, kept, *self._judge(block, kept[-1][1], int(label)))
            signal = self._pass(block, kept[-1][1])

    def scores(self, example: Array) -> Array:
        """The class scores (C,) in float32."""
        total = np.zeros(self.plan.network.classes, np.float32)
        if not self.plan.contrastive:
            self._add_scores(total, self.signal(example))
            return total
        for label in range(len(total)):
            self._add_scores(total[label : label + 1], self.labelled(example, label))
        return total

    def _add_scores(self, total: Array, signal: Array) -> None:
        for block, weight in zip(self.plan.blocks, self.plan.network.readout.weights.tolist(), strict=True):
            activation = self._forward(block, signal)[-1][1]
            scores, bits = self._scores(block, activation)
            total += scores.astype(np.float32) * np.float32(weight * score_factor(block) * 2.0**-bits)
            signal = self._pass(block, activation)

    def labelled(self, example: Array, label: int) -> Array:
        """An example of bytes as int8, with a label in its first features."""
        rule = self.plan.network.rule
        assert isinstance(rule, rules.ForwardForward)
        flat = (unit_rms(np.asarray(example, np.int64)) if rule.normalise_input else self.signal(example)).reshape(-1)
        high = self.plan.network.prepare.high if rule.label_value is None else rule.label_value
        flat[: self.plan.network.classes] = 0
        flat[label] = min(127, round(high * 2**ONE))
        return flat.reshape(self.plan.network.shape)

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

    def _scores(self, block: BlockPlan, activation: Array) -> tuple[Array, int]:
        """The class scores (under ff the goodness), and the bits behind their point."""
        rule = block.rule
        if isinstance(rule, rules.ForwardForward):
            size = activation.size if rule.reduction == "mean" else 1
            return divided([int((activation**2).sum()) << 8], size), 16
        if isinstance(rule, rules.ChannelStatic):
            groups, counts = self._groups(block)
            values = activation**2 if rule.goodness == "squared" else activation << ONE
            sums = values.reshape(len(groups), -1).sum(1)
            return divided(np.bincount(groups, sums).astype(np.int64) << 4, counts), 12
        features = self._features(block, activation)
        if isinstance(rule, rules.Hyperspherical):
            return self._cosines(block, features)[0], COSINE
        weight = self._name(block, "rule.classifier.weight")
        bias = shifted(self.weights[self._name(block, "rule.classifier.bias")], 8)
        return self.weights[weight] @ features + bias, self.exponents[weight] + ONE

    def _groups(self, block: BlockPlan) -> tuple[Array, Array]:
        """The class of each channel, and how many values each class has."""
        channels, classes = block.outgoing.channels, self.plan.network.classes
        groups = np.arange(channels) * classes // channels
        return groups, np.bincount(groups) * block.outgoing.pixels

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

    def _judge(self, block: BlockPlan, activation: Array, label: int) -> tuple[Array, int, int]:
        """The gradient of the activation by the block's own loss, the bits behind its point, and the rate at 2^24.

        The rule's own weights take their step. Under ff the label says whether the stream is the positive one.
        """
        rule = block.rule
        scores, bits = self._scores(block, activation)
        rate = int(np.float32(self.rate) * np.float32(65536) + np.float32(0.5))  # at 2^16
        if isinstance(rule, rules.ForwardForward):
            over = int(scores[0]) - round(rule.threshold * 2**bits)
            chance = sigmoid((-over if label else over) * round(rule.sharpness * 64), bits)
            errors, up = raised(np.array([-chance if label else chance]))
            size = activation.size if rule.reduction == "mean" else 1
            return divided((errors[0] * activation) << 8, size), CHANCE + up + ONE - 1 + 8, rate << 8
        if isinstance(rule, rules.ChannelStatic):
            groups, counts = self._groups(block)
            sharpness = round(rule.scale * 64)
            errors, up = surprise(scores * sharpness, bits, label)
            each = divided(errors[groups] << 8, counts[groups])
            gradient, bits = each.repeat(block.outgoing.pixels).reshape(activation.shape), CHANCE + up + 8
            if rule.goodness == "squared":
                gradient, bits = gradient * activation, bits + ONE - 1
            return gradient, bits, int(shifted(rate * sharpness, 6)) << 8
        features = self._features(block, activation)
        if isinstance(rule, rules.Hyperspherical):
            name = self._name(block, "rule.prototypes")
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
            self._move(name, shifted(own[:, None] * turn, bits + 16 + 8 - 4 - 2 * self.exponents[name] - 8))
            rate = int(divided(rate << 16, length))  # the length is 16 times that of features of 2^ONE
        else:
            name, bias = (self._name(block, f"rule.classifier.{which}") for which in ("weight", "bias"))
            e = self.exponents[name]
            errors, up = surprise(scores * 64, bits, label)
            gradient, bits = self.weights[name].T @ errors, e + CHANCE + up
            self._move(name, shifted(rate * errors[:, None] * features[None], 16 + CHANCE + up + ONE - e - 8))
            self.weights[bias] = self.weights[bias] - shifted(rate * errors, 16 + CHANCE + up - e - ONE - 8)
            rate <<= 8
        return *self._to_activation(block, gradient, bits), rate

    def _backward(
        self,
        block: BlockPlan,
        kept: list[tuple[Array, Array, Array | None]],
        gradient: Array,
        bits: int,
        rate: int,
    ) -> None:
        """The step of the body's weights, from the gradient of the activation."""
        for index in reversed(range(len(block.stages))):
            stage, (given, out, places) = block.stages[index], kept[index]
            if stage.relu:
                gradient = np.where(out.reshape(gradient.shape) > 0, gradient, 0)
            gradient, bits = fitted(gradient, bits)
            weight = self._name(block, f"{stage.path}.weight")
            e = self.exponents[weight]
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
            return unit_rms(activation)
        if block.passes == "group_norm":
            groups = self._groups(block)[0]
            parts = [activation[groups == group] for group in range(self.plan.network.classes)]
            return np.concatenate([standardised(part.reshape(-1)).reshape(part.shape) for part in parts])
        if block.passes == "instance_norm":
            together = activation.reshape(block.outgoing.channels, -1)
            if together.shape[1] == 1:
                together = together.reshape(1, -1)
            return np.stack([standardised(values) for values in together]).reshape(activation.shape)
        return activation


def score_factor(block: BlockPlan) -> float:
    """By what a block's scores as whole numbers are multiplied, besides their scale."""
    return block.rule.scale if isinstance(block.rule, rules.ChannelStatic) else 1.0


def xorshift32(state: int) -> Iterator[int]:
    """The random numbers of the C file: Marsaglia 2003, "Xorshift RNGs", the triple 13, 17, 5."""
    while True:
        state ^= (state << 13) & 0xFFFFFFFF
        state ^= state >> 17
        state ^= (state << 5) & 0xFFFFFFFF
        yield state


def check(plan: Plan) -> None:
    """Raises ValueError unless a plan's network can learn in int8, with all that stands in the way and what can."""
    if reasons := list(dict.fromkeys(_reasons(plan))):
        raise ValueError(f"A training step in int8 cannot hold {'; '.join(reasons)}.")


def _reasons(plan: Plan) -> Iterator[str]:
    """What a plan has that int8 has not, and what to choose instead; first what takes another run."""
    rule, config = plan.network.rule, plan.config
    stages = [(block, stage) for block in plan.blocks for stage in block.stages]
    if any(stage.norm for _, stage in stages):
        yield "batch norm (train the body mlp, conv or separable)"
    elif any(stage.standardise for _, stage in stages):
        yield "norms under backprop (train another rule)"
    if isinstance(rule, rules.Hyperspherical):
        if rule.prototypes_per_class != 1:
            yield "several prototypes a class (train with prototypes_per_class 1)"
        if plan.blocks[0].head is not None:
            yield "an auxiliary convolution (train with aux_channels 0)"
    if plan.contrastive and (plan.features or rule.objective != "threshold" or rule.size != "rms"):
        yield "ff but on images, with objective threshold and size rms (train with these)"
    if getattr(rule, "label_smoothing", 0.0):
        yield "label smoothing (train with label_smoothing 0)"
    if plan.batch != 1 or plan.momentum or config.weight_decay or config.clip is not None:
        yield "more than one example a step by plain sgd (choose batch_size 1, momentum 0, weight_decay 0 and no clip)"
    for block, stage in stages:
        taps = 1 if stage.convolution is None else math.prod(stage.convolution.kernel_size)
        back = 0 if stage is block.stages[0] else stage.outgoing.channels * taps
        if max(stage.fan_in, stage.outgoing.size) > LARGEST_FAN_IN or max(stage.incoming.pixels, back) > LARGEST_MAP:
            yield (
                f"sums of more than {LARGEST_FAN_IN} values forwards or {LARGEST_MAP} backwards, as in block "
                f"{block.index + 1} (choose fewer channels or smaller inputs)"
            )
