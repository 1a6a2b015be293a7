"""Where the buffers of a block lie, in whole numbers: int8 signals in one memory, int32 gradients in another."""

from dataclasses import dataclass, replace

from forwardonly.export.c.buffers import Buffers, lay_out, place
from forwardonly.export.c.plan import Plan


@dataclass(frozen=True)
class Int8Buffers:
    """The int8 memory, and the int32 memory of gradients: two slots, the gradient of pooled features, deviations.

    The slots are also where the sums stand that a batch norm standardises, which are dead before the gradients begin.
    """

    memory: Buffers
    second: int
    to_features: int
    deviations: list[dict[int, int]]
    """Of each block where the deviations of its batch norms are, by the number of the stage."""
    gradients: int


def lay_out_int8(plan: Plan) -> Int8Buffers:
    """The buffers of a plan."""
    whole = lay_out(plan)
    slots = [max((own.get(f"gradient_{slot}", 0) for own in whole.sizes), default=0) for slot in (0, 1)]
    features = max(own.get("to_features", 0) for own in whole.sizes)
    deviations, end = [], sum(slots) + features
    for block in plan.blocks:
        at = sum(slots) + features
        deviations.append(dict[int, int]())
        for number, stage in enumerate(block.stages):
            if stage.norm:
                deviations[-1][number], at = at, at + stage.outgoing.channels
        end = max(end, at)
    kept = [{name: size for name, size in own.items() if _is_int8(name)} for own in whole.sizes]
    memory = max(sum(own.values()) for own in kept)
    offsets = [place(own, memory, index) for index, own in enumerate(kept)]
    held = replace(whole, offsets=offsets, sizes=kept, memory=memory)
    return Int8Buffers(held, slots[0], sum(slots), deviations, end)


def _is_int8(name: str) -> bool:
    return name in ("signal", "activation", "features") or name.startswith(("out_", "standard_"))
