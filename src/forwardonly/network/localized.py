"""A network whose blocks are parts of a model that runs as it was written.

Shapes: B batch, C classes, L blocks.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.hooks import RemovableHandle

from forwardonly.network.block import Block
from forwardonly.network.emit import NotEmitted, emitted, refusing, slow_attention
from forwardonly.network.network import Network
from forwardonly.network.prepare import AsGiven, Form, Prepare
from forwardonly.network.reading import Reading, mask_of
from forwardonly.network.readout import Kind
from forwardonly.network.signal import Signal, reason_of, same, sizes_of, tensors_in
from forwardonly.network.walled import Arrival, Part, Walled, WalledBlock, unchanged
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
    stays_because = ""
    """Why the blocks could not be emitted, when that was last asked for."""
    batch_first = False
    """Whether axis 0 of all signals between emitted blocks is the batch, so that it can be divided."""
    before_block: Callable[[int], None] | None = None
    """Called with the index of each block before the model computes it: where idle blocks are offloaded, loads it."""
    walled: Walled
    _images: bool
    _cuts: tuple[Cut, ...]
    _handles: Sequence[RemovableHandle] = ()
    _seen_to_draw = False

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

    @property
    def unreached(self) -> list[str]:
        """Names of the modules, or weights, that the example did not reach, and that are not frozen."""
        trained = [name for name, weight in self.model.named_parameters() if weight.requires_grad]
        return [
            of for of in self._config.get("unreached", ()) if any(f"{name}.".startswith(f"{of}.") for name in trained)
        ]

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
        try:
            self.walled.walk(incoming, visit, blocks)
        except (RuntimeError, IndexError) as problem:
            of_sizes = type(problem) in (RuntimeError, IndexError)  # and not a lack of memory, or of another process
            if not of_sizes or not isinstance(self.prepare, AsGiven) or self.prepare.sized_as_the_example(incoming):
                raise
            raise ValueError(
                f"The model does not take inputs of {sizes_of(incoming)}, for its example was of "
                f"{sizes_of(self.blank(1), 'batch')}: {reason_of(problem)}."
            ) from None

    @property
    def draws(self) -> bool:
        """As of any network; once the blocks have been emitted, also what they have been seen to draw."""
        return self._seen_to_draw or super().draws

    def emit(self, compiled: bool = False) -> None:
        """Makes the blocks callable alone, each from the signal before it, until `keep_in_place`.

        They are tried on random inputs and must give what the model gives in place, to the bit. Where they cannot be
        made, the network stays in place and `stays_because` says why.
        """
        training = self.training
        try:
            with refusing("its blocks cannot be called alone"):
                self._require_own_weights()
                inputs = [self._trial(count) for count in (2, 3)]
                modules = emitted(self.walled, [cut.weights for cut in self._cuts], inputs[0])
                for block, module in zip(self._walled_blocks, modules, strict=True):
                    block.alone = (module,)
                self._handles = self.walled.guard_norms()
                self._try(inputs)
            if compiled:
                for block, module in zip(self._walled_blocks, modules, strict=True):
                    graph: Any = torch.compile(module, dynamic=False)
                    block.alone = (graph,)
            self.in_place, self.stays_because = False, ""
        except NotEmitted as reason:
            self.keep_in_place()
            self.stays_because = str(reason)
        finally:
            self.train(training)

    def keep_in_place(self) -> None:
        """Undoes `emit`."""
        for block in self._walled_blocks:
            block.alone = ()
        for handle in self._handles:
            handle.remove()
        self.in_place, self._handles = True, ()

    def _require_own_weights(self) -> None:
        """Raises NotEmitted if all blocks read a weight that one trains, as a head that is tied to embeddings."""
        trained = {id(weight) for block in self.row for weight in block.body.parameters() if weight.requires_grad}
        heads = [part for block in self.row for part in block.rule.modules() if isinstance(part, OwnHead)]
        if any(id(weight) in trained for head in heads for weight in head.borrowed):
            raise NotEmitted("its blocks read the model's own head, which is tied to weights that a block trains")

    @property
    def _walled_blocks(self) -> list[WalledBlock]:
        return [block for block in self.blocks if isinstance(block, WalledBlock)]

    def _trial(self, count: int) -> Any:
        """What the first block is given for that many random inputs; whole numbers other than of pixels are 0."""
        generator = torch.Generator().manual_seed(count)

        def drawn(blank: Tensor) -> Tensor:
            if blank.is_floating_point():
                return torch.rand(blank.shape, generator=generator).to(blank)
            if blank.dtype == torch.uint8:
                return torch.randint(0, 256, blank.shape, generator=generator).to(blank)
            return blank

        blank = self.blank(count)
        if (mask := mask_of(blank)) is not None:
            mask.fill_(1)
        return self.alone(self.prepare(tree_map(drawn, blank)))

    def _try(self, inputs: Sequence[Any]) -> None:
        """Raises NotEmitted unless the emitted blocks give, and change, what the model does in place."""
        devices = [self.device] if self.device.type == "cuda" else []

        def alone(signal: Signal) -> list[Tensor]:
            activations, count = [], len(tensors_in(signal)[0])
            with torch.no_grad():
                for block in self.row:
                    activations.append(block(signal))
                    signal = block.pass_on(activations[-1], signal)
                    self.batch_first &= all(tensor.shape[:1] == (count,) for tensor in tensors_in(signal))
            return activations

        def in_place(signal: Signal) -> list[Tensor]:
            return self.each(signal, lambda block, activation, passed: activation)

        def seen(run: Callable[[Signal], list[Tensor]], signal: Signal, seed: int = 0) -> list[Tensor]:
            with unchanged(self.model), torch.random.fork_rng(devices):
                torch.manual_seed(seed)
                activations = run(tree_map(torch.clone, signal))  # a model may write into what it is given
                return [*activations, *(buffer.clone() for buffer in self.model.buffers())]

        with slow_attention():
            self.eval()
            self.batch_first = True
            right = all(same(seen(alone, signal), seen(in_place, signal)) for signal in inputs)
            self.train()
            self._seen_to_draw = not same(*(seen(alone, inputs[-1], seed) for seed in (0, 1)))
            if not self._seen_to_draw:
                right = right and same(seen(alone, inputs[-1]), seen(in_place, inputs[-1]))
        if not right:
            raise NotEmitted("its blocks alone give something else than the model")

    def _goodness_of_all(self, prepared: Tensor) -> Tensor:
        """One pass through the model for each label, (L, B, C)."""
        columns = []
        for label in range(self.classes):
            labelled = self.with_labels(prepared, torch.full((len(prepared),), label, device=prepared.device))
            own = self.seen(labelled, lambda block, activation, _: block.contrastive_rule.goodness(activation))
            columns.append(self.readout.whole(own))
        return torch.stack(columns, dim=2)


class UnreachedWarning(UserWarning):
    """The example did not reach some weights of a model, so that no block learns them."""


def unreached_words(modules: Sequence[str]) -> str:
    """A sentence that the example did not reach these modules' weights."""
    shown = ", ".join(map(repr, modules[:3])) + (f" and {len(modules) - 3} more" if len(modules) > 3 else "")
    return (
        f"The example does not reach the weights of {shown}, so no block learns them: give localize an example for "
        "which the model uses them, or freeze them by requires_grad_(False)."
    )


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
