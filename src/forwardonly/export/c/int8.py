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

**Batches.** One example a step is plain SGD at once. A batch adds its examples' steps up in an int32 for each weight
and then takes their mean as one step; clipping does so too, even with one example a step (`int8_update.py`).

**Batch norm** standardises by the statistics of the batch, which goes through each block together, as in floats; it
predicts by running statistics (`int8_norms.py`). Its scale is an int8 weight, its shift a bias. The gradients of the
examples are brought to one exponent, and the rate is multiplied into them, because their rates differ.

The label classifier of ff is defined in `int8_labels.py`, the rules in `int8_rules.py`.

All divisions and right shifts round to the nearest, halves up, but where a factor is made that others are multiplied
by.

Shapes: R examples that go through a block together, K channels, H x W space, P pixels, C classes, D features.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from forwardonly import rules
from forwardonly.export.c import int8_norms
from forwardonly.export.c.int8_arithmetic import (
    BITS,
    ONE,
    Array,
    clamped,
    fitted,
    shifted,
    standardised,
    unit_rms,
)
from forwardonly.export.c.int8_labels import Int8Labels, label_signal
from forwardonly.export.c.int8_limits import check
from forwardonly.export.c.int8_maps import backward, convolved, correlated, pooled, unpooled
from forwardonly.export.c.int8_rules import Int8Rules, Judged, score_factor
from forwardonly.export.c.int8_update import Int8Update
from forwardonly.export.c.int8_weights import exponent_before, least, quantise
from forwardonly.export.c.labels import by_softmax, neutral_value
from forwardonly.export.c.plan import BlockPlan, Plan, Stage
from forwardonly.export.c.text import SEED

NOTHING = 127
"""The bits behind the point of a gradient of zeros, which is not to decide over the exponent that all share."""


class Kept(NamedTuple):
    """What a stage's forward pass leaves for its backward pass: of each of R examples its input, its output, the places
    of its maxima; and what a batch norm leaves.
    """

    given: list[Array]
    out: list[Array]
    places: list[Array | None]
    standard: Array | None = None
    """Standardised values (R, K, P)."""
    deviation: Array | None = None
    """(K,)"""


class Int8Learner:
    """The reference: learns and predicts as the C file does, one example at a time.

    Args:
        plan: of a network that `check` admits; its weights are quantised and not changed.
    """

    def __init__(self, plan: Plan):
        check(plan)
        self.plan = plan
        self.held = quantise(plan)
        self.update = Int8Update(plan, self.held)
        self.rules = Int8Rules(plan.network.classes, self.update)
        self.labels = Int8Labels(plan.label_classifier, self.update) if plan.label_classifier else None
        self.draws = xorshift32(SEED)
        self.waiting: list[tuple[Array, int]] = []
        self.seen = 0
        prepare = plan.network.prepare
        self.mean, self.std = (each.flatten().numpy().astype(np.float32) for each in (prepare.mean, prepare.std))

    def learn(self, example: Array, label: int) -> None:
        """Learns an example (K, H, W) with its label; where batch norm compares a batch, once that is complete.

        Under ff without batch norm the positive stream learns on its way through the network, then the negative one.
        """
        plan = self.plan
        self.waiting.append((example, int(label)))
        if len(self.waiting) < plan.group:
            return
        waiting, self.waiting = self.waiting, []
        if not plan.contrastive:
            self._learn([self.signal(each) for each, _ in waiting], [own for _, own in waiting])
        else:
            streams = self._streams(waiting)
            for start in range(0, len(streams), plan.rows):
                some = streams[start : start + plan.rows]
                self._learn([signal for signal, _ in some], [positive for _, positive in some])
        self.seen += plan.group
        if self.seen == plan.batch:
            self.update.finish(self.plan.blocks if self.plan.batch == self.plan.group else self.plan.parts)
            self.seen = 0

    def _streams(self, waiting: Sequence[tuple[Array, int]]) -> list[tuple[Array, int]]:
        """The examples with their labels, marked by 1, then with wrong ones, marked by 0."""
        streams = [(self.labelled(*each), 1) for each in waiting]
        outputs = self._learn_labels(waiting)
        for row, (example, label) in enumerate(waiting):
            streams.append((self.labelled(example, self._wrong(label, outputs[row] if outputs else [])), 0))
        return streams

    def _wrong(self, label: int, outputs: list[Array]) -> int:
        """A wrong label, drawn with equal chances or from the label classifier's logits."""
        if self.labels is not None and self.plan.network.draws_hard:
            return self.labels.draw(outputs, label, next(self.draws))
        classes = self.plan.network.classes
        return (label + 1 + next(self.draws) % (classes - 1)) % classes

    def _learn_labels(self, waiting: Sequence[tuple[Array, int]]) -> list[list[Array]]:
        """The label classifier's step; what it reads, of each example."""
        plan, classifier = self.plan, self.plan.label_classifier
        if self.labels is None or classifier is None:
            return []
        outputs = self._outputs([self.unlabelled(example) for example, _ in waiting], training=True)
        for own, (_, label) in zip(outputs, waiting, strict=True):
            self.labels.learn(own, label)
        if plan.batch == plan.group:
            self.update.finish([classifier])
        return outputs

    def _outputs(self, signals: list[Array], *, training: bool = False) -> list[list[Array]]:
        """Of each signal the outputs (D,) of the blocks that the label classifier reads."""
        assert self.plan.label_classifier is not None
        read: list[list[Array]] = [[] for _ in signals]
        for block in self.plan.blocks:
            signals = [self._pass(block, own) for own in self._forward(block, signals, training=training)[-1].out]
            if block.index >= self.plan.label_classifier.first:
                for own, signal in zip(read, signals, strict=True):
                    own.append(signal.reshape(-1))
        return read

    def _learn(self, signals: list[Array], labels: Sequence[int]) -> None:
        for block in self.plan.blocks:
            kept = self._forward(block, signals, training=True)
            activations = kept[-1].out
            judged = [self.rules.judge(block, own, label) for own, label in zip(activations, labels, strict=True)]
            together = aligned(judged) if self.plan.normed else judged[0]._replace(gradient=judged[0].gradient[None])
            self._backward(block, kept, together)
            signals = [self._pass(block, own) for own in activations]

    def scores(self, example: Array) -> Array:
        """The class scores (C,) in float32."""
        total = np.zeros(self.plan.network.classes, np.float32)
        if not self.plan.contrastive:
            self._add_scores(total, self.signal(example))
            return total
        if self.labels is not None and by_softmax(self.plan):
            return self._scores_by_softmax(self.labels, example)
        for label in range(len(total)):
            self._add_scores(total[label : label + 1], self.labelled(example, label))
        return total

    def _scores_by_softmax(self, labels: Int8Labels, example: Array) -> Array:
        total = np.zeros(self.plan.network.classes, np.float32)
        shares = self.plan.network.readout.weights.tolist()[labels.classifier.first :]
        outputs = self._outputs([self.unlabelled(example)])[0]
        for index, (output, share) in enumerate(zip(outputs, shares, strict=True)):
            sums, bits = labels.part(index, output)
            total += sums.astype(np.float32) * np.float32(share * 2.0**-bits)
        return total

    def _add_scores(self, total: Array, signal: Array) -> None:
        for block, weight in zip(self.plan.blocks, self.plan.network.readout.weights.tolist(), strict=True):
            activation = self._forward(block, [signal])[-1].out[0]
            scores, bits = self.rules.scores(block, activation)
            total += scores.astype(np.float32) * np.float32(weight * score_factor(block) * 2.0**-bits)
            signal = self._pass(block, activation)

    def labelled(self, example: Array, label: int) -> Array:
        """An example of bytes as int8, with a label in its first features."""
        rule = self.plan.network.rule
        assert isinstance(rule, rules.ForwardForward)
        flat = (unit_rms(np.asarray(example, np.int64)) if rule.normalise_input else self.signal(example)).reshape(-1)
        flat[: self.plan.network.classes] = 0
        flat[label] = label_signal(rule.label_one(self.plan.network.prepare.high))
        return flat.reshape(self.plan.network.shape)

    def unlabelled(self, example: Array) -> Array:
        """An example of bytes as int8, with a neutral label in its first features."""
        flat = self.labelled(example, 0).reshape(-1)
        flat[: self.plan.network.classes] = label_signal(neutral_value(self.plan))
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

    def _forward(self, block: BlockPlan, signals: list[Array], *, training: bool = False) -> list[Kept]:
        """What each stage leaves; the outputs of the last one are the activations."""
        kept: list[Kept] = []
        for stage in block.stages:
            if stage.convolution is None:
                signals = [signal.reshape(-1) for signal in signals]
            sums, places = zip(*(self._sums(block, stage, signal) for signal in signals), strict=True)
            bits, standard, deviation = self.held.exponents[block.name(f"{stage.path}.weight")], None, None
            if stage.norm:
                bits = self.held.exponents[block.name(f"{stage.norm}.weight")]
                together = np.stack(sums).reshape(len(sums), stage.outgoing.channels, -1)
                standard, deviation = self._standardised(block, stage, together, training=training)
                scale = self.held.weights[block.name(f"{stage.norm}.weight")]
                shift = shifted(self.held.weights[block.name(f"{stage.norm}.bias")], 8)
                sums = tuple((standard * scale[:, None] + shift[:, None]).reshape(len(sums), *sums[0].shape))
            outs = [clamped(shifted(own, bits)) for own in sums]
            if stage.relu:
                outs = [np.maximum(out, 0) for out in outs]
            kept.append(Kept(signals, outs, list(places), standard, deviation))
            signals = outs
        return kept

    def _sums(self, block: BlockPlan, stage: Stage, signal: Array) -> tuple[Array, Array | None]:
        """The pooled sums of a layer, bias included, with e + ONE bits behind the point, and the places of maxima."""
        weight, places = self.held.weights[block.name(f"{stage.path}.weight")], None
        if stage.convolution is None:
            sums = weight @ signal
        else:
            sums, places = pooled(stage, convolved(stage, weight, signal))
        if stage.bias:
            bias = shifted(self.held.weights[block.name(f"{stage.path}.bias")], 8)
            sums = sums + bias.reshape(-1, *[1] * (sums.ndim - 1))
        return sums, places

    def _standardised(self, block: BlockPlan, stage: Stage, sums: Array, *, training: bool) -> tuple[Array, Array]:
        """Sums (R, K, P) standardised by a batch norm, and the deviations (K,) by which it divided."""
        names = [block.name(f"{stage.norm}.running_{of}") for of in ("mean", "var")]
        mean, deviation = (self.held.running[name] for name in names)
        if training:
            own = int8_norms.statistics(sums, least(self.held.exponents, block, stage))
            self.held.running[names[0]] = int8_norms.moved(mean, own.mean, stage.momentum)
            self.held.running[names[1]] = int8_norms.moved(deviation, own.unbiased, stage.momentum)
            mean, deviation = own.mean, own.deviation
        return int8_norms.standardised(sums, mean, deviation), deviation

    def _backward(self, block: BlockPlan, kept: list[Kept], judged: Judged) -> None:
        """The step of the body's weights, from the gradients (R, ...) of the activations."""
        gradient, bits, rate = judged
        for index in reversed(range(len(block.stages))):
            stage, own = block.stages[index], kept[index]
            gradient = gradient.reshape(-1, *stage.outgoing)
            if stage.relu:
                gradient = np.where(np.stack(own.out).reshape(gradient.shape) > 0, gradient, 0)
            gradient, bits = fitted(gradient, bits)
            if stage.norm:
                gradient, bits = self._through_norm(block, stage, own, Judged(gradient, bits, rate))
            weight = block.name(f"{stage.path}.weight")
            e, backs = self.held.exponents[weight], []
            for given, places, row in zip(own.given, own.places, gradient, strict=True):
                spread = row if places is None else unpooled(stage, row, places)
                backs.append(backward(stage, self.held.weights[weight], spread) if index else row)
                self.update.step(weight, rate * correlated(stage, given, spread), 24 + bits + ONE - e - 8)
                if stage.bias:
                    total = row.reshape(stage.outgoing.channels, -1).sum(1)
                    bias = block.name(f"{stage.path}.bias")
                    self.update.step(bias, rate * total, 24 + bits - e - ONE - 8)
            gradient, bits = np.stack(backs), bits + e

    def _through_norm(self, block: BlockPlan, stage: Stage, own: Kept, judged: Judged) -> tuple[Array, int]:
        """The gradient (R, K, H, W) in front of a batch norm, whose scale and shift take their step."""
        gradient, bits, rate = judged
        scale, shift = (block.name(f"{stage.norm}.{which}") for which in ("weight", "bias"))
        e = self.held.exponents[scale]
        assert own.standard is not None and own.deviation is not None
        flat = gradient.reshape(own.standard.shape)
        sum_bits = exponent_before(self.held.exponents, block, stage) + ONE
        through, through_bits = int8_norms.through(
            flat, bits, own.standard, own.deviation, self.held.weights[scale], e, sum_bits
        )
        for row, standard in zip(flat, own.standard, strict=True):
            self.update.step(scale, rate * (row * standard).sum(1), 24 + bits + ONE - e - 8)
            self.update.step(shift, rate * row.sum(1), 24 + bits - e - ONE - 8)
        return fitted(through.reshape(gradient.shape), through_bits)

    def _pass(self, block: BlockPlan, activation: Array) -> Array:
        """The next block's signal."""
        if block.passes == "unit_rms":
            return unit_rms(activation)
        if block.passes == "group_norm":
            groups = self.rules.groups(block)[0]
            parts = [activation[groups == group] for group in range(self.plan.network.classes)]
            return np.concatenate([standardised(part.reshape(-1)).reshape(part.shape) for part in parts])
        if block.passes == "instance_norm":
            together = activation.reshape(block.outgoing.channels, -1)
            if together.shape[1] == 1:
                together = together.reshape(1, -1)
            return np.stack([standardised(values) for values in together]).reshape(activation.shape)
        return activation


def aligned(judged: Sequence[Judged]) -> Judged:
    """Gradients of R examples, each times its rate, with one exponent, (R, ...), and a rate of 1."""
    found = []
    for gradient, bits, rate in judged:
        gradient, bits = fitted(gradient, bits)
        down = max(0, rate.bit_length() - BITS)
        gradient, bits = fitted(gradient * shifted(rate, down), bits + 24 - down)
        found.append((gradient, bits if gradient.any() else NOTHING))
    fewest = min(bits for _, bits in found)
    return Judged(np.stack([shifted(gradient, bits - fewest) for gradient, bits in found]), fewest, 1 << 24)


def xorshift32(state: int) -> Iterator[int]:
    """The random numbers of the C file: Marsaglia 2003, "Xorshift RNGs", the triple 13, 17, 5."""
    while True:
        state ^= (state << 13) & 0xFFFFFFFF
        state ^= state >> 17
        state ^= (state << 5) & 0xFFFFFFFF
        yield state
