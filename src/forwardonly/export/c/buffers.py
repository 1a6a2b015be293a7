"""Where each buffer of a block lies in the memory that all blocks share.

A block finds its signal at one end of the memory and leaves its activation at the other, where the next block finds it
as its signal; everything else lies between. So nothing is copied, and nothing outlives its block.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from forwardonly import rules
from forwardonly.export.c.plan import BlockPlan, Plan


@dataclass(frozen=True)
class Buffers:
    """Offsets and sizes, in numbers, of the buffers of each block, and the sizes of what all blocks share."""

    offsets: list[dict[str, int]]
    sizes: list[dict[str, int]]
    memory: int
    """Numbers of the shared memory."""
    winners: int
    """Bytes of the positions of maxima."""
    fan_in: int
    """Numbers of the sums of a convolution's gradient; 0 without convolutions."""


def lay_out(plan: Plan) -> Buffers:
    """The buffers of a plan."""
    sizes = [_sizes(plan, block) for block in plan.blocks]
    memory = max(sum(own.values()) for own in sizes)
    offsets = []
    for index, own in enumerate(sizes):
        offsets.append(place(own, memory, index))
    convolutions = [
        stage
        for block in plan.blocks
        for stage in [*block.stages, *([block.head] if block.head else [])]
        if stage.convolution is not None
    ]
    return Buffers(
        offsets=offsets,
        sizes=sizes,
        memory=memory,
        winners=max(sum(winners(plan, block).values()) for block in plan.blocks),
        fan_in=max((stage.fan_in for stage in convolutions), default=0),
    )


def place(sizes: Mapping[str, int], memory: int, index: int) -> dict[str, int]:
    """Offsets of buffers: signal and activation at opposite ends, which change places from block to block."""
    near, far = ("signal", "activation") if index % 2 == 0 else ("activation", "signal")
    at, end = {near: 0, far: memory - sizes[far]}, sizes[near]
    for name, size in sizes.items():
        if name not in (near, far):
            at[name], end = end, end + size
    return at


def winners(plan: Plan, block: BlockPlan) -> Mapping[int, int]:
    """Bytes for the positions of the maxima of each stage that pools, by its number."""
    return {
        number: plan.rows * stage.outgoing.size for number, stage in enumerate(block.stages) if stage.pool != (1, 1)
    }


def _sizes(plan: Plan, block: BlockPlan) -> dict[str, int]:
    """The sizes of a block's buffers in a training step; what a rule needs is for one row at a time."""
    rows, last = plan.rows, len(block.stages) - 1
    sizes = {"signal": rows * block.incoming.size}
    for number, stage in enumerate(block.stages):
        size = rows * stage.outgoing.size
        if number < last:
            sizes[f"out_{number}"] = size
        if stage.norm:
            sizes[f"standard_{number}"] = size
            sizes[f"inverse_{number}"] = stage.outgoing.channels
        if stage.standardise:
            sizes[f"normed_{number}"] = size
            sizes[f"inverse_{number}"] = rows * stage.outgoing.channels
    for slot in range(min(2, len(block.stages))):  # the gradients of a stage's output and of its input
        numbers = range(last - slot, -1, -2)
        sizes[f"gradient_{slot}"] = rows * max(block.stages[number].outgoing.size for number in numbers)
    if block.head is not None:
        sizes["head"] = sizes["to_head"] = block.head.outgoing.size
    if isinstance(block.rule, rules.Hyperspherical):
        sizes["cosine"] = plan.classes * block.rule.prototypes_per_class
    if block.pooled:
        sizes["features"] = sizes["to_features"] = block.features
    sizes["activation"] = rows * block.outgoing.size
    return sizes
