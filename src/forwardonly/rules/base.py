"""What a rule is: a local objective for one block, and what that block lets through to the next.

Two families share one contract. A *one-pass* rule gives a score for every class from one activation; a *contrastive*
rule gives one number, the goodness, and learns by comparing a positive with a negative stream.

Shapes: B batch, C classes, L blocks; an activation is (B, D) or (B, K, H, W).
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from forwardonly.names import check_choices
from forwardonly.ops.norms import mean_square
from forwardonly.ops.pooling import grid_pool
from forwardonly.rules.contrast import supervised_contrastive

PeersNeeded = Literal["none", "earlier", "all"]


@dataclass(frozen=True)
class BlockPosition:
    """Where a block stands: its index from 0, and how many blocks the network has."""

    index: int
    depth: int


class PeerGoodness(NamedTuple):
    """Blocks' goodness on both streams: two tensors (blocks, B) in the order of the blocks, or (B,) of one block.

    A rule that wants `earlier` hears the blocks before its own, detached. One that wants `all` hears every block, its
    own included, and leaves that row out itself; in simultaneous training the rows then still hang on their blocks'
    graphs, and the rule detaches them.
    """

    positive: Tensor
    negative: Tensor


@dataclass(kw_only=True, eq=False)
class Rule(nn.Module):
    """A local objective. Its fields are its options; `for_block` makes the copy that one block owns.

    `training_defaults` holds training options that suit the rule, `standardise` says whether it wants zero-mean input,
    `normalises` whether `pass_on` already does what a body would otherwise put between its layers, `readouts` names the
    weights that make class scores, and `end_to_end` is true of backprop alone: the network is then one block, so that
    nothing else is special.
    """

    classes: int
    """Number of classes."""

    training_defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    standardise: ClassVar[bool] = True
    end_to_end: ClassVar[bool] = False
    normalises: ClassVar[bool] = False
    readouts: ClassVar[frozenset[str]] = frozenset({"head.weight"})
    expert: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        super().__init__()
        if self.classes < 2:
            raise ValueError(f"A rule needs at least 2 classes, not {self.classes}.")
        check_choices(self)

    def options(self) -> dict[str, Any]:
        """The values of all options, as JSON can hold them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def score_scale(self) -> float:
        """By what the loss multiplies class scores before its softmax: so a block's scores become probabilities."""
        return 1.0

    def for_block(self, shape: Sequence[int], position: BlockPosition) -> Self:
        """A fresh copy with the parameters that an activation of `shape` (without the batch) needs."""
        rule = copy.deepcopy(self)
        rule.setup(tuple(shape), position)
        return rule

    def setup(self, shape: tuple[int, ...], position: BlockPosition) -> None:
        """Create parameters for an activation of `shape` (without the batch), if the rule has any."""

    def watched(self) -> dict[str, float]:
        """Numbers of the block worth a place in the history, such as a learned weight of the loss."""
        return {}

    def start_epoch(self, epoch: int) -> None:
        """Called before each epoch, counted from 0, for rules with a schedule of their own."""

    def optimiser_options(self) -> dict[str, dict[str, Any]]:
        """Options of the optimiser for own parameters by name, where they differ from the block's.

        Such as `lr`, or `relative_rate`, a multiple of the block's rate; `optimiser` names another optimiser.
        """
        return {}

    def local_loss(
        self, activation: Tensor, labels: Tensor, peers: PeerGoodness | None
    ) -> tuple[Tensor, PeerGoodness | None]:
        """What the training loop calls: the block's loss, and for contrastive rules its goodness for others to hear."""
        raise NotImplementedError

    def pass_on(self, activation: Tensor) -> Tensor:
        """What the next block receives, same shape as the activation. The block detaches it."""
        return activation


@dataclass(kw_only=True, eq=False)
class OnePassRule(Rule):
    """A rule that scores all classes from one activation."""

    contrast: float = 0.0
    """Weight of a supervised contrastive term on the activation, added to the rule's own loss."""
    contrast_temperature: float = 0.1
    """Temperature of the contrastive term."""

    def scores(self, activation: Tensor) -> Tensor:
        """Class scores (B, C) in float32."""
        raise NotImplementedError

    def loss(self, activation: Tensor, labels: Tensor) -> Tensor:
        """The block's own loss, a scalar in float32."""
        raise NotImplementedError

    def local_loss(self, activation: Tensor, labels: Tensor, peers: PeerGoodness | None) -> tuple[Tensor, None]:
        loss = self.loss(activation, labels)
        if self.contrast:
            features = grid_pool(activation, 2)
            loss = loss + self.contrast * supervised_contrastive(features, labels, self.contrast_temperature)
        return loss, None


@dataclass(kw_only=True, eq=False)
class ContrastiveRule(Rule):
    """A rule that compares the goodness of a positive and a negative stream."""

    label_value: float | None = None
    """Value of the label code's "1" in the input; by default the largest value that a pixel can have."""
    label_placement: Literal["first", "everywhere"] = "first"
    """Where the label stands: in the first features, or as a wave over the whole image, which convolutions see."""
    normalise_input: bool = False
    """Divide each image by its size before its label is written into it."""
    size: Literal["rms", "length"] = "rms"
    """What is 1 after a division by it: the root mean square of the features, or their length as Hinton has it."""

    @property
    def needs_peers(self) -> PeersNeeded:
        """Which other blocks' goodness the loss needs."""
        return "none"

    def normalise(self, values: Tensor) -> Tensor:
        """Images or activations (B, ...) divided by their size, so that only the direction is left."""
        unit = unit_rms(values)
        return unit if self.size == "rms" else unit / math.sqrt(values[0].numel())

    def pass_on(self, activation: Tensor) -> Tensor:
        return self.normalise(activation)

    def goodness(self, activation: Tensor) -> Tensor:
        """One number an example, (B,) in float32."""
        raise NotImplementedError

    def loss(self, positive: Tensor, negative: Tensor, peers: PeerGoodness | None) -> Tensor:
        """The block's own loss from its goodness on both streams, each (B,); a scalar in float32."""
        raise NotImplementedError

    def local_loss(self, activation: Tensor, labels: Tensor, peers: PeerGoodness | None) -> tuple[Tensor, PeerGoodness]:
        """See `Rule`; `activation` holds the positive stream and then the negative one, (2B, ...)."""
        own = self.streams(activation)
        return self.loss(own.positive, own.negative, peers), PeerGoodness(own.positive.detach(), own.negative.detach())

    def streams(self, activation: Tensor) -> PeerGoodness:
        """The goodness (B,) of both halves of an activation (2B, ...), its graph still on it."""
        positive, negative = self.goodness(activation).chunk(2)
        return PeerGoodness(positive, negative)

    def unaided(self, positive: Tensor, negative: Tensor) -> Tensor:
        """The loss of a block that hears nothing: what free-riding is measured against."""
        return self.loss(positive, negative, None)


def float32(activation: Tensor) -> Tensor:
    """The activation in float32: sums and losses in bf16 keep only 8 bits."""
    return activation.to(torch.float32)


def unit_rms(activation: Tensor, epsilon: float = 1e-6) -> Tensor:
    """The activation divided by its root mean square over all features, so that only its direction is left.

    A length of sqrt(D) rather than 1 keeps the next block's inputs at the scale its initial weights expect.
    """
    scale = torch.rsqrt(mean_square(activation) + epsilon).to(activation.dtype)
    return activation * scale.view(-1, *[1] * (activation.dim() - 1))
