"""The C of ff's label classifier in float32."""

from forwardonly.export.c.labels import maps, neutral_value
from forwardonly.export.c.plan import Plan
from forwardonly.export.c.text import function, number

LEARN = """if (!isfinite(learn_labels({own}, {{0}}))) {{{{
    return FO_DIVERGED;
}}}}"""
"""The statement that learns an example, of the label `own`."""


def note_parts(plan: Plan, parts: set[str]) -> None:
    """Notes the C functions that the label classifier calls."""
    if plan.label_classifier:
        parts |= {"linear", "linear_gradient", "cross_entropy"}
        parts |= {"hard_label"} if plan.network.draws_hard else set()


def label_text(plan: Plan) -> str:
    """The functions of the label classifier."""
    neutral = ["for (int c = 0; c < FO_CLASSES; c++) {", f"    signal[c] = {number(neutral_value(plan))};", "}"]
    logits, gradients = list[str](), list[str]()
    for _, at, size, weight, bias in maps(plan):
        sizes, trained = f"1, {size}, FO_CLASSES", "weights.trained."
        to = "own" if logits else "logits"
        more = ["for (int c = 0; c < FO_CLASSES; c++) {", "    logits[c] += own[c];", "}"] if logits else []
        logits += [f"linear({sizes}, {trained}{weight}, {trained}{bias}, outputs + {at}, {to});", *more]
        gradients.append(f"linear_gradient({sizes}, SHARE, to_logits, outputs + {at}, TARGET.{weight}, TARGET.{bias});")
    if len(gradients) > 1:
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


def softmax_lines(plan: Plan) -> list[str]:
    """The lines of a prediction by the label classifier, each block's share by its weight in the read-out."""
    assert plan.label_classifier is not None
    lines = ["float own[FO_CLASSES];", "prepare(x, memory + SIGNAL_0);", "embed_neutral(memory + SIGNAL_0);"]
    read, first = list(maps(plan)), plan.label_classifier.first
    for block, share in zip(plan.blocks, plan.network.readout.weights.tolist(), strict=True):
        k = block.index
        lines += [f"forward_{k}(1, 0);", f"pass_{k}(1);"]
        if k >= first and share:
            _, _, size, weight, bias = read[k - first]
            factor = "" if share == 1 else f"{number(share)} * "
            lines += [
                f"linear(1, {size}, FO_CLASSES, weights.trained.{weight}, weights.trained.{bias}, "
                f"memory + ACTIVATION_{k}, own);",
                "for (int c = 0; c < FO_CLASSES; c++) {",
                f"    scores[c] += {factor}own[c];",
                "}",
            ]
    return lines
