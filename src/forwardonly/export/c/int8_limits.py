"""What a training step in int8 cannot hold."""

import math
from collections.abc import Iterator

from forwardonly import rules
from forwardonly.export.c.int8_arithmetic import (
    LARGEST_FAN_IN,
    LARGEST_MAP,
    LARGEST_NORMED,
    LARGEST_RATE,
    SMALLEST_EPSILON,
)
from forwardonly.export.c.plan import Plan


def check(plan: Plan) -> None:
    """Raises ValueError unless a plan's network can learn in int8, with all that stands in the way and what can."""
    if reasons := list(dict.fromkeys(_reasons(plan))):
        raise ValueError(f"A training step in int8 cannot hold {'; '.join(reasons)}.")


def _reasons(plan: Plan) -> Iterator[str]:
    """What a plan has that int8 has not, and what to choose instead; first what takes another run."""
    rule, config = plan.network.rule, plan.config
    stages = [(block, stage) for block in plan.blocks for stage in block.stages]
    if any(stage.standardise for _, stage in stages):
        yield "norms under backprop (train another rule)"
    if isinstance(rule, rules.Hyperspherical):
        if rule.prototypes_per_class != 1:
            yield "several prototypes a class (train with prototypes_per_class 1)"
        if plan.blocks[0].head is not None:
            yield "an auxiliary convolution (train with aux_channels 0)"
    if plan.contrastive and (plan.features or rule.objective != "threshold" or rule.size != "rms"):
        yield "ff but on images, with objective threshold and size rms (train with these)"
    if getattr(rule, "label_smoothing", 0.0):
        yield "label smoothing (train with label_smoothing 0)"
    if plan.momentum or config.weight_decay:
        yield "more than plain sgd (choose momentum 0 and weight_decay 0)"
    if not 2**-16 <= config.learning_rate <= LARGEST_RATE:
        yield (
            f"a learning rate of {config.learning_rate:g}, for it counts in 65536ths (choose learning_rate from "
            f"{2**-16:.1e} to {LARGEST_RATE})"
        )
    for block, stage in stages:
        taps = 1 if stage.convolution is None else math.prod(stage.convolution.kernel_size)
        back = 0 if stage is block.stages[0] else stage.outgoing.channels * taps
        if max(stage.fan_in, stage.outgoing.size) > LARGEST_FAN_IN or max(stage.incoming.pixels, back) > LARGEST_MAP:
            yield (
                f"sums of more than {LARGEST_FAN_IN} values forwards or {LARGEST_MAP} backwards, as in block "
                f"{block.index + 1} (choose fewer channels or smaller inputs)"
            )
        if stage.norm and stage.epsilon < SMALLEST_EPSILON:
            yield (
                f"a batch norm with an eps of {stage.epsilon:g}, as in block {block.index + 1} (train with one of at "
                f"least {SMALLEST_EPSILON:g})"
            )
        if stage.norm and stage.fan_in > LARGEST_NORMED:
            yield (
                f"sums of more than {LARGEST_NORMED} values in front of a batch norm, as in block {block.index + 1} "
                "(choose fewer channels)"
            )
