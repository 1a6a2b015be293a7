"""The C of the update after a batch in whole numbers; `int8_update.py` is its definition."""

import math
from collections.abc import Iterator

from forwardonly.export.c.int8_update import NORM_BITS, clip_limit, mean_share, unit_bits
from forwardonly.export.c.int8_weights import is_bias
from forwardonly.export.c.plan import BlockPlan, Plan
from forwardonly.export.c.text import c_name, function


def steps_struct(plan: Plan) -> Iterator[str]:
    """The sums of a batch's steps, by the names of the weights."""
    yield "/* The steps of a batch, added up: in 65536ths of a weight's unit, and in that of a bias. */"
    yield "typedef struct {"
    for block in plan.blocks:
        yield "    struct {"
        for path, shape in block.parameters.items():
            yield f"        int32_t {c_name(path)}[{math.prod(shape)}]; /* {' x '.join(map(str, shape))} */"
        yield f"    }} blocks_{block.index};"
    yield "} fo_steps;"
    yield ""
    yield "static fo_steps steps;"


def update_text(plan: Plan, exponents: dict[str, int], parts: set[str]) -> str:
    """The function that ends a batch; the C functions that it calls are noted in `parts`."""
    texts, lines, clips = list[str](), list[str](), plan.config.clip is not None
    parts |= {"step_norm"} if clips else set()
    for block in plan.blocks:
        if clips:
            texts.append(_clipped(plan, block, exponents))
        lines += _take(block, f"clipped_{block.index}()" if clips else f"{mean_share(plan)}", parts)
    lines.append("memset(&steps, 0, sizeof(steps));")
    what = "The update, after the last example of a batch."
    return "\n".join([*texts, function("static void end_batch(void)", lines, what)])


def _take(block: BlockPlan, share: str, parts: set[str]) -> Iterator[str]:
    """The lines that take a block's steps."""
    yield "{"
    yield f"    const int64_t share = {share}; /* of 2^30 */"
    for path, shape in block.parameters.items():
        member, count = f"blocks_{block.index}.{c_name(path)}", math.prod(shape)
        if is_bias(path):
            parts.add("take_bias_steps")
            yield f"    take_bias_steps({count}, share, steps.{member}, biases.{member});"
        else:
            parts |= {"move", "take_steps"}
            yield f"    take_steps({count}, share, steps.{member}, weights.{member}, weights.{member}_error);"
    yield "}"


def _clipped(plan: Plan, block: BlockPlan, exponents: dict[str, int]) -> str:
    """The function that limits the norm of a block's gradient."""
    bits = {path: unit_bits(exponents, block.name(path)) for path in block.parameters}
    coarsest = min(bits.values())
    sums = {
        path: (math.prod(shape), bits[path] - coarsest, f"steps.blocks_{block.index}.{c_name(path)}")
        for path, shape in block.parameters.items()
    }
    lines = [
        "int64_t largest = 0, squares = 0;",
        "int down = 0;",
        *(f"largest = largest_step({count}, {more}, {name}, largest);" for count, more, name in sums.values()),
        f"while (largest >> down >= {1 << NORM_BITS}) {{ /* so that the squares fit */",
        "    down++;",
        "}",
        *(f"squares += squared_steps({count}, {more} + down, {name});" for count, more, name in sums.values()),
        f"/* Both of {coarsest} - down bits behind the point. */",
        "const int64_t norm = root(squares), rate = (int64_t)(fo_learning_rate * 65536.0f + 0.5f);",
        f"const int64_t limit = shifted(rate * {clip_limit(plan)}, {32 - coarsest} + down);",
        f"return norm <= limit ? {mean_share(plan)} : divided(limit * 1073741824, norm * {plan.batch});",
    ]
    what = (
        "By what the block's steps are multiplied, at 2^30: 1 / batch, less where the mean gradient's norm is above "
        f"{plan.config.clip:g}."
    )
    return function(f"static int64_t clipped_{block.index}(void)", lines, what)
