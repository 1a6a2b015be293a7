"""The plan of a training step in C: stages, rules, weights and buffers, read from a network.

A block is a row of stages, each a linear layer or a convolution with what follows it. Its buffers are dead once its
successor has its input, so all blocks share one piece of memory, as large as the largest block needs.

Shapes: K channels, H x W space; flat activations are K x 1 x 1.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

from torch import nn

from forwardonly import rules
from forwardonly.bodies import Chain
from forwardonly.bodies.dropout import drops
from forwardonly.names import name_in, whole_number
from forwardonly.network.block import Block, is_frozen
from forwardonly.network.network import Network
from forwardonly.ops.norms import instance_norm
from forwardonly.rules import Rule
from forwardonly.training.compatibility import require_batch
from forwardonly.training.config import TrainingConfig
from forwardonly.training.optim import MOMENTUM

RULES = ("hyperspherical", "projection", "ff", "channel-static", "backprop")
Precision = Literal["float32", "int8"]
"""Numbers of weights, signals and sums: floats, or whole numbers as `int8.py` defines."""
LAYERS = "Linear, Conv2d (plain or depthwise), MaxPool2d, BatchNorm and ReLU"


class Map(NamedTuple):
    """The size of an activation."""

    channels: int
    height: int = 1
    width: int = 1

    @property
    def pixels(self) -> int:
        """H W."""
        return self.height * self.width

    @property
    def size(self) -> int:
        """K H W."""
        return self.channels * self.pixels


@dataclass
class Stage:
    """A linear layer or a convolution, and what follows it: max-pooling, batch norm, ReLU, a norm without weights."""

    path: str
    """The layer's name in the block: its weights are PATH.weight and PATH.bias."""
    incoming: Map
    outgoing: Map
    """Behind the pooling."""
    bias: bool
    convolution: nn.Conv2d | None = None
    pool: tuple[int, int] = (1, 1)
    norm: str | None = None
    """The name of the batch norm in the block."""
    epsilon: float = 0.0
    momentum: float = 0.0
    relu: bool = False
    standardise: bool = False
    """An instance norm behind it: between the layers of a body under backprop, whose gradient passes through it."""

    @property
    def fan_in(self) -> int:
        """Weights of one output channel."""
        return self.incoming.size if self.convolution is None else self.convolution.weight[0].numel()


@dataclass
class BlockPlan:
    """One block."""

    index: int
    stages: list[Stage]
    rule: Rule
    passes: str
    """How it passes on its activation: unit_rms, group_norm, instance_norm, or nothing."""
    parameters: dict[str, tuple[int, ...]]
    """Shapes of the trained weights by their names in the block."""
    statistics: dict[str, tuple[int, ...]]
    """Shapes of running statistics."""
    head: Stage | None = None
    """The auxiliary convolution of a hyperspherical block."""
    grid: int = 1
    """Windows a side of the pooling in front of the read-out."""

    @property
    def incoming(self) -> Map:
        return self.stages[0].incoming

    @property
    def outgoing(self) -> Map:
        return self.stages[-1].outgoing

    @property
    def read(self) -> Map:
        """The map that the rule reads."""
        return self.outgoing if self.head is None else self.head.outgoing

    @property
    def windows(self) -> tuple[int, int]:
        """Sides of the pooling's windows."""
        return -(-self.read.height // self.grid), -(-self.read.width // self.grid)

    @property
    def features(self) -> int:
        """Features behind the pooling."""
        high, wide = self.windows
        return self.read.channels * -(-self.read.height // high) * -(-self.read.width // wide)

    @property
    def pooled(self) -> bool:
        """Whether a read-out is behind a pooling that does more than copy."""
        reads = not isinstance(self.rule, rules.ChannelStatic | rules.ForwardForward)
        return reads and self.features != self.read.size


@dataclass
class Plan:
    """What a C file holds."""

    network: Network
    blocks: list[BlockPlan]
    batch: int
    """Examples whose gradients make one update."""
    group: int
    """Examples that go through a block together: all of a batch where a batch norm compares them, else 1."""
    config: TrainingConfig
    momentum: float
    features: bool
    """Inputs are floats, not bytes."""
    precision: Precision = "float32"

    @property
    def rule_name(self) -> str:
        return name_in(rules.TABLE, self.network.rule)

    @property
    def contrastive(self) -> bool:
        return self.rule_name == "ff"

    @property
    def rows(self) -> int:
        """Signals that go through a block together in training: two streams of a contrastive rule."""
        return self.group * (2 if self.contrastive else 1)

    @property
    def parameter_count(self) -> int:
        return sum(math.prod(shape) for block in self.blocks for shape in block.parameters.values())

    @property
    def statistics_count(self) -> int:
        return sum(math.prod(shape) for block in self.blocks for shape in block.statistics.values())

    @property
    def direct(self) -> bool:
        """Whether weights move while their gradient is computed: no batch to wait for, no norm, no momentum."""
        return self.batch == 1 and not self.momentum and self.config.clip is None

    @property
    def keeps_gradient(self) -> bool:
        """Whether gradients have memory of their own. Momentum alone needs none: they are added to the velocity."""
        return self.config.clip is not None or (self.batch > 1 and not self.momentum)


def make_plan(network: Network, *, batch_size: int, precision: Precision = "float32", **options: Any) -> Plan:
    """The plan of a network's training step; `options` are fields of `TrainingConfig`.

    Raises:
        ValueError: a rule, a body, an optimiser or an option that C cannot hold, with what it can.
    """
    config = TrainingConfig.resolve(network.rule, given=options)
    batch = whole_number("batch_size", batch_size, 1)
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))} in C, not {precision!r}.")
    if config.optimiser.lower() != "sgd":
        raise ValueError(f"A training step in C learns with sgd, not with {config.optimiser}: choose optimiser sgd.")
    _check_rule(network)
    if network.prepare.stem is not None:
        raise ValueError("The body has a stem, which C cannot hold: choose the body mlp, cnn or separable.")
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    if frozen and not is_frozen(network):
        raise ValueError(f"C trains all weights, and {frozen[0]} is frozen: unfreeze it with requires_grad_().")
    require_batch(network, batch)
    blocks, incoming = [], Map(*network.shape)
    for index, block in enumerate(network.row):
        blocks.append(_block(index, block, incoming, len(network.row)))
        incoming = blocks[-1].outgoing
    normed = any(stage.norm for block in blocks for stage in block.stages)
    return Plan(
        network=network,
        blocks=blocks,
        batch=batch,
        group=batch if normed else 1,
        config=config,
        momentum=MOMENTUM if config.momentum is None else config.momentum,
        features=network.prepare.input == "features",
        precision=precision,
    )


def _check_rule(network: Network) -> None:
    for block in network.row:
        name = name_in(rules.TABLE, block.rule)
        if name not in RULES:
            raise ValueError(f"C cannot hold the rule {name!r}: choose one of {', '.join(RULES[:-1])}.")
    rule = network.rule
    if isinstance(rule, rules.ForwardForward):
        if rule.negatives != "uniform" or rule.predict != "goodness":
            raise ValueError(
                "C holds ff without its label classifier: train with negatives uniform and predict goodness."
            )
        if rule.label_placement != "first":
            raise ValueError("C holds ff with the label in the first features: train with label_placement first.")


def _block(index: int, block: Block, incoming: Map, depth: int) -> BlockPlan:
    """The plan of one block."""
    stages = _stages(index, block.body, incoming)
    rule, shape = block.rule, stages[-1].outgoing
    plan = BlockPlan(
        index=index,
        stages=stages,
        rule=rule,
        passes="",
        parameters={name: tuple(parameter.shape) for name, parameter in block.named_parameters()},
        statistics={
            name: tuple(buffer.shape)
            for name, buffer in block.named_buffers()
            if name.endswith(("running_mean", "running_var"))
        },
        grid=getattr(rule, "grid", 1),
    )
    if index < depth - 1:
        plan.passes = _passes(index, block)
    if isinstance(rule, rules.Hyperspherical) and isinstance(rule.auxiliary, nn.Sequential):
        plan.head = _convolution(index, "rule.auxiliary.0", rule.auxiliary[0], shape)
        plan.head.relu = True
    return plan


def _passes(index: int, block: Block) -> str:
    """How a block passes on its activation, if C knows it."""
    own = {rules.Hyperspherical: "unit_rms", rules.ForwardForward: "unit_rms", rules.ChannelStatic: "group_norm"}
    join: Any = block.join
    if join is None:
        return own.get(type(block.rule), "")
    if isinstance(join, partial) and join.args == (instance_norm, None) and type(block.rule) not in own:
        return "instance_norm"
    raise ValueError(f"Block {index + 1} has a shortcut, which C cannot hold: choose the body mlp, cnn or separable.")


def _stages(index: int, body: nn.Module, incoming: Map) -> list[Stage]:
    """The stages of a block's body."""
    stages: list[Stage] = []
    for path, module in _leaves("body", body):
        last = stages[-1] if stages else None
        shape = incoming if last is None else last.outgoing
        if isinstance(module, nn.Flatten) and module.start_dim == 1 and module.end_dim == -1:
            if last is not None:
                last.outgoing = Map(shape.size)
            else:
                incoming = Map(shape.size)
        elif isinstance(module, nn.Identity):
            pass
        elif drops(module):
            raise ValueError(f"Block {index + 1} has dropout, which C cannot hold: train without it.")
        elif isinstance(module, nn.modules.dropout._DropoutNd):
            pass
        elif isinstance(module, nn.Linear) and shape.pixels == 1:
            out = Map(module.out_features)
            stages.append(Stage(path, Map(shape.size), out, module.bias is not None))
        elif isinstance(module, nn.Conv2d):
            stages.append(_convolution(index, path, module, shape))
        elif last is not None and _append(last, path, module):
            pass
        else:
            raise ValueError(
                f"Block {index + 1} has {type(module).__name__} at {path.removeprefix('body.')}, which C cannot hold "
                f"there: a block may have {LAYERS}, in this order."
            )
    if not stages:
        raise ValueError(f"Block {index + 1} has no weights, so it has nothing to learn in C.")
    return stages


def _append(stage: Stage, path: str, module: nn.Module | str) -> bool:
    """Whether a module without a layer of its own can follow in the stage; it is then noted there."""
    if stage.standardise:
        return False
    if isinstance(module, nn.ReLU):
        if stage.relu:
            return False
        stage.relu = True
        return True
    if isinstance(module, nn.MaxPool2d) and stage.norm is None and stage.convolution is not None:
        high, wide = _pair(module.kernel_size)
        plain = _pair(module.stride) == (high, wide) and not module.ceil_mode and stage.pool == (1, 1)
        if not plain or _pair(module.padding) != (0, 0) or _pair(module.dilation) != (1, 1) or high * wide > 256:
            return False
        stage.pool = (high, wide)  # the largest of ReLUs is the ReLU of the largest
        stage.outgoing = Map(stage.outgoing.channels, stage.outgoing.height // high, stage.outgoing.width // wide)
        return True
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and not stage.relu and stage.norm is None:
        if not (module.affine and module.track_running_stats) or module.momentum is None:
            return False
        stage.norm, stage.epsilon, stage.momentum = path, module.eps, module.momentum
        return True
    if module == "instance_norm":
        stage.standardise = True
        return True
    return False


def _convolution(index: int, path: str, module: Any, shape: Map) -> Stage:
    """The stage of a convolution."""
    depthwise = module.groups == module.in_channels == module.out_channels and module.groups > 1
    fits = module.padding_mode == "zeros" and tuple(module.dilation) == (1, 1) and not isinstance(module.padding, str)
    if not fits or (module.groups != 1 and not depthwise):
        raise ValueError(
            f"Block {index + 1} has a convolution at {path.removeprefix('body.')} that C cannot hold: it may be plain "
            "or depthwise, zero-padded by a number of pixels, without dilation."
        )
    sides = [
        (size + 2 * padding - kernel) // stride + 1
        for size, padding, kernel, stride in zip(
            shape[1:], module.padding, module.kernel_size, module.stride, strict=True
        )
    ]
    return Stage(path, shape, Map(module.out_channels, *sides), module.bias is not None, convolution=module)


def _leaves(path: str, module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The modules in order that a body applies, by their paths; between layers under backprop also norms, as words."""
    if isinstance(module, nn.Sequential):
        for name, child in module.named_children():
            yield from _leaves(f"{path}.{name}", child)
    elif isinstance(module, Chain):
        bodies = list(module.bodies)
        for number, (child, behind) in enumerate(zip(bodies, module.between, strict=True)):
            yield from _leaves(f"{path}.bodies.{number}", child)
            if behind is not None and number < len(bodies) - 1:
                known = isinstance(behind, partial) and behind.args == (instance_norm, None)
                yield path, "instance_norm" if known else behind
    else:
        yield path, module


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    """A size of both sides."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])
