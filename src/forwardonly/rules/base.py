"""The interface of a learning rule: the local objective of a block, and the signal that the block passes on.

There are two families. A *one-pass* rule computes scores for all classes from one activation. A *two-stream* rule
(`contrastive.py`) computes one number, the goodness, and learns by comparing a positive with a negative stream, which
labels make or, without labels, the images themselves (`unlabelled.py`).

Shapes: B batch, C classes, L blocks; an activation is (B, D) or (B, K, H, W).
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from forwardonly.names import check_options, require
from forwardonly.ops.norms import mean_square
from forwardonly.rules.own_head import OwnHead
from forwardonly.targets import IGNORED, OBJECTIVES, Kind

PeersNeeded = Literal["none", "earlier", "all"]
"""The other blocks whose goodness a loss needs."""


@dataclass(frozen=True)
class BlockPosition:
    """Position of a block: its index from 0, and the number of blocks in the network."""

    index: int
    depth: int
    own_head: OwnHead | None = None
    """The read-out that the block is to use instead of a new one, where a model's own head reads every block."""


class PeerGoodness(NamedTuple):
    """Goodness on both streams: of several blocks (L, B), in the order of the blocks, or of a single one (B,).

    A rule that needs "earlier" peers receives the detached goodness of the blocks before its own. One that needs "all"
    receives every block's, its own included, which it must leave out; in simultaneous training these rows are still
    attached to the graphs of their blocks, and the rule detaches them.
    """

    positive: Tensor
    negative: Tensor


@dataclass(kw_only=True, eq=False)
class Rule(nn.Module):
    """A local objective. Its fields are its options; `for_block` makes the copy that one block owns."""

    classes: int
    """Number of classes; of other targets, the number of labels, of numbers, or of words in the vocabulary."""
    targets: Kind = "class"
    """What is learned: class indices, several labels at once, numbers, or the next token."""

    learns: ClassVar[frozenset[Kind]] = frozenset({"class"})
    """The kinds of target that the rule has a loss for."""
    training_defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Training options that suit the rule."""
    labelled: ClassVar[bool] = True
    """Whether the rule learns from labels; without them a network has no class scores, and `fo.probe` reads it."""
    standardise: ClassVar[bool] = True
    """Whether the network standardises images to zero mean and unit deviation."""
    end_to_end: ClassVar[bool] = False
    """Whether the whole body is one block: true of backprop's baselines alone."""
    normalises: ClassVar[bool] = False
    """Whether `pass_on` normalises activations, so that the body leaves out its own norms between layers."""
    readouts: ClassVar[frozenset[str]] = frozenset({"classifier.weight"})
    """Names of the weights that compute class scores; Muon leaves them to SGD."""
    expert: ClassVar[frozenset[str]] = frozenset()
    """Names of options that `--help` hides and `--help-all` shows."""
    not_sizes: ClassVar[frozenset[str]] = frozenset()
    """Names of options with whole numbers that may be larger than the network: upper bounds, counts of epochs."""
    preset: ClassVar[str | None] = None
    """Name of the preset that made the rule; a preset sets it on the instance."""

    def __post_init__(self) -> None:
        super().__init__()
        check_options(self)
        if self.targets not in self.learns:
            raise ValueError(
                f"{type(self).__name__} does not learn {OBJECTIVES[self.targets].words}: choose a rule with a linear "
                "read-out, such as projection, auxiliary or best."
            )
        if self.labelled and self.classes < (least := OBJECTIVES[self.targets].least):
            of = "classes" if self.targets in ("class", "token") else "output"
            raise ValueError(f"A rule needs at least {least} {of}, not {self.classes}.")

    def options(self) -> dict[str, Any]:
        """The values of all options, in types that JSON can represent."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def score_scale(self) -> float:
        """Inverse temperature of the class scores in the loss: their softmax at it gives class probabilities."""
        return 1.0

    def for_block(self, shape: Sequence[int], position: BlockPosition) -> Self:
        """A copy with fresh parameters for a block whose activation has `shape` (without the batch)."""
        rule = copy.deepcopy(self)
        rule.setup(tuple(shape[-1:] if self.targets == "token" else shape), position)
        return rule

    def require_shape(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError if the rule cannot learn from inputs of `shape` (without the batch)."""

    def setup(self, shape: tuple[int, ...], position: BlockPosition) -> None:
        """Creates the rule's parameters, if any, for an activation of `shape` (without the batch)."""

    def watched(self) -> dict[str, float]:
        """Values to record in the history after each epoch, such as a learned temperature."""
        return {}

    def start_epoch(self, epoch: int) -> None:
        """Called before each epoch, counted from 0, for rules with a schedule of their own."""

    def optimiser_options(self) -> dict[str, dict[str, Any]]:
        """Optimiser options of the rule's own parameters, by name, where they differ from the block's.

        Besides options such as `lr`: `relative_rate`, a multiple of the block's learning rate, and `optimiser`, the
        name of another optimiser.
        """
        return {}

    def local_loss(
        self, activation: Tensor, labels: Tensor, peers: PeerGoodness | None
    ) -> tuple[Tensor, PeerGoodness | None]:
        """The block's loss, and for contrastive rules its goodness for other blocks; called by the training loop."""
        raise NotImplementedError

    def pass_on(self, activation: Tensor) -> Tensor:
        """The input of the next block, same shape as the activation. The block detaches it."""
        return activation


@dataclass(kw_only=True, eq=False)
class OnePassRule(Rule):
    """A rule that computes scores for all classes from one activation."""

    def scores(self, activation: Tensor) -> Tensor:
        """Scores of the classes, or of other outputs, (B, C) in float32."""
        raise NotImplementedError

    def every_score(self, activation: Tensor) -> Tensor:
        """`scores`; where tokens are learned, of each position of an activation (B, T, D): (B, T, C)."""
        if self.targets != "token":
            return self.scores(activation)
        return self.scores(activation.flatten(0, 1)).unflatten(0, activation.shape[:2])

    def loss(self, activation: Tensor, labels: Tensor) -> Tensor:
        """The block's own loss, a scalar in float32."""
        raise NotImplementedError

    def local_loss(self, activation: Tensor, labels: Tensor, peers: PeerGoodness | None) -> tuple[Tensor, None]:
        if self.targets == "token":  # each position is an example
            kept = labels.flatten() != IGNORED
            if not kept.any():  # a mean over nothing would be NaN
                return float32(activation).sum() * 0.0, None
            activation, labels = activation.flatten(0, 1)[kept], labels.flatten()[kept]
        return self.loss(activation, labels), None


def require_rule(rule: Any) -> None:
    """Raises ValueError unless it is a rule."""
    require("rule", rule, Rule, "a rule, such as fo.rules.make('projection', classes=10)")


def float32(activation: Tensor) -> Tensor:
    """The activation in float32: sums and losses in bf16 keep only 8 bits."""
    return activation.to(torch.float32)


def unit_rms(activation: Tensor, epsilon: float = 1e-6) -> Tensor:
    """The activation divided by its root mean square over all features, which leaves only its direction.

    A root mean square of 1, which is a length of sqrt(D), is the scale that the next block's initial weights expect.
    """
    scale = torch.rsqrt(mean_square(activation) + epsilon).to(activation.dtype)
    return activation * scale.view(-1, *[1] * (activation.dim() - 1))
