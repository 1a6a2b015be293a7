"""Pieces of C that every exported file has: names, numbers, functions, and the format of saved weights."""

import math
from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor

from forwardonly.export.c.plan import Plan

NAME = "training_step"
"""Stem of both files."""
SEED = 1
"""Seed of the random numbers in C."""
MAGIC = b"FOC1"
"""First bytes of saved weights."""
HEAD = 20
"""Bytes of saved weights before the weights: magic, identity of the net (8), their length (4), their checksum (4)."""


def number(value: float) -> str:
    """A float as a C constant that is read back to the same float32."""
    text = f"{value:.9g}"
    return text + ("f" if any(mark in text for mark in ".en") else ".0f")


def c_name(path: str) -> str:
    """The member of the weights' struct for a name in the state dict."""
    return path.replace(".", "_")


def indexed(pointer: str, index: str) -> str:
    """`memory + OFFSET` at an index, as memory[OFFSET + index]."""
    return f"memory[{pointer.removeprefix('memory + ')} + {index}]"


def function(signature: str, lines: list[str], what: str = "") -> str:
    """A C function, with a comment that says what it does."""
    head = [f"/* {what} */"] if what else []
    return "\n".join([*head, signature, "{", *(wrapped(f"    {line}") for line in lines), "}", ""])


def values(tensor: Tensor) -> Iterator[str]:
    """The lines of an array's content, which end with a comma."""
    numbers: Iterable[float] = tensor.detach().cpu().contiguous().flatten().tolist()
    words = [number(each) for each in numbers]
    for start in range(0, len(words), 8):
        opening = "            {" if start == 0 else "             "
        closing = "}," if start + 8 >= len(words) else ","
        yield opening + ", ".join(words[start : start + 8]) + closing


def wrapped(line: str, limit: int = 120) -> str:
    """A line of C broken after commas to stay within `limit` columns."""
    if len(line) <= limit:
        return line
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    cut = max(line.rfind(", ", 0, limit), line.rfind(" / ", 0, limit) - 1, line.rfind(" * ", 0, limit) - 1)
    if cut <= len(indent):
        return line
    return line[: cut + 1].rstrip() + "\n" + wrapped(indent + line[cut + 1 :].lstrip(), limit)


def checks(plan: Plan, *, label: bool = True) -> list[str]:
    """The lines that refuse a bad example and, in learning, a bad label."""
    most = "CLASSES" if plan.spare else "FO_CLASSES"
    lines = ["if (!finite_input(x)) {", "    return FO_BAD_INPUT;", "}"] if plan.features else []
    return [*lines, *([f"if (label < 0 || label >= {most}) {{", "    return FO_BAD_LABEL;", "}"] if label else [])]


def batch_state(plan: Plan) -> list[str]:
    """The variables of a batch that is not complete."""
    lines = []
    if plan.group > 1:
        lines.append(f"static fo_input waiting[{plan.group}][FO_INPUTS]; /* examples of the batch to come */")
        lines.append(f"static int waiting_labels[{plan.group}];")
        lines.append("static int count_waiting;")
    if plan.batch > plan.group:
        lines.append("static int seen; /* examples of this batch that were learned */")
    return lines


def waiting_bytes(plan: Plan) -> int:
    """Bytes of the examples that wait for their batch, with their labels."""
    size = (4 if plan.features else 1) * math.prod(plan.network.shape)
    return plan.group * (size + 4) if plan.group > 1 else 0


def learn_text(plan: Plan, step: list[str]) -> str:
    """fo_learn, of the lines of a step on one example, or on a batch that waits."""
    signature = "fo_status fo_learn(const fo_input x[FO_INPUTS], int label)"
    if plan.group == 1:
        return function(signature, checks(plan) + step)
    queue = [
        "memcpy(waiting[count_waiting], x, sizeof(waiting[0]));",
        "waiting_labels[count_waiting] = label;",
        "count_waiting++;",
        f"if (count_waiting < {plan.group}) {{",
        "    return FO_OK;",
        "}",
        "count_waiting = 0;",
        "return learn_waiting();",
    ]
    text = function("static fo_status learn_waiting(void)", step, "A step on the examples that wait: a batch.")
    return text + function(signature, checks(plan) + queue)


def each_example(plan: Plan, lines: list[str]) -> list[str]:
    """Lines for each example r of a step."""
    if plan.group == 1:
        return lines
    return [f"for (int r = 0; r < {plan.group}; r++) {{", *(f"    {line}" for line in lines), "}"]


def wrong_label(label: str) -> str:
    """The line that draws a wrong label with equal chances."""
    return f"const int wrong = ({label} + 1 + (int)(random_next() % (FO_CLASSES - 1u))) % FO_CLASSES;"


def finish_batch(plan: Plan, update: list[str]) -> list[str]:
    """Lines that follow each step: after the last one of a batch the update, and the mean losses."""
    each = "losses[k]" if plan.batch == plan.group else f"losses[k] / {number(plan.batch)}"
    finish = [
        *update,
        "for (int k = 0; k < FO_BLOCKS; k++) {",
        f"    fo_loss[k] = {each};",
        "    losses[k] = 0.0f;",
        "}",
    ]
    if plan.batch == plan.group:
        return finish
    return ["seen++;", "if (seen == FO_BATCH) {", *(f"    {line}" for line in finish), "    seen = 0;", "}"]


def finite_input() -> str:
    """The function that looks for NaN in an example of floats."""
    lines = [
        "for (int i = 0; i < FO_INPUTS; i++) {",
        "    if (!isfinite(x[i])) {",
        "        return 0;",
        "    }",
        "}",
        "return 1;",
    ]
    what = "Whether all numbers of an example are finite."
    return "\n" + function("static int finite_input(const fo_input *x)", lines, what)


def save_text(identity: bytes, held: list[str], reset: list[str], check: Sequence[str] = ()) -> str:
    """fo_save and fo_load for the variables `held`; `check` are lines before loading, `reset` those that follow it."""
    ident = ", ".join(f"0x{byte:02x}" for byte in MAGIC + identity)
    total = " + ".join(f"sizeof({name})" for name in held)
    at, copies, loads = f"bytes + {HEAD}", [], []
    for name in held:
        copies.append(f"    memcpy({at}, &{name}, sizeof({name}));")
        loads.append(f"    memcpy(&{name}, {at}, sizeof({name}));")
        at += f" + sizeof({name})"
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
    put(bytes + 12, {total});
{chr(10).join(copies)}
    put(bytes + 16, checksum(bytes + {HEAD}, {total}));
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
    put(numbers, {total});
    put(numbers + 4, checksum(bytes + {HEAD}, {total}));
    if (memcmp(bytes + 12, numbers, sizeof(numbers)) != 0) {{
        return FO_DAMAGED;
    }}
{chr(10).join([*(f"    {line}" for line in check), *loads, *reset])}
    return FO_OK;
}}
"""
