"""The header of the C file, and what tells nets apart."""

import hashlib
import json
import math
from typing import Any

from forwardonly.export.c import float_emit, int8_emit
from forwardonly.export.c.int8_arithmetic import LARGEST_RATE
from forwardonly.export.c.int8_weights import quantise
from forwardonly.export.c.new_class import constant_bytes
from forwardonly.export.c.plan import BlockPlan, Plan
from forwardonly.export.c.text import HEAD
from forwardonly.version import __version__


def identity(plan: Plan) -> bytes:
    """8 bytes that tell nets apart: the same only where one's weights make sense in the other."""
    blocks = [
        [
            [each.path, each.incoming, each.outgoing, each.pool, each.norm, each.relu, each.flattened, each.standardise]
            for each in block.stages
        ]
        + [sorted(block.parameters.items()), sorted(block.statistics.items()), block.passes, _options(plan, block)]
        for block in plan.blocks
    ]
    if plan.label_classifier:
        blocks.append([sorted(plan.label_classifier.parameters.items())])
    scales = quantise(plan).exponents if plan.precision == "int8" else None
    text = json.dumps([plan.precision, plan.network.shape, plan.rule_name, plan.features, blocks, scales])
    return hashlib.sha256(text.encode()).digest()[:8]


def _options(plan: Plan, block: BlockPlan) -> dict[str, Any]:
    return {**block.rule.options(), "classes": plan.classes}


def memory_table(plan: Plan) -> dict[str, int]:
    """Bytes of static memory, by what they hold."""
    return (int8_emit if plan.precision == "int8" else float_emit).memory_table(plan)


def content_bytes(plan: Plan) -> int:
    """Bytes of the saved weights, without their head."""
    if plan.precision == "int8":
        return int8_emit.content_bytes(plan)
    return 4 * (plan.parameter_count + plan.statistics_count + bool(plan.spare))


def header(plan: Plan) -> str:
    """The text of the header."""
    table = memory_table(plan)
    network, rule = plan.network, plan.network.rule
    rows = [f" *   {bytes_:9,d}  {what}" for what, bytes_ in table.items()]
    depth, inputs = len(plan.blocks), math.prod(network.shape)
    kind = "float" if plan.features else "unsigned char"
    means = "any finite number" if plan.features else "a pixel from 0 to 255"
    updates = "each call" if plan.batch == 1 else f"every {plan.batch} calls"
    momentum = f"SGD with momentum {plan.momentum:g}" if plan.momentum else "plain SGD"
    net = f"rule {plan.rule_name}, {depth} block(s), {network.classes} classes"
    most, spare, constants = "", "", ""
    if plan.spare:
        most = f" /* the most that it can have; {network.classes} at the start */"
        constants = f"\n * For new classes, constants take {constant_bytes(plan):,} bytes more; they are never written."
        spare = """
/* Adds a class from some of its examples, one behind the other; ten are enough. It gets the next label, and the others
 * keep their scores. Until then its score is minus infinity. */
fo_status fo_add_class(const fo_input *examples, int count);
"""
    rates = f"; counts in 65536ths, from 0 to {LARGEST_RATE}" if plan.precision == "int8" else ""
    how = "with" if rule.end_to_end else "without"
    return f"""/* A network that learns {how} backpropagation: {net}.
 * Written by forwardonly {__version__}; the equations are those of the library's rules.
 *
 * Static memory in bytes, all of it known at compile time:
{chr(10).join(rows)}
 *   {sum(table.values()):9,d}  in all; nothing is allocated{constants}
 *
 * {plan.precision}, {momentum}, an update with {updates}. Not for several threads at once.
 */
#ifndef FO_TRAINING_STEP_H
#define FO_TRAINING_STEP_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {{
#endif

#define FO_CHANNELS {network.shape[0]}
#define FO_HEIGHT {network.shape[1]}
#define FO_WIDTH {network.shape[2]}
#define FO_INPUTS {inputs} /* numbers of one example: channels, then rows, then columns */
#define FO_CLASSES {plan.classes}{most}
#define FO_SPARE_CLASSES {plan.spare} /* of these, for fo_add_class */
#define FO_BLOCKS {depth}
#define FO_BATCH {plan.batch} /* examples whose gradients make one update */
#define FO_STATIC_BYTES {sum(table.values())}
#define FO_SAVED_BYTES {HEAD + content_bytes(plan)} /* of saved weights */

typedef {kind} fo_input; /* {means} */

typedef enum {{
    FO_OK = 0,
    FO_BAD_INPUT,    /* an input is NaN or infinite: nothing has changed */
    FO_BAD_LABEL,    /* a label is not from 0 to FO_CLASSES - 1: nothing has changed */
    FO_DIVERGED,     /* a loss is NaN or infinite: load weights from before */
    FO_WRONG_LENGTH, /* saved weights of another length: nothing has changed */
    FO_OTHER_NET,    /* saved weights of another net: nothing has changed */
    FO_DAMAGED,      /* saved weights with a wrong checksum: nothing has changed */
    FO_NO_ROOM       /* there are FO_CLASSES classes already: nothing has changed */
}} fo_status;

extern float fo_learning_rate;    /* may be changed at any time{rates} */
extern float fo_loss[FO_BLOCKS];  /* each block's mean loss in the last update */

/* Learns one example. */
fo_status fo_learn(const fo_input x[FO_INPUTS], int label);

/* The scores of one example: the class with the highest is predicted. */
fo_status fo_predict(const fo_input x[FO_INPUTS], float scores[FO_CLASSES]);
{spare}
/* Writes the weights as bytes. The optimiser's state is not saved. */
void fo_save(unsigned char bytes[FO_SAVED_BYTES]);

/* Reads weights that fo_save wrote, on this device or another one of its byte order. */
fo_status fo_load(const unsigned char *bytes, size_t length);

#ifdef __cplusplus
}}
#endif

#endif
"""
