"""The C of `fo_add_class`: constants from the statistics that `fo.summarise` kept, and the function itself."""

from collections.abc import Iterator

import torch
from torch import Tensor

from forwardonly import rules
from forwardonly.export.c.blocks import BlockWriter
from forwardonly.export.c.plan import BlockPlan, Plan
from forwardonly.export.c.text import function, number, values
from forwardonly.rules.new_prototype import DEVIATIONS_BEHIND, fitting

CONSTANTS = ("matrix", "within", "base", "ones", "means")
"""Arrays in C of each block, as in `Fitting`; of symmetric matrices the rows up to the diagonal."""


def require_spare(plan: Plan) -> None:
    """Raises ValueError where classes cannot be added on the device, or where some were added in int8."""
    rule = plan.network.rule
    if plan.precision == "int8" and (plan.spare or plan.trained < plan.network.classes):
        raise ValueError("int8 has no prototypes of any length, which added classes have: export in float32.")
    if not plan.spare:
        return
    if not isinstance(rule, rules.Hyperspherical):
        raise ValueError("Only hyperspherical can add a class: leave spare_classes at 0.")
    if not rule.has_statistics:
        raise ValueError("Spare classes need statistics of the others: call fo.summarise(network, train) first.")


def scratch(plan: Plan) -> int:
    """Numbers of the memory that making a prototype takes."""
    return 2 * max(block.features for block in plan.blocks) if plan.spare else 0


def constant_bytes(plan: Plan) -> int:
    """Bytes of the constants, which need no memory that can be written."""
    if not plan.spare:
        return 0
    return 4 * sum(
        size * (size + 1) + (2 + plan.trained) * size + 1 for size in (block.features for block in plan.blocks)
    )


def new_class_text(plan: Plan, writers: list[BlockWriter]) -> str:
    """The constants, a function of each block that reads an example, and fo_add_class."""
    shows = [_show(writer) for writer in writers]
    return "\n".join([*map(_constants, plan.blocks), *shows, _add_class(plan)])


def _show(writer: BlockWriter) -> str:
    writer.use("add_unit", "fitted_prototype")
    block, lines = writer.block, list[str]()
    features = writer.read(lines)
    lines.append(f"add_unit({block.features}, {features}, sum);")
    signature = f"static void show_{block.index}(const float *activation, float *sum)"
    return function(signature, lines, "Adds the unit features of one activation to a sum.")


def _constants(block: BlockPlan) -> str:
    rule, k = block.rule, block.index
    assert isinstance(rule, rules.Hyperspherical)
    old = rule.prototypes.detach()[: rule.summarised, 0]
    fit = fitting(old, rule.get_buffer("within"), rule.get_buffer("means"))
    rows = tuple(torch.tril_indices(block.features, block.features))
    tensors = (fit.matrix_DD[rows], fit.within_DD[rows], fit.base_D, fit.ones_D, fit.means_CD.flatten())
    lines = [f"/* Of block {k}, for new classes. */"]
    for name, tensor in zip(CONSTANTS, tensors, strict=True):
        lines += _array(f"{name}_{k}", tensor)
    return "\n".join([*lines, f"static const float spread_{k} = {number(fit.spread)};", ""])


def _array(name: str, tensor: Tensor) -> Iterator[str]:
    yield f"static const float {name}[{tensor.numel()}] ="
    *lines, last = values(tensor)
    yield from lines
    yield last.removesuffix(",") + ";"


def _add_class(plan: Plan) -> str:
    slots = {block.index: _slot(block) for block in plan.blocks}
    sizes = {block.index: block.features for block in plan.blocks}
    empty = [f"memset({slot}, 0, {sizes[k]} * sizeof(float));" for k, slot in slots.items()]
    show = ["prepare(examples + r * FO_INPUTS, memory + SIGNAL_0);"]
    for block in plan.blocks:
        k = block.index
        show += [f"forward_{k}(1, 0);", f"show_{k}(memory + ACTIVATION_{k}, {slots[k]});"]
        if k < len(plan.blocks) - 1 and block.passes:
            show.append(f"pass_{k}(1);")
    lines = [
        "int finite = 1;",
        "if (class_count == FO_CLASSES) {",
        "    return FO_NO_ROOM;",
        "}",
        "if (count < 1) {",
        "    return FO_BAD_INPUT;",
        "}",
    ]
    if plan.features:
        lines += [
            "for (int r = 0; r < count; r++) {",
            "    if (!finite_input(examples + r * FO_INPUTS)) {",
            "        return FO_BAD_INPUT;",
            "    }",
            "}",
        ]
    lines += [*empty, "for (int r = 0; r < count; r++) {", *(f"    {line}" for line in show), "}"]
    for k, slot in slots.items():
        weights = f"weights.trained.blocks_{k}.rule_prototypes"
        constants = ", ".join(f"{name}_{k}" for name in (*CONSTANTS, "spread"))
        lines.append(f"fitted_prototype({sizes[k]}, count, {constants}, {weights}, {slot});")
        lines += [f"for (int i = 0; i < {sizes[k]}; i++) {{", f"    finite = finite && isfinite(({slot})[i]);", "}"]
    lines += ["if (!finite) {", *(f"    {line}" for line in empty), "    return FO_DIVERGED;", "}"]
    lines += ["class_count++;", "return FO_OK;"]
    return function("fo_status fo_add_class(const fo_input *examples, int count)", lines)


def _slot(block: BlockPlan) -> str:
    """Where the prototype of the next class is."""
    return f"weights.trained.blocks_{block.index}.rule_prototypes + class_count * {block.features}"


def definitions(plan: Plan) -> list[str]:
    """What the rest of the file needs to know of classes that were or are to be added."""
    classes = "class_count" if plan.spare else "FO_CLASSES"
    lines = [
        f"#define CLASSES {classes} /* so far */",
        f"#define TRAINED {plan.trained} /* the first ones: not added */",
    ]
    if plan.spare:
        lines += [
            f"#define DEVIATIONS_BEHIND {number(DEVIATIONS_BEHIND)}",
            f"static int32_t class_count = {plan.network.classes};",
            f"static float scratch[{scratch(plan)}]; /* of a new class */",
        ]
    return lines
