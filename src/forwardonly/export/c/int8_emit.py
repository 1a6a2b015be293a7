"""The C file in whole numbers."""

import math
from collections.abc import Iterator

from forwardonly import rules
from forwardonly.export.c import parts
from forwardonly.export.c.int8_arithmetic import LARGEST_RATE, ONE, PART, WHOLE
from forwardonly.export.c.int8_batch import steps_struct, update_text
from forwardonly.export.c.int8_blocks import Int8BlockWriter
from forwardonly.export.c.int8_buffers import Int8Buffers, lay_out_int8
from forwardonly.export.c.int8_label_text import LEARN, label_text, note_parts, softmax_lines
from forwardonly.export.c.int8_labels import LOGIT, label_signal
from forwardonly.export.c.int8_rules import score_factor
from forwardonly.export.c.int8_weights import Quantised, is_bias, quantise
from forwardonly.export.c.labels import by_softmax, draw, label_step, outputs
from forwardonly.export.c.plan import BlockPlan, LabelClassifier, Plan
from forwardonly.export.c.text import (
    NAME,
    SEED,
    batch_state,
    c_name,
    checks,
    each_example,
    finish_batch,
    finite_input,
    function,
    learn_text,
    number,
    save_text,
    waiting_bytes,
    wrapped,
)


def _normalises(plan: Plan) -> bool:
    """Whether an example is normalised before a label is written into it."""
    return isinstance(plan.network.rule, rules.ForwardForward) and plan.network.rule.normalise_input


def sizes(plan: Plan) -> dict[str, int]:
    """How many biases (int32), weights (int8, with an int8 error each) and running statistics (int32)."""
    found = {"biases": 0, "weights": 0, "running": plan.statistics_count}
    for part in plan.parts:
        for path, shape in part.parameters.items():
            found["biases" if is_bias(path) else "weights"] += math.prod(shape)
    return found


def memory_table(plan: Plan) -> dict[str, int]:
    """Bytes of static memory, by what they hold."""
    held, buffers = sizes(plan), lay_out_int8(plan)
    whole = buffers.memory
    batch = {"steps of a batch": 4 * plan.parameter_count} if plan.gathers else {}
    labels = {"outputs that the label classifier reads": outputs(plan)} if plan.label_classifier else {}
    waiting = {"waiting examples": waiting_bytes(plan)} if plan.group > 1 else {}
    losses = 4 * len(plan.blocks) * (2 if _counts(plan) else 1)
    return {
        "weights": 4 * (held["biases"] + held["running"]) + held["weights"],
        "errors of weights": held["weights"],
        **batch,
        "activations of one block": whole.memory + whole.winners + 4 * (buffers.gradients + whole.fan_in),
        **waiting,
        **labels,
        "losses and counters": 4 + losses + 4 * (plan.contrastive + _counts(plan) + (plan.group > 1)),
    }


def _counts(plan: Plan) -> bool:
    """Whether examples of a batch are counted and their losses added up."""
    return plan.batch > plan.group


def emit_int8(plan: Plan, identity: bytes) -> str:
    """The text of the C file."""
    quantised, buffers = quantise(plan), lay_out_int8(plan)
    wanted: set[str] = {"rounding", "whole_rate"} | ({"random"} if plan.contrastive else set())
    wanted |= {"division", "root"} if _normalises(plan) else set()
    writers = [Int8BlockWriter(plan, buffers, block, wanted, quantised.exponents) for block in plan.blocks]
    blocks = [writer.text() for writer in writers]
    note_parts(plan, wanted)
    update = [update_text(plan, quantised.exponents, wanted)] if plan.gathers else []
    functions = parts.int8_text_of(wanted, gathers=plan.gathers)
    for name, table in (("FO_WHOLE", WHOLE), ("FO_PART", PART)):
        functions = functions.replace(f"{{{name}}}", wrapped("{" + ", ".join(map(str, table)) + "}"))
    functions = functions.replace("{FO_LARGEST_RATE}", str(LARGEST_RATE))
    held = [name for name, count in sizes(plan).items() if count]
    pieces = [
        _declarations(plan, buffers),
        functions,
        *blocks,
        *([_prepare(plan)] if not plan.contrastive or not _normalises(plan) else []),
        *([_labelled(plan)] if plan.contrastive else []),
        *([label_text(plan, quantised.exponents)] if plan.label_classifier else []),
        *update,
        _learn(plan),
        _predict(plan, writers, quantised.exponents),
        save_text(identity, held, _reset(plan)),
        _weights(plan, quantised),
    ]
    return "\n".join(pieces)


def _declarations(plan: Plan, buffers: Int8Buffers) -> str:
    whole, held = buffers.memory, sizes(plan)
    lines = [
        f"/* See {NAME}.h. Each block learns from a loss of its own, while the example passes through, in whole",
        " * numbers: a signal is value / 16, a weight value / 2^e, a bias value / 2^(e + 12), where e belongs to the",
        " * tensor. */",
        f'#include "{NAME}.h"',
        "",
        "#include <math.h>",
        "#include <stdint.h>",
        "#include <string.h>",
        "",
    ]
    if held["running"]:
        lines += [
            "/* Running means and deviations of the batch norms, of value / 2^(e + 8). */",
            *_struct(plan, "fo_running", "running"),
            "",
        ]
    if held["biases"]:
        lines += ["/* The biases, by their names in Python. */", *_struct(plan, "fo_biases", "biases"), ""]
    lines += [
        "/* The weights, by their names in Python; beside each its error, in 256ths of a weight's unit. */",
        *_struct(plan, "fo_weights", "weights"),
        "",
        "/* Their first values stand at the end of this file. */",
        *(["static fo_biases biases;"] if held["biases"] else []),
        "static fo_weights weights;",
        *(["static fo_running running;"] if held["running"] else []),
        "",
        *([*steps_struct(plan), ""] if plan.gathers else []),
        f"static int8_t memory[{whole.memory}]; /* of one block at a time */",
        f"static int32_t gradients[{buffers.gradients}]; /* of one block at a time */",
    ]
    if whole.fan_in:
        lines.append(f"static int32_t sums[{whole.fan_in}]; /* of a convolution's gradient */")
    if whole.winners:
        lines.append(f"static unsigned char winners[{whole.winners}]; /* places of maxima */")
    if plan.label_classifier:
        lines.append(f"static int8_t block_outputs[{outputs(plan)}]; /* that the label classifier reads */")
    lines += batch_state(plan)
    if _counts(plan):
        lines.append("static float losses[FO_BLOCKS]; /* sums over this batch */")
    if plan.contrastive:
        lines.append(f"#define FO_SEED {SEED}u")
    lines += [f"float fo_learning_rate = {number(plan.config.learning_rate)};", "float fo_loss[FO_BLOCKS];", ""]
    return "\n".join(lines)


def _members(part: BlockPlan | LabelClassifier, kind: str) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a part's weights, biases or running statistics."""
    if kind == "running":
        return part.statistics
    return {path: shape for path, shape in part.parameters.items() if is_bias(path) == (kind == "biases")}


def _member(path: str) -> str:
    """A weight's name in C: a running deviation takes the place of a variance."""
    return c_name(path.replace("running_var", "running_deviation"))


def _struct(plan: Plan, name: str, kind: str) -> Iterator[str]:
    yield "typedef struct {"
    for part in plan.parts:
        if members := _members(part, kind):
            yield "    struct {"
            for path, shape in members.items():
                count, words = math.prod(shape), " x ".join(map(str, shape))
                yield f"        {'int8_t' if kind == 'weights' else 'int32_t'} {_member(path)}[{count}]; /* {words} */"
                if kind == "weights":
                    yield f"        int8_t {_member(path)}_error[{count}];"
            yield f"    }} {part.member};"
    yield f"}} {name};"


def _prepare(plan: Plan) -> str:
    prepare, pixels = plan.network.prepare, plan.network.shape[1] * plan.network.shape[2]
    mean, deviation = (", ".join(map(number, own.flatten().tolist())) for own in (prepare.mean, prepare.std))
    value = "x[i]" if plan.features else "(float)x[i] / 255.0f"
    lines = [
        f"static const float mean[FO_CHANNELS] = {{{mean}}};",
        f"static const float deviation[FO_CHANNELS] = {{{deviation}}};",
        "for (int i = 0; i < FO_INPUTS; i++) {",
        f"    const float value = ({value} - mean[i / {pixels}]) / deviation[i / {pixels}];",
        f"    const float whole_value = floorf(value * {number(2**ONE)} + 0.5f);",
        "    signal[i] = (int8_t)(whole_value > 127.0f ? 127.0f : whole_value < -127.0f ? -127.0f : whole_value);",
        "}",
    ]
    text = function("static void prepare(const fo_input *x, int8_t *signal)", lines, "One example as the first signal.")
    return text + (finite_input() if plan.features else "")


def _labelled(plan: Plan) -> str:
    """The function that writes an example with a label as the first signal."""
    rule, count = plan.network.rule, math.prod(plan.network.shape)
    assert isinstance(rule, rules.ForwardForward)
    lines = ["prepare(x, signal);"]
    if rule.normalise_input:
        lines = [
            "int64_t squares = 0, factor = 0;",
            "for (int i = 0; i < FO_INPUTS; i++) {",
            "    squares += x[i] * x[i];",
            "}",
            "if (squares > 0) {",
            f"    factor = divided((int64_t){count} << 20, root((squares * {count}) << 8)); /* 2^16 / rms */",
            "}",
            "for (int i = 0; i < FO_INPUTS; i++) {",
            "    signal[i] = clamped(shifted(x[i] * factor, 12));",
            "}",
        ]
    lines += [
        "for (int c = 0; c < FO_CLASSES; c++) {",
        f"    signal[c] = c == label ? {label_signal(rule.label_one(plan.network.prepare.high))} : 0;",
        "}",
    ]
    signature = "static void labelled(const fo_input *x, int label, int8_t *signal)"
    return function(signature, lines, "One example as the first signal, with a label in its first features.")


def _learn(plan: Plan) -> str:
    own = ("x", "label") if plan.group == 1 else ("waiting[r]", "waiting_labels[r]")
    update = ["end_batch();"] if plan.gathers else []
    end_labels = ["end_label_batch();"] if plan.gathers and plan.label_classifier else []
    learn_labels = label_step(plan, [f"unlabelled({own[0]}, {_signal(plan)});"], LEARN.format(own=own[1]))
    learn_labels += [] if _counts(plan) else end_labels
    wrong = draw(plan, own[1], str(LOGIT))
    steps = []
    for block in plan.blocks:
        k, given = block.index, "label"
        if plan.contrastive:
            given = "" if plan.normed else "stream"
        elif plan.normed:
            given = "&label" if plan.group == 1 else "waiting_labels"
        adds = _counts(plan) or (plan.contrastive and not plan.normed)
        steps.append(f"{'losses' if _counts(plan) else 'fo_loss'}[{k}] {'+' if adds else ''}= learn_{k}({given});")
        if block.passes and k < len(plan.blocks) - 1:
            steps.append(f"pass_{k}({plan.rows if plan.normed else ''});")
    if not plan.contrastive:
        lines = [*each_example(plan, [f"prepare({own[0]}, {_signal(plan)});"]), *steps]
    elif plan.normed:
        lines = [
            *each_example(plan, [
                *wrong,
                f"labelled({own[0]}, {own[1]}, {_signal(plan)});",
                f"labelled({own[0]}, wrong, {_signal(plan, plan.group)});",
            ]),
            *steps,
        ]  # fmt: skip
    else:
        lines = [
            *wrong,
            *([] if _counts(plan) else ["memset(fo_loss, 0, sizeof(fo_loss));"]),
            "for (int stream = 1; stream >= 0; stream--) { /* 1: with the right label, 0: with a wrong one */",
            "    labelled(x, stream ? label : wrong, memory + SIGNAL_0);",
            *(f"    {step}" for step in steps),
            "}",
        ]
    lines = [*learn_labels, *lines]
    lines += finish_batch(plan, [*update, *end_labels]) if _counts(plan) else update
    return "\n" + learn_text(plan, [*lines, "return FO_OK;"])


def _signal(plan: Plan, first: int = 0) -> str:
    """Where an example goes: row r, or `first` rows behind it."""
    size = math.prod(plan.network.shape)
    row = f" + r * {size}" if plan.group > 1 else ""
    return f"memory + SIGNAL_0{f' + {first * size}' if first else ''}{row}"


def _reset(plan: Plan) -> list[str]:
    """Lines that follow loading: what a batch has added up belongs to other weights."""
    lines = ["    memset(&steps, 0, sizeof(steps));"] if plan.gathers else []
    lines += ["    count_waiting = 0;"] if plan.group > 1 else []
    lines += ["    seen = 0;", "    memset(losses, 0, sizeof(losses));"] if _counts(plan) else []
    return [*lines, "    memset(fo_loss, 0, sizeof(fo_loss));"]


def _predict(plan: Plan, writers: list[Int8BlockWriter], exponents: dict[str, int]) -> str:
    lines = [*checks(plan, label=False), "memset(scores, 0, FO_CLASSES * sizeof(float));"]
    steps = []
    for writer, weight in zip(writers, plan.network.readout.weights.tolist(), strict=True):
        k, share = writer.index, number(weight * score_factor(writer.block) * 2.0**-writer.score_bits)
        activation = f"memory + ACTIVATION_{k}" if plan.normed else ""
        steps.append(f"forward_{k}({'1, 0' if plan.normed else ''});")
        if plan.contrastive:
            steps.append(f"scores[c] += (float)scores_{k}({activation}) * {share};")
        else:
            steps += [
                f"scores_{k}({activation}{', ' if activation else ''}own);",
                "for (int c = 0; c < FO_CLASSES; c++) {",
                f"    scores[c] += (float)own[c] * {share};",
                "}",
            ]
        if writer.block.passes and k < len(writers) - 1:
            steps.append(f"pass_{k}({1 if plan.normed else ''});")
    if by_softmax(plan):
        lines += softmax_lines(plan, exponents)
    elif plan.contrastive:
        lines += [
            "for (int c = 0; c < FO_CLASSES; c++) { /* the goodness under each label */",
            "    labelled(x, c, memory + SIGNAL_0);",
            *(f"    {step}" for step in steps),
            "}",
        ]
    else:
        lines += ["int64_t own[FO_CLASSES];", "prepare(x, memory + SIGNAL_0);", *steps]
    signature = "fo_status fo_predict(const fo_input x[FO_INPUTS], float scores[FO_CLASSES])"
    return "\n" + function(signature, [*lines, "return FO_OK;"])


def _weights(plan: Plan, quantised: Quantised) -> str:
    lines = []
    for kind in ("biases", "weights", "running"):
        if not sizes(plan)[kind]:
            continue
        lines.append(f"static fo_{kind} {kind} = {{")
        for part in plan.parts:
            if members := _members(part, kind):
                lines.append("    {")
                for name in map(part.name, members):
                    unit = "" if kind == "running" else f", e = {quantised.exponents[name]}"
                    lines.append(f"        /* {name}{unit} */")
                    values = (quantised.running if kind == "running" else quantised.weights)[name]
                    lines += _values(values.reshape(-1).tolist())
                    if kind == "weights":
                        lines += _values(quantised.errors[name].reshape(-1).tolist())
                lines.append("    },")
        lines += ["};", ""]
    return "\n".join(lines)


def _values(numbers: list[int]) -> Iterator[str]:
    for start in range(0, len(numbers), 20):
        opening = "        {" if start == 0 else "         "
        closing = "}," if start + 20 >= len(numbers) else ","
        yield opening + ", ".join(map(str, numbers[start : start + 20])) + closing


def content_bytes(plan: Plan) -> int:
    """Bytes of the saved weights."""
    held = sizes(plan)
    return 4 * (held["biases"] + held["running"]) + 2 * held["weights"]
