"""The C of the update after a batch in whole numbers; `int8_update.py` is its definition."""

import math
from collections.abc import Iterator

from forwardonly.export.c.int8_update import NORM_BITS, clip_limit, mean_share, unit_bits
from forwardonly.export.c.int8_weights import is_bias
from forwardonly.export.c.plan import BlockPlan, LabelClassifier, Plan
from forwardonly.export.c.text import c_name, function


def steps_struct(plan: Plan) -> Iterator[str]:
    """The sums of a batch's steps, by the names of the weights."""
    yield "/* The steps of a batch, added up: in 65536ths of a weight's unit, and in that of a bias. */"
    yield "typedef struct {"
    for part in plan.parts:
        yield "    struct {"
        for path, shape in part.parameters.items():
            yield f"        int32_t {c_name(path)}[{math.prod(shape)}]; /* {' x '.join(map(str, shape))} */"
        yield f"    }} {part.member};"
    yield "} fo_steps;"
    yield ""
    yield "static fo_steps steps;"


def update_text(plan: Plan, exponents: dict[str, int], parts: set[str]) -> str:
    """The functions that end a batch; the C functions that they call are noted in `parts`."""
    texts, lines, clips = list[str](), dict[str, list[str]](), plan.config.clip is not None
    parts |= {"step_norm"} if clips else set()
    for part in plan.parts:
        if clips:
            texts.append(_clipped(plan, part, exponents))
        name = "end_label_batch" if part is plan.label_classifier else "end_batch"
        share = f"clipped_{_suffix(part)}()" if clips else f"{mean_share(plan)}"
        lines[name] = [*lines.get(name, []), *_take(part, share, parts)]
    for name, own in lines.items():
        of = " of the label classifier" if name == "end_label_batch" else ""
        texts.append(function(f"static void {name}(void)", own, f"The update{of}, after the last example of a batch."))
    return "\n".join(texts)


def _suffix(part: BlockPlan | LabelClassifier) -> str:
    """What the names of a part's functions end with."""
    return str(part.index) if isinstance(part, BlockPlan) else "labels"


def _take(part: BlockPlan | LabelClassifier, share: str, parts: set[str]) -> Iterator[str]:
    """The lines that take a part's steps."""
    yield "{"
    yield f"    const int64_t share = {share}; /* of 2^30 */"
    for path, shape in part.parameters.items():
        member, count = f"{part.member}.{c_name(path)}", math.prod(shape)
        if is_bias(path):
            parts.add("take_bias_steps")
            yield f"    take_bias_steps({count}, share, steps.{member}, biases.{member});"
        else:
            parts |= {"move", "take_steps"}
            yield f"    take_steps({count}, share, steps.{member}, weights.{member}, weights.{member}_error);"
    yield f"    memset(&steps.{part.member}, 0, sizeof(steps.{part.member}));"
    yield "}"


def _clipped(plan: Plan, part: BlockPlan | LabelClassifier, exponents: dict[str, int]) -> str:
    """The function that limits the norm of a part's gradient."""
    bits = {path: unit_bits(exponents, part.name(path)) for path in part.parameters}
    coarsest = min(bits.values())
    sums = {
        path: (math.prod(shape), bits[path] - coarsest, f"steps.{part.member}.{c_name(path)}")
        for path, shape in part.parameters.items()
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
        "const int64_t norm = root(squares), rate = whole_rate();",
        f"const int64_t limit = shifted(rate * {clip_limit(plan)}, {32 - coarsest} + down);",
        f"return norm <= limit ? {mean_share(plan)} : divided(limit * 1073741824, norm * {plan.batch});",
    ]
    what = (
        "By what its steps are multiplied, at 2^30: 1 / batch, less where the mean gradient's norm is above "
        f"{plan.config.clip:g}."
    )
    return function(f"static int64_t clipped_{_suffix(part)}(void)", lines, what)
