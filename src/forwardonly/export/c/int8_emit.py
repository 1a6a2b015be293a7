"""The C file in whole numbers."""

import math
from collections.abc import Iterator

from forwardonly.export.c import parts
from forwardonly.export.c.int8 import ONE, PART, WHOLE, Quantised, is_bias, quantise
from forwardonly.export.c.int8_blocks import Int8BlockWriter
from forwardonly.export.c.int8_buffers import Int8Buffers, lay_out_int8
from forwardonly.export.c.plan import Plan
from forwardonly.export.c.text import NAME, c_name, checks, finite_input, function, number, save_text, wrapped


def sizes(plan: Plan) -> dict[str, int]:
    """How many biases (int32) and how many weights (int8, with an int8 error each)."""
    found = {"biases": 0, "weights": 0}
    for block in plan.blocks:
        for path, shape in block.parameters.items():
            found["biases" if is_bias(path) else "weights"] += math.prod(shape)
    return found


def memory_table(plan: Plan) -> dict[str, int]:
    """Bytes of static memory, by what they hold."""
    held, buffers = sizes(plan), lay_out_int8(plan)
    whole = buffers.memory
    return {
        "weights": 4 * held["biases"] + held["weights"],
        "errors of weights": held["weights"],
        "activations of one block": whole.memory + whole.winners + 4 * (buffers.gradients + whole.fan_in),
        "losses and counters": 4 + 4 * len(plan.blocks),
    }


def emit_int8(plan: Plan, identity: bytes) -> str:
    """The text of the C file."""
    quantised, buffers = quantise(plan), lay_out_int8(plan)
    wanted: set[str] = {"rounding"}
    writers = [Int8BlockWriter(plan, buffers, block, wanted, quantised.exponents) for block in plan.blocks]
    blocks = [writer.text() for writer in writers]
    functions = parts.int8_text_of(wanted)
    for name, table in (("FO_WHOLE", WHOLE), ("FO_PART", PART)):
        functions = functions.replace(f"{{{name}}}", wrapped("{" + ", ".join(map(str, table)) + "}"))
    held = [name for name, count in sizes(plan).items() if count]
    pieces = [
        _declarations(plan, buffers),
        functions,
        *blocks,
        _prepare(plan),
        _learn(plan),
        _predict(plan, writers),
        save_text(identity, held, ["    memset(fo_loss, 0, sizeof(fo_loss));"]),
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
    if held["biases"]:
        lines += ["/* The biases, by their names in Python. */", *_struct(plan, "fo_biases", biases=True), ""]
    lines += [
        "/* The weights, by their names in Python; beside each its error, in 256ths of a weight's unit. */",
        *_struct(plan, "fo_weights", biases=False),
        "",
        "/* Their first values stand at the end of this file. */",
        *(["static fo_biases biases;"] if held["biases"] else []),
        "static fo_weights weights;",
        "",
        f"static int8_t memory[{whole.memory}]; /* of one block at a time */",
        f"static int32_t gradients[{buffers.gradients}]; /* of one block at a time */",
    ]
    if whole.fan_in:
        lines.append(f"static int32_t sums[{whole.fan_in}]; /* of a convolution's gradient */")
    if whole.winners:
        lines.append(f"static unsigned char winners[{whole.winners}]; /* places of maxima */")
    lines += [f"float fo_learning_rate = {number(plan.config.learning_rate)};", "float fo_loss[FO_BLOCKS];", ""]
    return "\n".join(lines)


def _struct(plan: Plan, name: str, *, biases: bool) -> Iterator[str]:
    yield "typedef struct {"
    for block in plan.blocks:
        members = {path: shape for path, shape in block.parameters.items() if is_bias(path) == biases}
        if members:
            yield "    struct {"
            for path, shape in members.items():
                count, words = math.prod(shape), " x ".join(map(str, shape))
                yield f"        {'int32_t' if biases else 'int8_t'} {c_name(path)}[{count}]; /* {words} */"
                if not biases:
                    yield f"        int8_t {c_name(path)}_error[{count}];"
            yield f"    }} blocks_{block.index};"
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


def _learn(plan: Plan) -> str:
    lines = [*checks(plan), "prepare(x, memory + SIGNAL_0);"]
    for block in plan.blocks:
        lines.append(f"fo_loss[{block.index}] = learn_{block.index}(label);")
        if block.passes:
            lines.append(f"pass_{block.index}();")
    return function("fo_status fo_learn(const fo_input x[FO_INPUTS], int label)", [*lines, "return FO_OK;"])


def _predict(plan: Plan, writers: list[Int8BlockWriter]) -> str:
    lines = checks(plan, label=False)
    lines += ["int64_t own[FO_CLASSES];", "memset(scores, 0, FO_CLASSES * sizeof(float));"]
    lines.append("prepare(x, memory + SIGNAL_0);")
    for writer, weight in zip(writers, plan.network.readout.weights.tolist(), strict=True):
        k = writer.index
        share = number(weight * 2.0**-writer.score_bits)
        lines += [
            f"forward_{k}();",
            f"scores_{k}(own);",
            "for (int c = 0; c < FO_CLASSES; c++) {",
            f"    scores[c] += (float)own[c] * {share};",
            "}",
        ]
        if writer.block.passes:
            lines.append(f"pass_{k}();")
    signature = "fo_status fo_predict(const fo_input x[FO_INPUTS], float scores[FO_CLASSES])"
    return function(signature, [*lines, "return FO_OK;"])


def _weights(plan: Plan, quantised: Quantised) -> str:
    lines = []
    for biases, kind in ((True, "biases"), (False, "weights")):
        if not sizes(plan)[kind]:
            continue
        lines.append(f"static fo_{kind} {kind} = {{")
        for block in plan.blocks:
            members = [path for path in block.parameters if is_bias(path) == biases]
            if members:
                lines.append("    {")
                for path in members:
                    name = f"blocks.{block.index}.{path}"
                    lines.append(f"        /* {name}, e = {quantised.exponents[name]} */")
                    lines += _values(quantised.weights[name].reshape(-1).tolist())
                    if not biases:
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
    return 4 * held["biases"] + 2 * held["weights"]
