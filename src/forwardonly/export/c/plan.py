"""The plan of a training step in C: stages, rules and weights.

A block is a row of stages, each a linear layer or a convolution with what follows it. Its buffers are dead once its
successor has its input, so all blocks share one piece of memory, as large as the largest block needs.

Shapes: K channels, H x W space; flat activations are K x 1 x 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import nn

from forwardonly import rules
from forwardonly.names import name_in
from forwardonly.network.network import Network
from forwardonly.rules import Rule
from forwardonly.training.config import TrainingConfig

Precision = Literal["float32", "int8"]
"""Numbers of weights, signals and sums: floats, or whole numbers as `int8.py` defines."""


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
    flattened: bool = False
    """Whether what follows sees K H W channels of one pixel."""
    standardise: bool = False
    """An instance norm behind it: between the layers of a body under backprop, whose gradient passes through it."""

    @property
    def passed(self) -> Map:
        """What follows sees."""
        return Map(self.outgoing.size) if self.flattened else self.outgoing

    @property
    def words(self) -> str:
        """What it does, for people."""
        of, to = (
            " x ".join(map(str, each[:1] if each.pixels == 1 else each)) for each in (self.incoming, self.outgoing)
        )
        words = "linear"
        if self.convolution is not None:
            kernel = " x ".join(map(str, self.convolution.kernel_size))
            words = f"{'depthwise ' if self.convolution.groups > 1 else ''}convolution {kernel}"
        words += f" {of} -> {to}"
        if self.pool != (1, 1):
            words += f", max-pooling {self.pool[0]} x {self.pool[1]}"
        return words + (", batch norm" if self.norm else "") + (", ReLU" if self.relu else "")

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

    def name(self, path: str) -> str:
        """The name in the network's state dict of a weight of the block."""
        return f"blocks.{self.index}.{path}"

    @property
    def member(self) -> str:
        """The member of the weights' struct in C."""
        return f"blocks_{self.index}"

    @property
    def incoming(self) -> Map:
        return self.stages[0].incoming

    @property
    def outgoing(self) -> Map:
        return self.stages[-1].passed

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
class LabelClassifier:
    """The label classifier of ff: a linear map of each block's output, whose sum are the logits."""

    first: int
    """The first block that it reads."""
    sizes: list[int]
    """Outputs of each block that it reads."""
    parameters: dict[str, tuple[int, ...]]
    """Shapes of the trained weights by their names in the classifier."""
    statistics: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """None: as in `BlockPlan`."""
    member = "label_classifier"
    """The member of the weights' struct in C."""

    def name(self, path: str) -> str:
        """The name in the network's state dict of a weight."""
        return f"label_classifier.{path}"


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
    spare: int = 0
    """Classes that there is room for besides the network's."""
    precision: Precision = "float32"
    label_classifier: LabelClassifier | None = None

    @property
    def parts(self) -> Sequence[BlockPlan | LabelClassifier]:
        """What has weights that one update moves: each block, and the label classifier."""
        return [*self.blocks, *([self.label_classifier] if self.label_classifier else [])]

    @property
    def rule_name(self) -> str:
        return name_in(rules.TABLE, self.network.rule)

    @property
    def classes(self) -> int:
        """The most classes that it can have."""
        return self.network.classes + self.spare

    @property
    def trained(self) -> int:
        """The first classes, which were trained and not added."""
        return getattr(self.network.rule, "summarised", 0) or self.network.classes

    @property
    def contrastive(self) -> bool:
        return self.rule_name == "ff"

    @property
    def normed(self) -> bool:
        """Whether a batch norm compares examples."""
        return any(stage.norm for block in self.blocks for stage in block.stages)

    @property
    def rows(self) -> int:
        """Signals that go through a block together in training.

        These are both streams of a contrastive rule, but in int8 without batch norm, where they learn one by one.
        """
        together = self.contrastive and (self.precision == "float32" or self.normed)
        return self.group * (2 if together else 1)

    @property
    def parameter_count(self) -> int:
        return sum(math.prod(shape) for part in self.parts for shape in part.parameters.values())

    @property
    def statistics_count(self) -> int:
        return sum(math.prod(shape) for part in self.parts for shape in part.statistics.values())

    @property
    def direct(self) -> bool:
        """Whether weights move while their gradient is computed: no batch to wait for, no norm, no momentum."""
        return self.batch == 1 and not self.momentum and self.config.clip is None

    @property
    def keeps_gradient(self) -> bool:
        """Whether gradients have memory of their own. Momentum alone needs none: they are added to the velocity."""
        return self.config.clip is not None or (self.batch > 1 and not self.momentum)

    @property
    def gathers(self) -> bool:
        """Whether int8 adds steps up before it takes them."""
        return self.keeps_gradient or self.rows > 1
