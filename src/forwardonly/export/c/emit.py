"""The C file and its header: declarations, the weights, and the functions that a program calls."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator

from torch import Tensor

from forwardonly import rules
from forwardonly.export.c import parts
from forwardonly.export.c.blocks import BlockWriter, c_name, number, wrapped
from forwardonly.export.c.buffers import Buffers, lay_out
from forwardonly.export.c.plan import BlockPlan, Plan
from forwardonly.version import __version__

NAME = "training_step"
"""Stem of both files."""
SEED = 1
"""Seed of the random numbers."""
MAGIC = b"FOC1"
"""First bytes of saved weights."""
HEAD = 20
"""Bytes of saved weights before the weights: magic, identity of the net (8), their length (4), their checksum (4)."""


def identity(plan: Plan) -> bytes:
    """8 bytes that tell nets apart: the same only where one's weights make sense in the other."""
    blocks = [
        [
            [each.path, each.incoming, each.outgoing, each.pool, each.norm, each.relu, each.standardise]
            for each in block.stages
        ]
        + [sorted(block.parameters.items()), sorted(block.statistics.items()), block.passes, block.rule.options()]
        for block in plan.blocks
    ]
    text = json.dumps([plan.network.shape, plan.rule_name, plan.features, blocks])
    return hashlib.sha256(text.encode()).digest()[:8]


def memory_table(plan: Plan, buffers: Buffers) -> dict[str, int]:
    """Bytes of static memory, by what they hold."""
    weights = 4 * (plan.parameter_count + plan.statistics_count)
    optimiser = 4 * plan.parameter_count * (bool(plan.momentum) + plan.keeps_gradient)
    activations = 4 * (buffers.memory + buffers.fan_in) + buffers.winners
    waiting = plan.group * ((4 if plan.features else 1) * math.prod(plan.network.shape) + 4) if plan.group > 1 else 0
    depth = len(plan.blocks)
    counters = 4 + 8 * depth + 4 * (plan.batch > 1) + 4 * (plan.group > 1) + 4 * plan.contrastive
    return {
        "weights": weights,
        "optimiser": optimiser,
        "activations of one block": activations,
        "waiting examples": waiting,
        "losses and counters": counters,
    }


def emit(plan: Plan) -> tuple[str, str]:
    """The text of the C file and of its header."""
    buffers = lay_out(plan)
    return _source(plan, buffers), _header(plan, buffers)


def _header(plan: Plan, buffers: Buffers) -> str:
    table = memory_table(plan, buffers)
    network, rule = plan.network, plan.network.rule
    rows = [f" *   {bytes_:9,d}  {what}" for what, bytes_ in table.items()]
    depth, inputs = len(plan.blocks), math.prod(network.shape)
    kind = "float" if plan.features else "unsigned char"
    means = "any finite number" if plan.features else "a pixel from 0 to 255"
    updates = "each call" if plan.batch == 1 else f"every {plan.batch} calls"
    momentum = f"SGD with momentum {plan.momentum:g}" if plan.momentum else "plain SGD"
    return f"""/* A network that learns without backpropagation: rule {plan.rule_name}, {depth} block(s), {network.classes} classes.
 * Written by forwardonly {__version__}; the equations are those of the library's rules.
 *
 * Static memory in bytes, all of it known at compile time:
{chr(10).join(rows)}
 *   {sum(table.values()):9,d}  in all; nothing is allocated
 *
 * float32, {momentum}, an update with {updates}. Not for several threads at once.
 */
#ifndef FO_TRAINING_STEP_H
#define FO_TRAINING_STEP_H

#include <stddef.h>

#define FO_CHANNELS {network.shape[0]}
#define FO_HEIGHT {network.shape[1]}
#define FO_WIDTH {network.shape[2]}
#define FO_INPUTS {inputs} /* numbers of one example: channels, then rows, then columns */
#define FO_CLASSES {rule.classes}
#define FO_BLOCKS {depth}
#define FO_BATCH {plan.batch} /* examples whose gradients make one update */
#define FO_STATIC_BYTES {sum(table.values())}
#define FO_SAVED_BYTES {HEAD + table["weights"]} /* of saved weights */

typedef {kind} fo_input; /* {means} */

typedef enum {{
    FO_OK = 0,
    FO_BAD_INPUT,    /* an input is NaN or infinite: nothing has changed */
    FO_BAD_LABEL,    /* a label is not from 0 to FO_CLASSES - 1: nothing has changed */
    FO_DIVERGED,     /* a loss is NaN or infinite: load weights from before */
    FO_WRONG_LENGTH, /* saved weights of another length: nothing has changed */
    FO_OTHER_NET,    /* saved weights of another net: nothing has changed */
    FO_DAMAGED       /* saved weights with a wrong checksum: nothing has changed */
}} fo_status;

extern float fo_learning_rate;    /* may be changed at any time */
extern float fo_loss[FO_BLOCKS];  /* each block's mean loss in the last update */

/* Learns one example. */
fo_status fo_learn(const fo_input x[FO_INPUTS], int label);

/* The scores of one example: the class with the highest is predicted. */
fo_status fo_predict(const fo_input x[FO_INPUTS], float scores[FO_CLASSES]);

/* Writes the weights as bytes. The optimiser's state is not saved. */
void fo_save(unsigned char bytes[FO_SAVED_BYTES]);

/* Reads weights that fo_save wrote, on this device or another one of its byte order. */
fo_status fo_load(const unsigned char *bytes, size_t length);

#endif
"""


def _source(plan: Plan, buffers: Buffers) -> str:
    wanted: set[str] = set() if plan.direct and not plan.config.weight_decay else {"update"}
    blocks = [BlockWriter(plan, buffers, block, wanted).text() for block in plan.blocks]
    if plan.contrastive:
        wanted |= {"random", "unit_rms"}
    functions = parts.text_of(wanted)
    pieces = [
        _declarations(plan, buffers),
        functions,
        *blocks,
        _prepare(plan),
        _update(plan),
        _learn(plan),
        _predict(plan),
        _save(plan),
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
        f'/* See {NAME}.h. Each block learns from a loss of its own, while the example passes through. */',
        f'#include "{NAME}.h"',
        "",
        "#include <math.h>",
        *(["#include <stdint.h>"] if plan.contrastive else []),
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
    if plan.group > 1:
        lines.append(f"static fo_input waiting[{plan.group}][FO_INPUTS]; /* examples of the batch to come */")
        lines.append(f"static int waiting_labels[{plan.group}];")
        lines.append("static int count_waiting;")
    if plan.batch > 1:
        lines.append("static int seen; /* examples of this batch that were learned */")
    lines += [
        "static float losses[FO_BLOCKS]; /* sums over this batch */",
        f"float fo_learning_rate = {number(plan.config.learning_rate)};",
        "float fo_loss[FO_BLOCKS];",
        "",
        f"#define TARGET {target} /* where gradients are added: {target_why} */",
        *kept,
        f"#define SHARE ({share}) /* times this */",
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
    for block in plan.blocks:
        members: dict[str, tuple[int, ...]] = getattr(block, kind)
        if members:
            yield "    struct {"
            for path, shape in members.items():
                yield f"        float {c_name(path)}[{math.prod(shape)}]; /* {' x '.join(map(str, shape))} */"
            yield f"    }} blocks_{block.index};"
    yield f"}} {name};"


def _prepare(plan: Plan) -> str:
    """The functions that write the first block's signal."""
    prepare = plan.network.prepare
    pixels = plan.network.shape[1] * plan.network.shape[2]
    lines = ["/* One example as the first block's signal. */", "static void prepare(const fo_input *x, float *signal)", "{"]
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
        high = prepare.high if rule.label_value is None else rule.label_value
        lines += [
            "/* Writes a label over the first features of a signal. */",
            "static void embed_label(int label, float *signal)",
            "{",
            "    for (int c = 0; c < FO_CLASSES; c++) {",
            f"        signal[c] = c == label ? {number(high)} : 0.0f;",
            "    }",
            "}",
            "",
        ]
    if plan.features:
        lines += [
            "/* Whether all numbers of an example are finite. */",
            "static int finite_input(const fo_input *x)",
            "{",
            "    for (int i = 0; i < FO_INPUTS; i++) {",
            "        if (!isfinite(x[i])) {",
            "            return 0;",
            "        }",
            "    }",
            "    return 1;",
            "}",
            "",
        ]
    return "\n".join(lines)


def _members(plan: Plan) -> Iterator[tuple[BlockPlan, str, int]]:
    for block in plan.blocks:
        for path, shape in block.parameters.items():
            yield block, f"blocks_{block.index}.{c_name(path)}", math.prod(shape)


def _update(plan: Plan) -> str:
    """The functions that begin and end a batch."""
    config, begin, end = plan.config, [], []
    decay = number(config.weight_decay)
    for _, member, count in _members(plan):
        weight, velocity = f"weights.trained.{member}", f"velocity.{member}"
        if plan.direct:
            if config.weight_decay:
                end.append(f"blend({count}, KEPT, 0.0f, {weight}, {weight});")
        elif not plan.keeps_gradient:
            begin.append(f"blend({count}, {number(plan.momentum)}, {decay}, {velocity}, {weight});")
            end.append(f"blend({count}, 1.0f, -fo_learning_rate, {weight}, {velocity});")
    if plan.keeps_gradient:
        begin.append("memset(&gradients, 0, sizeof(gradients));")
        for block in plan.blocks:
            end += _from_gradients(plan, block)
    text = ""
    if begin:
        text += _body("static void begin_batch(void)", begin, "Before the first example of a batch.")
    if any("squares" in line for line in end):
        text += _squares()
    if end:
        text += _body("static void end_batch(void)", end, "The update, after the last example of a batch.")
    return text


def _from_gradients(plan: Plan, block: BlockPlan) -> Iterator[str]:
    """One block's update from the gradients that it has collected, whose norm may be limited."""
    clip, decay = plan.config.clip, plan.config.weight_decay
    mine = [(f"blocks_{block.index}.{c_name(path)}", math.prod(shape)) for path, shape in block.parameters.items()]
    share = "1.0f"
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
    return _body(
        "static float squares(int count, const float *values)",
        ["float sum = 0.0f;", "for (int i = 0; i < count; i++) {", "    sum += values[i] * values[i];", "}", "return sum;"],
        "The sum of squares.",
    )


def _learn(plan: Plan) -> str:
    """fo_learn, and the step of a group of examples."""
    size, group = math.prod(plan.network.shape), plan.group
    labels = "labels" if group == 1 else "waiting_labels"
    given = "x" if group == 1 else "waiting[r]"
    step = []
    if not plan.direct:
        step += ["begin_batch();"] if plan.batch == group else ["if (seen == 0) {", "    begin_batch();", "}"]
    if plan.contrastive:
        rows = [
            f"const int wrong = ({_label(group)} + 1 + (int)(random_next() % (FO_CLASSES - 1u))) % FO_CLASSES;",
            f"prepare({given}, memory + SIGNAL_0 + {_row('r', size, group)});",
            f"prepare({given}, memory + SIGNAL_0 + {_row(f'{group} + r', size, 0)});",
            f"embed_label({_label(group)}, memory + SIGNAL_0 + {_row('r', size, group)});",
            f"embed_label(wrong, memory + SIGNAL_0 + {_row(f'{group} + r', size, 0)});",
        ]
    else:
        rows = [f"prepare({given}, memory + SIGNAL_0{'' if group == 1 else f' + r * {size}'});"]
    if group == 1:
        step += [row.replace("1 + r", "1").replace(" + r * 0", "") for row in rows]
    else:
        step += [f"for (int r = 0; r < {group}; r++) {{", *(f"    {row}" for row in rows), "}"]
    for block in plan.blocks:
        k = block.index
        argument = "" if plan.contrastive else ("&label" if group == 1 else labels)
        step.append(f"{'' if k else 'float '}loss = learn_{k}({argument});")
        share = f" * {number(group)}" if group > 1 and plan.batch != group else ""
        step += ["if (!isfinite(loss)) {", "    return FO_DIVERGED;", "}", f"losses[{k}] += loss{share};"]
        if block.index < len(plan.blocks) - 1 and block.passes:
            step.append(f"pass_{k}({plan.rows});")
    finish = ["end_batch();"] if not plan.direct or plan.config.weight_decay else []
    each = "losses[k]" if plan.batch == group else f"losses[k] / {number(plan.batch)}"
    finish += [
        "for (int k = 0; k < FO_BLOCKS; k++) {",
        f"    fo_loss[k] = {each};",
        "    losses[k] = 0.0f;",
        "}",
    ]
    if plan.batch == group:
        step += finish
    else:
        step += ["seen++;", "if (seen == FO_BATCH) {", *(f"    {line}" for line in finish), "    seen = 0;", "}"]
    step.append("return FO_OK;")
    checks = ["if (!finite_input(x)) {", "    return FO_BAD_INPUT;", "}"] if plan.features else []
    checks += ["if (label < 0 || label >= FO_CLASSES) {", "    return FO_BAD_LABEL;", "}"]
    signature = "fo_status fo_learn(const fo_input x[FO_INPUTS], int label)"
    if group == 1:
        return _body(signature, checks + step, "")
    queue = [
        "memcpy(waiting[count_waiting], x, sizeof(waiting[0]));",
        "waiting_labels[count_waiting] = label;",
        "count_waiting++;",
        f"if (count_waiting < {group}) {{",
        "    return FO_OK;",
        "}",
        "count_waiting = 0;",
        "return learn_waiting();",
    ]
    text = _body("static fo_status learn_waiting(void)", step, "A step on the examples that wait: a batch.")
    return text + _body(signature, checks + queue, "")


def _label(group: int) -> str:
    return "label" if group == 1 else "waiting_labels[r]"


def _row(row: str, size: int, group: int) -> str:
    return "0" if group == 1 else f"({row}) * {size}" if "+" in row else f"{row} * {size}"


def _predict(plan: Plan) -> str:
    weights: list[float] = plan.network.readout.weights.tolist()
    lines = ["if (!finite_input(x)) {", "    return FO_BAD_INPUT;", "}"] if plan.features else []
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
                "for (int c = 0; c < FO_CLASSES; c++) {",
                f"    scores[c] += {share}own[c];",
                "}",
            ]
        if k < depth - 1 and block.passes:
            inner.append(f"pass_{k}(1);")
    if plan.contrastive:
        lines += [
            "for (int c = 0; c < FO_CLASSES; c++) { /* the goodness under each label */",
            "    prepare(x, memory + SIGNAL_0);",
            "    embed_label(c, memory + SIGNAL_0);",
            *(f"    {line}" for line in inner),
            "}",
        ]
    else:
        lines += ["float own[FO_CLASSES];", "prepare(x, memory + SIGNAL_0);", *inner]
    lines.append("return FO_OK;")
    return _body("fo_status fo_predict(const fo_input x[FO_INPUTS], float scores[FO_CLASSES])", lines, "")


def _save(plan: Plan) -> str:
    ident = ", ".join(f"0x{byte:02x}" for byte in MAGIC + identity(plan))
    reset = []
    if plan.momentum:
        reset.append("    memset(&velocity, 0, sizeof(velocity));")
    if plan.group > 1:
        reset.append("    count_waiting = 0;")
    if plan.batch > 1:
        reset.append("    seen = 0;")
    reset.append("    memset(losses, 0, sizeof(losses));")
    return f"""/* The format of saved weights, and this net. */
static const unsigned char identity[{len(MAGIC) + 8}] = {{
    {ident}}};

/* FNV-1a of some bytes. */
static unsigned long checksum(const unsigned char *bytes, size_t count)
{{
    unsigned long hash = 2166136261UL;
    for (size_t i = 0; i < count; i++) {{
        hash = ((hash ^ bytes[i]) * 16777619UL) & 0xffffffffUL;
    }}
    return hash;
}}

/* Four bytes of a number, lowest first. */
static void put(unsigned char *bytes, unsigned long value)
{{
    for (int i = 0; i < 4; i++) {{
        bytes[i] = (unsigned char)(value >> (8 * i) & 0xff);
    }}
}}

void fo_save(unsigned char bytes[FO_SAVED_BYTES])
{{
    memcpy(bytes, identity, sizeof(identity));
    put(bytes + 12, sizeof(weights));
    memcpy(bytes + {HEAD}, &weights, sizeof(weights));
    put(bytes + 16, checksum(bytes + {HEAD}, sizeof(weights)));
}}

fo_status fo_load(const unsigned char *bytes, size_t length)
{{
    unsigned char numbers[8];
    if (length != FO_SAVED_BYTES) {{
        return FO_WRONG_LENGTH;
    }}
    if (memcmp(bytes, identity, sizeof(identity)) != 0) {{
        return FO_OTHER_NET;
    }}
    put(numbers, sizeof(weights));
    put(numbers + 4, checksum(bytes + {HEAD}, sizeof(weights)));
    if (memcmp(bytes + 12, numbers, sizeof(numbers)) != 0) {{
        return FO_DAMAGED;
    }}
    memcpy(&weights, bytes + {HEAD}, sizeof(weights));
{chr(10).join(reset)}
    return FO_OK;
}}
"""


def _weights(plan: Plan) -> str:
    """The initial values of the weights."""
    state = plan.network.state_dict()
    kinds = ["parameters", *(["statistics"] if plan.statistics_count else [])]
    lines = ["static fo_weights weights = {"]
    for kind in kinds:
        lines.append("    {")
        for block in plan.blocks:
            members = getattr(block, kind)
            if members:
                lines.append("        {")
                for path in members:
                    lines.append(f"            /* blocks.{block.index}.{path} */")
                    lines += _values(state[f"blocks.{block.index}.{path}"])
                lines.append("        },")
        lines.append("    },")
    return "\n".join([*lines, "};", ""])


def _values(tensor: Tensor) -> Iterator[str]:
    numbers: Iterable[float] = tensor.detach().cpu().contiguous().flatten().tolist()
    words = [number(each) for each in numbers]
    for start in range(0, len(words), 8):
        opening = "            {" if start == 0 else "             "
        closing = "}," if start + 8 >= len(words) else ","
        yield opening + ", ".join(words[start : start + 8]) + closing


def _body(signature: str, lines: list[str], what: str) -> str:
    head = [f"/* {what} */"] if what else []
    return "\n".join([*head, signature, "{", *(wrapped(f"    {line}") for line in lines), "}", "", ""])
