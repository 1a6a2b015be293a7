"""The C of ff's label classifier in whole numbers; `int8_labels.py` is its definition."""

from forwardonly.export.c.int8_arithmetic import ONE
from forwardonly.export.c.int8_labels import LOGIT, label_signal
from forwardonly.export.c.labels import maps, neutral_value
from forwardonly.export.c.plan import Plan
from forwardonly.export.c.text import function, number

LEARN = "learn_labels({own}, {{0}});"
"""The statement that learns an example, of the label `own`."""


def note_parts(plan: Plan, parts: set[str]) -> None:
    """Notes the C functions that the label classifier calls."""
    if plan.label_classifier:
        parts |= {"product", "surprise", "linear_update", "bias_update", "gather" if plan.gathers else "move"}
        parts |= {"hard_label"} if plan.network.draws_hard else set()


def label_text(plan: Plan, exponents: dict[str, int]) -> str:
    """The functions of the label classifier."""
    neutral = [
        "labelled(x, 0, signal);",
        "for (int c = 0; c < FO_CLASSES; c++) {",
        f"    signal[c] = {label_signal(neutral_value(plan))};",
        "}",
    ]
    assert plan.label_classifier is not None
    logits = ["for (int c = 0; c < FO_CLASSES; c++) {", "    logits[c] = 0;"]
    steps = []
    for path, at, size, weight, bias in maps(plan):
        e = exponents[plan.label_classifier.name(f"{path}.weight")]
        sums = f"product({size}, weights.{weight} + c * {size}, outputs + {at}) + shifted(biases.{bias}[c], 8)"
        logits.append(f"    logits[c] += shifted({sums}, {e + ONE - LOGIT});")
        to_weight = f"steps.{weight}" if plan.gathers else f"weights.{weight}, weights.{weight}_error"
        to_bias = f"{'steps' if plan.gathers else 'biases'}.{bias}"
        steps += [
            f"linear_update({size}, FO_CLASSES, rate, up + {27 - e - 8 * plan.gathers}, errors, outputs + {at}, "
            f"{to_weight});",
            f"bias_update(FO_CLASSES, 1, rate, up + {19 - e}, errors, {to_bias});",
        ]
    learn = [
        "int64_t logits[FO_CLASSES];",
        "int32_t errors[FO_CLASSES];",
        "float loss;",
        "const int64_t rate = whole_rate();",
        "label_logits(outputs, logits);",
        f"const int up = surprise({LOGIT}, label, logits, errors, &loss);",
        *steps,
    ]
    return "\n".join(
        [
            function(
                "static void unlabelled(const fo_input *x, int8_t *signal)",
                neutral,
                "One example as the first signal, with a neutral label in its first features.",
            ),
            function(
                "static void label_logits(const int8_t *outputs, int64_t *logits)",
                [*logits, "    logits[c] *= 64; /* as an exponential takes them */", "}"],
                f"64 times the label classifier's logits, with {LOGIT} bits behind the point.",
            ),
            function(
                "static void learn_labels(int label, const int8_t *outputs)",
                learn,
                "A step of the label classifier down the gradient of its loss.",
            ),
        ]
    )


def softmax_lines(plan: Plan, exponents: dict[str, int]) -> list[str]:
    """The lines of a prediction by the label classifier, each block's share by its weight in the read-out."""
    assert plan.label_classifier is not None
    lines, read, first = ["unlabelled(x, memory + SIGNAL_0);"], list(maps(plan)), plan.label_classifier.first
    for block, share in zip(plan.blocks, plan.network.readout.weights.tolist(), strict=True):
        k = block.index
        lines += [f"forward_{k}({'1, 0' if plan.normed else ''});", f"pass_{k}({'1' if plan.normed else ''});"]
        if k >= first:
            path, _, size, weight, bias = read[k - first]
            factor = number(share * 2.0 ** -(exponents[plan.label_classifier.name(f"{path}.weight")] + ONE))
            lines += [
                "for (int c = 0; c < FO_CLASSES; c++) {",
                f"    const int64_t own = product({size}, weights.{weight} + c * {size}, memory + ACTIVATION_{k});",
                f"    scores[c] += (float)(own + shifted(biases.{bias}[c], 8)) * {factor};",
                "}",
            ]
    return lines
