"""The C file in float32: declarations, the weights, and the functions that a program calls."""

import math
from collections.abc import Iterator

from forwardonly import rules
from forwardonly.export.c import parts
from forwardonly.export.c.blocks import BlockWriter
from forwardonly.export.c.buffers import Buffers, lay_out
from forwardonly.export.c.float_labels import LEARN, label_text, note_parts, softmax_lines
from forwardonly.export.c.labels import by_softmax, draw, label_step, outputs
from forwardonly.export.c.new_class import definitions, new_class_text, scratch
from forwardonly.export.c.plan import BlockPlan, LabelClassifier, Plan
from forwardonly.export.c.text import (
    HEAD,
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
    values,
    waiting_bytes,
    wrapped,
)


def memory_table(plan: Plan) -> dict[str, int]:
    """Bytes of static memory, by what they hold."""
    buffers = lay_out(plan)
    weights = 4 * (plan.parameter_count + plan.statistics_count)
    optimiser = 4 * plan.parameter_count * (bool(plan.momentum) + plan.keeps_gradient)
    activations = 4 * (buffers.memory + buffers.fan_in) + buffers.winners
    depth = len(plan.blocks)
    counters = 4 + 8 * depth + 4 * (plan.batch > plan.group) + 4 * (plan.group > 1) + 4 * plan.contrastive
    new_class = {"a new class": 4 + 4 * scratch(plan)} if plan.spare else {}
    labels = {"outputs that the label classifier reads": 4 * outputs(plan)} if plan.label_classifier else {}
    return {
        "weights": weights,
        "optimiser": optimiser,
        "activations of one block": activations,
        "waiting examples": waiting_bytes(plan),
        "losses and counters": counters,
        **labels,
        **new_class,
    }


def emit_float(plan: Plan, identity: bytes) -> str:
    """The text of the C file."""
    buffers = lay_out(plan)
    wanted: set[str] = set() if plan.direct and not plan.config.weight_decay else {"update"}
    writers = [BlockWriter(plan, buffers, block, wanted) for block in plan.blocks]
    blocks = [writer.text() for writer in writers]
    if plan.contrastive:
        wanted |= {"random", "unit_rms"}
    note_parts(plan, wanted)
    new_class = [new_class_text(plan, writers)] if plan.spare else []
    functions = parts.text_of(wanted)
    pieces = [
        _declarations(plan, buffers),
        functions,
        *blocks,
        _prepare(plan),
        *([label_text(plan)] if plan.label_classifier else []),
        _update(plan),
        _learn(plan),
        _predict(plan),
        *new_class,
        _save(plan, identity),
        _weights(plan),
    ]
    return "\n".join(pieces)


def _declarations(plan: Plan, buffers: Buffers) -> str:
    target, target_why = _target(plan)
    share, kept = number(1 / plan.batch), []
    if plan.direct:
        share = "-fo_learning_rate"
        if plan.config.weight_decay:
            kept = [
                f"#define KEPT (1.0f - fo_learning_rate * {number(plan.config.weight_decay)}) "
                "/* what decay leaves of a weight */"
            ]
            share += " / KEPT"  # the gradient is added before the decay
    lines = [
        f"/* See {NAME}.h. Each block learns from a loss of its own, while the example passes through. */",
        f'#include "{NAME}.h"',
        "",
        "#include <math.h>",
        *(["#include <stdint.h>"] if plan.contrastive or plan.spare else []),
        "#include <string.h>",
        "",
        "/* The trained weights, by their names in Python. */",
        *_struct("fo_parameters", plan, "parameters"),
        "",
    ]
    if plan.statistics_count:
        lines += ["/* Running statistics of the batch norms. */", *_struct("fo_statistics", plan, "statistics"), ""]
    running = "    fo_statistics running;\n" if plan.statistics_count else ""
    lines += [f"typedef struct {{\n    fo_parameters trained;\n{running}}} fo_weights;", ""]
    lines.append("static fo_weights weights; /* their first values stand at the end of this file */")
    if plan.momentum:
        lines.append("static fo_parameters velocity; /* of the optimiser */")
    if plan.keeps_gradient:
        lines.append("static fo_parameters gradients; /* the sum over a batch */")
    lines.append(f"static float memory[{buffers.memory}]; /* of one block at a time */")
    if buffers.fan_in:
        lines.append(f"static float sums[{buffers.fan_in}]; /* of a convolution's gradient */")
    if buffers.winners:
        lines.append(f"static unsigned char winners[{buffers.winners}]; /* places of maxima */")
    if plan.label_classifier:
        lines.append(f"static float block_outputs[{outputs(plan)}]; /* that the label classifier reads */")
    lines += batch_state(plan)
    lines += [
        "static float losses[FO_BLOCKS]; /* sums over this batch */",
        f"float fo_learning_rate = {number(plan.config.learning_rate)};",
        "float fo_loss[FO_BLOCKS];",
        "",
        f"#define TARGET {target} /* where gradients are added: {target_why} */",
        *kept,
        f"#define SHARE ({share}) /* times this */",
        *definitions(plan),
        *([f"#define FO_SEED {SEED}u"] if plan.contrastive else []),
        "",
    ]
    return "\n".join(lines)


def _target(plan: Plan) -> tuple[str, str]:
    if plan.direct:
        return "weights.trained", "a batch of one needs no memory for them"
    if plan.keeps_gradient:
        return "gradients", "until the batch is complete"
    return "velocity", "it needs no other memory for them"


def _struct(name: str, plan: Plan, kind: str) -> Iterator[str]:
    yield "typedef struct {"
    for part in plan.parts:
        members: dict[str, tuple[int, ...]] = getattr(part, kind)
        if members:
            yield "    struct {"
            for path, shape in members.items():
                yield f"        float {c_name(path)}[{math.prod(shape)}]; /* {' x '.join(map(str, shape))} */"
            yield f"    }} {part.member};"
    yield f"}} {name};"


def _prepare(plan: Plan) -> str:
    """The functions that write the first block's signal."""
    prepare = plan.network.prepare
    pixels = plan.network.shape[1] * plan.network.shape[2]
    lines = [
        "/* One example as the first block's signal. */",
        "static void prepare(const fo_input *x, float *signal)",
        "{",
    ]
    value = "x[i]" if plan.features else "(float)x[i] / 255.0f"
    if prepare.standardise:
        for name, own in (("mean", prepare.mean), ("deviation", prepare.std)):
            values = ", ".join(number(each) for each in own.flatten().tolist())
            lines.append(wrapped(f"    static const float {name}[FO_CHANNELS] = {{{values}}};"))
        value = f"({value} - mean[i / {pixels}]) / deviation[i / {pixels}]"
    lines += ["    for (int i = 0; i < FO_INPUTS; i++) {", f"        signal[i] = {value};", "    }"]
    rule = plan.network.rule
    if isinstance(rule, rules.ForwardForward) and rule.normalise_input:
        length = 1.0 if rule.size == "rms" else 1 / math.sqrt(math.prod(plan.network.shape))
        lines.append(f"    unit_rms(FO_INPUTS, {number(length)}, signal);")
    lines += ["}", ""]
    if isinstance(rule, rules.ForwardForward):
        lines += [
            "/* Writes a label over the first features of a signal. */",
            "static void embed_label(int label, float *signal)",
            "{",
            "    for (int c = 0; c < FO_CLASSES; c++) {",
            f"        signal[c] = c == label ? {number(rule.label_one(prepare.high))} : 0.0f;",
            "    }",
            "}",
            "",
        ]
    if plan.features:
        lines.append(finite_input())
    return "\n".join(lines)


def _members(part: BlockPlan | LabelClassifier) -> list[tuple[str, int]]:
    """The names in C of a part's weights, and how many numbers each has."""
    return [(f"{part.member}.{c_name(path)}", math.prod(shape)) for path, shape in part.parameters.items()]


def _update(plan: Plan) -> str:
    """The functions that begin and end a batch."""
    config, begin, text = plan.config, list[str](), ""
    decay = number(config.weight_decay)
    if plan.keeps_gradient:
        begin.append("memset(&gradients, 0, sizeof(gradients));")
    elif not plan.direct:
        for member, count in (each for part in plan.parts for each in _members(part)):
            begin.append(
                f"blend({count}, {number(plan.momentum)}, {decay}, velocity.{member}, weights.trained.{member});"
            )
    if begin:
        text += function("static void begin_batch(void)", begin, "Before the first example of a batch.")
    ends = {"end_batch": [line for block in plan.blocks for line in _end(plan, block)]}
    if plan.label_classifier:
        ends["end_label_batch"] = list(_end(plan, plan.label_classifier))
    if any("squares" in line for line in ends["end_batch"]):
        text += _squares()
    for name, lines in ends.items():
        what = (
            f"The update{'' if name == 'end_batch' else ' of the label classifier'}, after the last example of a batch."
        )
        text += function(f"static void {name}(void)", lines, what) if lines else ""
    return text


def _end(plan: Plan, part: BlockPlan | LabelClassifier) -> Iterator[str]:
    """The lines that end a batch for one part."""
    if plan.keeps_gradient:
        yield from _from_gradients(plan, part)
        return
    for member, count in _members(part):
        weight = f"weights.trained.{member}"
        if not plan.direct:
            yield f"blend({count}, 1.0f, -fo_learning_rate, {weight}, velocity.{member});"
        elif plan.config.weight_decay:
            yield f"blend({count}, KEPT, 0.0f, {weight}, {weight});"


def _from_gradients(plan: Plan, part: BlockPlan | LabelClassifier) -> Iterator[str]:
    """One part's update from the gradients that it has collected, whose norm may be limited."""
    clip, decay = plan.config.clip, plan.config.weight_decay
    mine, share = _members(part), "1.0f"
    yield "{"
    if clip is not None:
        yield "    float norm = 0.0f;"
        for member, count in mine:
            yield f"    norm += squares({count}, gradients.{member});"
        yield "    norm = sqrtf(norm) + 1e-6f;"
        yield f"    const float share = norm > {number(clip)} ? {number(clip)} / norm : 1.0f;"
        share = "share"
    for member, count in mine:
        weight, velocity, gradient = (f"{of}.{member}" for of in ("weights.trained", "velocity", "gradients"))
        if plan.momentum:
            yield f"    blend({count}, {number(plan.momentum)}, {share}, {velocity}, {gradient});"
            if decay:
                yield f"    blend({count}, 1.0f, {number(decay)}, {velocity}, {weight});"
            yield f"    blend({count}, 1.0f, -fo_learning_rate, {weight}, {velocity});"
        else:
            kept = f"1.0f - fo_learning_rate * {number(decay)}" if decay else "1.0f"
            yield f"    blend({count}, {kept}, -fo_learning_rate * {share}, {weight}, {gradient});"
    yield "}"


def _squares() -> str:
    lines = ["for (int i = 0; i < count; i++) {", "    sum += values[i] * values[i];", "}"]
    signature = "static float squares(int count, const float *values)"
    return function(signature, ["float sum = 0.0f;", *lines, "return sum;"], "The sum of squares.")


def _learn(plan: Plan) -> str:
    """fo_learn, and the step of a group of examples."""
    size, group = math.prod(plan.network.shape), plan.group
    labels = "labels" if group == 1 else "waiting_labels"
    given, own = ("x", "label") if group == 1 else ("waiting[r]", "waiting_labels[r]")
    signal = "memory + SIGNAL_0" + ("" if group == 1 else f" + r * {size}")
    step, ends = list[str](), not plan.direct or bool(plan.config.weight_decay)
    if not plan.direct:
        step += ["begin_batch();"] if plan.batch == group else ["if (seen == 0) {", "    begin_batch();", "}"]
    prepare = f"prepare({given}, {signal});"
    step += label_step(plan, [prepare, f"embed_neutral({signal});"], LEARN.format(own=own))
    end_labels = ["end_label_batch();"] if plan.label_classifier and ends else []
    step += end_labels if plan.batch == group else []
    rows = [prepare]
    if plan.contrastive:
        rows = [
            *draw(plan, own),
            prepare,
            f"prepare({given}, {signal} + {group * size});",
            f"embed_label({own}, {signal});",
            f"embed_label(wrong, {signal} + {group * size});",
        ]
    step += each_example(plan, rows)
    for block in plan.blocks:
        k = block.index
        argument = "" if plan.contrastive else ("&label" if group == 1 else labels)
        step.append(f"{'' if k else 'float '}loss = learn_{k}({argument});")
        share = f" * {number(group)}" if group > 1 and plan.batch != group else ""
        step += ["if (!isfinite(loss)) {", "    return FO_DIVERGED;", "}", f"losses[{k}] += loss{share};"]
        if block.index < len(plan.blocks) - 1 and block.passes:
            step.append(f"pass_{k}({plan.rows});")
    update = ["end_batch();"] if ends else []
    step += finish_batch(plan, update if plan.batch == group else [*update, *end_labels])
    return learn_text(plan, [*step, "return FO_OK;"])


def _predict(plan: Plan) -> str:
    weights: list[float] = plan.network.readout.weights.tolist()
    lines = checks(plan, label=False)
    lines.append("memset(scores, 0, FO_CLASSES * sizeof(float));")
    inner = []
    depth = len(plan.blocks)
    for block in plan.blocks:
        k, weight = block.index, weights[block.index]
        share = "" if weight == 1 else f"{number(weight)} * "
        inner.append(f"forward_{k}(1, 0);")
        if weight and plan.contrastive:
            inner.append(f"scores[c] += {share}goodness_{k}(memory + ACTIVATION_{k});")
        elif weight:
            inner += [
                f"scores_{k}(memory + ACTIVATION_{k}, own);",
                "for (int c = 0; c < CLASSES; c++) {",
                f"    scores[c] += {share}own[c];",
                "}",
            ]
        if k < depth - 1 and block.passes:
            inner.append(f"pass_{k}(1);")
    if by_softmax(plan):
        lines += softmax_lines(plan)
    elif plan.contrastive:
        lines += [
            "for (int c = 0; c < FO_CLASSES; c++) { /* the goodness under each label */",
            "    prepare(x, memory + SIGNAL_0);",
            "    embed_label(c, memory + SIGNAL_0);",
            *(f"    {line}" for line in inner),
            "}",
        ]
    else:
        lines += ["float own[FO_CLASSES];", "prepare(x, memory + SIGNAL_0);", *inner]
    if plan.spare:
        lines += ["for (int c = CLASSES; c < FO_CLASSES; c++) {", "    scores[c] = -INFINITY;", "}"]
    lines.append("return FO_OK;")
    return function("fo_status fo_predict(const fo_input x[FO_INPUTS], float scores[FO_CLASSES])", lines)


def _save(plan: Plan, identity: bytes) -> str:
    """fo_save and fo_load."""
    if not plan.spare:
        return save_text(identity, ["weights"], _reset(plan))
    check = [
        "int32_t count;",
        f"memcpy(&count, bytes + {HEAD} + sizeof(weights), sizeof(count));",
        "if (count < TRAINED || count > FO_CLASSES) {",
        "    return FO_DAMAGED;",
        "}",
    ]
    return save_text(identity, ["weights", "class_count"], [*_reset(plan)], check)


def _reset(plan: Plan) -> list[str]:
    """Lines that follow loading: what the optimiser holds belongs to other weights."""
    lines = ["    memset(&velocity, 0, sizeof(velocity));"] if plan.momentum else []
    lines += ["    count_waiting = 0;"] if plan.group > 1 else []
    lines += ["    seen = 0;"] if plan.batch > plan.group else []
    return [*lines, "    memset(losses, 0, sizeof(losses));"]


def _weights(plan: Plan) -> str:
    """The initial values of the weights."""
    state = plan.network.state_dict()
    kinds = ["parameters", *(["statistics"] if plan.statistics_count else [])]
    lines = ["static fo_weights weights = {"]
    for kind in kinds:
        lines.append("    {")
        for part in plan.parts:
            members = getattr(part, kind)
            if members:
                lines.append("        {")
                for path in members:
                    lines.append(f"            /* {part.name(path)} */")
                    lines += values(state[part.name(path)])
                lines.append("        },")
        lines.append("    },")
    return "\n".join([*lines, "};", ""])
