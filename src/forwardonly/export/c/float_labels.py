"""The C of ff's label classifier in float32: its own step, and the wrong labels that are drawn from its predictions.

It reads every block's output under a neutral label, in a pass of its own before the blocks learn. These outputs are
kept until it has learned. Where a batch goes through the blocks at once, as one example or as a batch that waits, it
learns from the batch before wrong labels are drawn, as in Python. Where gradients are added up over examples, wrong
labels are drawn from what it had learned before their batch.
"""

from itertools import accumulate

from forwardonly import rules
from forwardonly.export.c.plan import LabelClassifier, Plan
from forwardonly.export.c.text import c_name, each_example, function, number, wrong_label
from forwardonly.labels import NEUTRAL


def outputs(plan: Plan) -> int:
    """Numbers of the outputs that the label classifier reads, of all examples of a step."""
    return plan.group * sum(plan.label_classifier.sizes) if plan.label_classifier else 0


def note_parts(plan: Plan, parts: set[str]) -> None:
    """Notes the C functions that the label classifier calls."""
    if plan.label_classifier:
        parts |= {"linear", "linear_gradient", "cross_entropy"}
        parts |= {"hard_label"} if draws_hard(plan) else set()


def draws_hard(plan: Plan) -> bool:
    """Whether wrong labels are drawn from the label classifier's predictions."""
    return plan.network.draws_hard


def by_softmax(plan: Plan) -> bool:
    """Whether the label classifier predicts."""
    return getattr(plan.network.rule, "predict", "goodness") == "softmax"


def label_text(plan: Plan) -> str:
    """The functions of the label classifier."""
    classifier = plan.label_classifier
    if classifier is None:
        return ""
    rule = plan.network.rule
    assert isinstance(rule, rules.ForwardForward)
    high = plan.network.prepare.high if rule.label_value is None else rule.label_value
    neutral = ["for (int c = 0; c < FO_CLASSES; c++) {", f"    signal[c] = {number(NEUTRAL * high)};", "}"]
    places = [0, *accumulate(classifier.sizes)]
    logits, gradients = [], []
    for index, (at, size) in enumerate(zip(places, classifier.sizes, strict=False)):
        weight, bias = _weights(classifier, index, "weights.trained")
        to_weight, to_bias = _weights(classifier, index, "TARGET")
        to = "own" if index else "logits"
        logits.append(f"linear(1, {size}, FO_CLASSES, {weight}, {bias}, outputs + {at}, {to});")
        if index:
            logits += ["for (int c = 0; c < FO_CLASSES; c++) {", "    logits[c] += own[c];", "}"]
        gradients.append(
            f"linear_gradient(1, {size}, FO_CLASSES, SHARE, to_logits, outputs + {at}, {to_weight}, {to_bias});"
        )
    if len(classifier.sizes) > 1:
        logits.insert(0, "float own[FO_CLASSES];")
    learn = [
        "float to_logits[FO_CLASSES];",
        "label_logits(outputs, to_logits);",
        "const float loss = cross_entropy(label, 0.0f, to_logits);",
        *gradients,
        "return loss;",
    ]
    return "\n".join(
        [
            function(
                "static void embed_neutral(float *signal)",
                neutral,
                "Writes a neutral label over a signal's first features.",
            ),
            function(
                "static void label_logits(const float *outputs, float *logits)",
                logits,
                "The label classifier's logits, from the outputs of the blocks.",
            ),
            function(
                "static float learn_labels(int label, const float *outputs)",
                learn,
                "Adds the gradient of the label classifier's loss to the target; the loss is returned.",
            ),
        ]
    )


def _weights(classifier: LabelClassifier, index: int, of: str) -> tuple[str, str]:
    weight, bias = (f"{of}.{classifier.member}.{c_name(f'maps.{index}.{which}')}" for which in ("weight", "bias"))
    return weight, bias


def label_step(plan: Plan, own: str, prepare: list[str]) -> list[str]:
    """Lines of the label classifier's step; `prepare` are those that write an example as a signal under no label."""
    classifier, group = plan.label_classifier, plan.group
    if classifier is None:
        return []
    total, at, lines = sum(classifier.sizes), 0, each_example(plan, prepare)
    for block in plan.blocks:
        k, size = block.index, block.outgoing.size
        lines += [f"forward_{k}({group}, 1);", f"pass_{k}({group});"]
        if k >= classifier.first:
            activation = f"memory + ACTIVATION_{k}" + (f" + r * {size}" if group > 1 else "")
            lines += each_example(plan, [f"memcpy({_outputs(plan, at)}, {activation}, {size} * sizeof(float));"])
            at += size
    assert at == total
    learn = ["if (!isfinite(learn_labels(" + f"{own}, {_outputs(plan)}))) {{", "    return FO_DIVERGED;", "}"]
    return [*lines, *each_example(plan, learn)]


def draw(plan: Plan, own: str) -> list[str]:
    """Lines that draw a wrong label for an example."""
    if not draws_hard(plan):
        return [wrong_label(own)]
    return [
        "float logits[FO_CLASSES];",
        f"label_logits({_outputs(plan)}, logits);",
        f"const int wrong = hard_label({own}, logits);",
    ]


def _outputs(plan: Plan, at: int = 0) -> str:
    """Where the outputs of an example are that the label classifier reads, from the one at a place on."""
    assert plan.label_classifier is not None
    row = f" + r * {sum(plan.label_classifier.sizes)}" if plan.group > 1 else ""
    return f"block_outputs{row}{f' + {at}' if at else ''}"


def softmax_lines(plan: Plan) -> list[str]:
    """The lines of a prediction by the label classifier, each block's share by its weight in the read-out."""
    classifier = plan.label_classifier
    assert classifier is not None
    lines = ["float own[FO_CLASSES];", "prepare(x, memory + SIGNAL_0);", "embed_neutral(memory + SIGNAL_0);"]
    for block, share in zip(plan.blocks, plan.network.readout.weights.tolist(), strict=True):
        k, index = block.index, block.index - classifier.first
        lines += [f"forward_{k}(1, 0);", f"pass_{k}(1);"]
        if index >= 0 and share:
            weight, bias = _weights(classifier, index, "weights.trained")
            factor = "" if share == 1 else f"{number(share)} * "
            lines += [
                f"linear(1, {block.outgoing.size}, FO_CLASSES, {weight}, {bias}, memory + ACTIVATION_{k}, own);",
                "for (int c = 0; c < FO_CLASSES; c++) {",
                f"    scores[c] += {factor}own[c];",
                "}",
            ]
    return lines
