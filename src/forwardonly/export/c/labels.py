"""The C of ff's label classifier, in any precision: when it learns, and how wrong labels are drawn from it.

It reads every block's output under a neutral label, in a pass of its own before the blocks learn. These outputs are
kept until it has learned. Where a batch goes through the blocks at once, as one example or as a batch that waits, it
learns from the batch before wrong labels are drawn, as in Python. Where steps are added up over examples, wrong labels
are drawn from what it had learned before their batch.
"""

from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from forwardonly import rules
from forwardonly.export.c.plan import Plan
from forwardonly.export.c.text import c_name, each_example, wrong_label
from forwardonly.labels import NEUTRAL


def neutral_value(plan: Plan) -> float:
    """What a neutral label writes into the first features."""
    rule = plan.network.rule
    assert isinstance(rule, rules.ForwardForward)
    return NEUTRAL * rule.label_one(plan.network.prepare.high)


def by_softmax(plan: Plan) -> bool:
    """Whether the label classifier predicts."""
    return getattr(plan.network.rule, "predict", "goodness") == "softmax"


def outputs(plan: Plan) -> int:
    """Numbers of the outputs that the label classifier reads, of all examples of a step."""
    return plan.group * sum(plan.label_classifier.sizes) if plan.label_classifier else 0


class LabelMap(NamedTuple):
    """A map of the label classifier."""

    path: str
    """Its name in the classifier."""
    at: int
    """Its first input, of those of all maps."""
    size: int
    """Its inputs."""
    weight: str
    """Names in C."""
    bias: str


def maps(plan: Plan) -> Iterator[LabelMap]:
    """The maps of the label classifier."""
    classifier = plan.label_classifier
    assert classifier is not None
    for index, (size, end) in enumerate(zip(classifier.sizes, accumulate(classifier.sizes), strict=True)):
        weight, bias = (f"{classifier.member}.{c_name(f'maps.{index}.{which}')}" for which in ("weight", "bias"))
        yield LabelMap(f"maps.{index}", end - size, size, weight, bias)


def label_step(plan: Plan, prepare: list[str], learn: str) -> list[str]:
    """Lines of the label classifier's step, of those that write an example as a signal under a neutral label, and of
    the statement that learns from its outputs, {0}.
    """
    classifier, group = plan.label_classifier, plan.group
    if classifier is None:
        return []
    at, lines = 0, each_example(plan, prepare)
    for block in plan.blocks:
        k, size = block.index, block.outgoing.size
        rows = plan.precision == "float32" or plan.normed
        lines += [f"forward_{k}({f'{group}, 1' if rows else ''});", f"pass_{k}({group if rows else ''});"]
        if k >= classifier.first:
            activation = f"memory + ACTIVATION_{k}" + (f" + r * {size}" if group > 1 else "")
            copy = f"memcpy({_outputs(plan, at)}, {activation}, {size} * sizeof(block_outputs[0]));"
            lines += each_example(plan, [copy])
            at += size
    return [*lines, *each_example(plan, learn.format(_outputs(plan)).split("\n"))]


def draw(plan: Plan, own: str, bits: str = "") -> list[str]:
    """Lines that draw a wrong label for an example; of whole logits `bits` are behind the point."""
    if not plan.network.draws_hard:
        return [wrong_label(own)]
    return [
        f"{'int64_t' if bits else 'float'} logits[FO_CLASSES];",
        f"label_logits({_outputs(plan)}, logits);",
        f"const int wrong = hard_label({bits}{', ' if bits else ''}{own}, logits);",
    ]


def _outputs(plan: Plan, at: int = 0) -> str:
    """Where the outputs of an example are that the label classifier reads, from the one at a place on."""
    assert plan.label_classifier is not None
    row = f" + r * {sum(plan.label_classifier.sizes)}" if plan.group > 1 else ""
    return f"block_outputs{row}{f' + {at}' if at else ''}"
