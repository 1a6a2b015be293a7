"""A network whose blocks are parts of a model that runs as it was written.

Shapes: B batch, C classes, L blocks.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from forwardonly.network.block import Block
from forwardonly.network.network import Network
from forwardonly.network.prepare import AsGiven, Form, Prepare
from forwardonly.network.reading import Reading
from forwardonly.network.readout import Kind
from forwardonly.network.signal import Signal, to_device
from forwardonly.network.walled import Arrival, Part, Walled, WalledBlock
from forwardonly.rules import BlockPosition, Rule
from forwardonly.rules.own_head import OwnHead


class Cut:
    """Where one block of a model ends: behind which module, with which weights, and what its rule reads there."""

    def __init__(self, wall: str, weights: Sequence[str], reading: Reading, shape: Sequence[int]):
        self.wall = wall
        self.weights = tuple(weights)
        self.reading = reading
        self.shape = tuple(shape)

    def describe(self) -> dict[str, Any]:
        """The cut, as JSON represents it."""
        return {
            "wall": self.wall,
            "weights": list(self.weights),
            "read": self.reading.describe(),
            "shape": list(self.shape),
        }


class Localized(Network):
    """A network in place; `localize` makes it.

    Args:
        model: the user's own; its weights stay where they are, and what is behind the last wall is not trained.
        cuts: one for each block.
        rule: every block gets its own copy.
        form: of the model's input.
        images: whether the inputs are images, which are scaled and standardised.
        head: the model's last linear layer, if it is to read every block.

    Raises:
        ValueError: the head does not fit the blocks or the rule.
    """

    in_place = True
    before_block: Callable[[int], None] | None = None
    """Called with the index of each block before the model computes it: where idle blocks are offloaded, loads it."""
    walled: Walled
    _images: bool
    _cuts: tuple[Cut, ...]

    def __init__(
        self,
        model: nn.Module,
        cuts: Sequence[Cut],
        rule: Rule,
        form: Form,
        *,
        images: bool,
        head: str | None = None,
        readout: Kind = "sum",
        config: Mapping[str, Any] | None = None,
    ):
        weights = dict(model.named_parameters())
        kinds = {f"{name}.{own}": module for name, module in model.named_modules() for own in module._parameters}
        tables = nn.Embedding | nn.EmbeddingBag
        no_layer = {
            name
            for name, module in kinds.items()
            if isinstance(module, tables) or "weight" not in name.rpartition(".")[2]
        } | {name for name in weights if "." not in name}
        blocks = []
        for index, cut in enumerate(cuts):
            part = Part({name: weights[name] for name in cut.weights})
            own_head = None if head is None else _own_head(model, head, cuts, index, rule)
            own = rule.for_block(cut.shape, BlockPosition(index, len(cuts), own_head))
            block = WalledBlock(part, cut.reading, own)
            block.no_layer = frozenset(f"body.{name}" for name in cut.weights if name in no_layer)
            blocks.append(block)
        self.__dict__.update(_form=form, _images=images, _cuts=tuple(cuts), _model=model)  # for the base class
        super().__init__(blocks, shape=form.get("sizes", ()), readout=readout, config=config)

    def _make_prepare(self, stem: Any, standardise: bool) -> Prepare:
        self.walled = Walled(self.__dict__.pop("_model"), [cut.wall for cut in self._cuts])
        form = self.__dict__.pop("_form")
        if not self._images:
            return AsGiven(form)
        maps = [weight for weight in self.walled.parameters() if weight.dim() == 4 and weight.shape[2:].numel() > 1]
        last = bool(maps) and all(weight.is_contiguous(memory_format=torch.channels_last) for weight in maps)
        return Prepare(self.shape, standardise=standardise, channels_last=last)

    @property
    def model(self) -> nn.Module:
        """The user's model, with the weights as they are."""
        return self.walled.model

    def walk(self, incoming: Signal, at: Callable[[Block, Any], Signal], blocks: int | None = None) -> None:
        """As of any network; the model computes, and stops at the last wall."""
        row = self.row[:blocks]
        load = self.before_block or (lambda index: None)

        def visit(index: int, arrival: Arrival) -> Signal:
            passed = at(row[index], arrival)
            if index + 1 < len(row):
                load(index + 1)
            return passed

        load(0)
        self.walled.walk(incoming, visit, blocks)

    def _read(self, inputs: Any) -> Any:
        return super()._read(inputs) if self._images else to_device(inputs, self.device)

    def _goodness_of_all(self, prepared: Tensor) -> Tensor:
        """One pass through the model for each label, (L, B, C)."""
        columns = []
        for label in range(self.classes):
            labelled = self.with_labels(prepared, torch.full((len(prepared),), label, device=prepared.device))
            columns.append(
                torch.stack(
                    self.each(labelled, lambda block, activation, _: block.contrastive_rule.goodness(activation))
                )
            )
        return torch.stack(columns, dim=2)


def _own_head(model: nn.Module, head: str, cuts: Sequence[Cut], index: int, rule: Rule) -> OwnHead:
    """The model's head as the read-out of block `index`.

    Raises:
        ValueError: it reads or gives another number of values.
    """
    layer, width = model.get_submodule(head), cuts[index].shape[-1]
    assert isinstance(layer, nn.Linear)
    if layer.in_features != width:
        raise ValueError(
            f"The model's head {head!r} reads {layer.in_features} features, but block {index} gives {width}: it can "
            "read every block of a model of one width, such as a language model; give heads='new'."
        )
    if layer.out_features != rule.classes:
        raise ValueError(
            f"The model's head {head!r} gives {layer.out_features} scores, but the rule has classes={rule.classes}."
        )
    behind = model.get_submodule(cuts[-1].wall)
    norm = behind if all(weight.dim() == 1 for weight in behind.parameters()) else None
    return OwnHead(layer, norm, last=index == len(cuts) - 1)
