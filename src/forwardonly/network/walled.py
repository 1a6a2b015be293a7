"""A model with walls in it: it runs as it was written, and its signal is detached behind each wall."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from forwardonly.network.block import Block, Judged, is_frozen
from forwardonly.network.reading import Reading, mask_of
from forwardonly.network.recurrent import by_name, layers_of, opened
from forwardonly.network.signal import Signal, detached, replaced
from forwardonly.network.walls import call
from forwardonly.rules import PeerGoodness, Rule, TwoStreamRule


class Arrival(NamedTuple):
    """A signal at a wall, and the mask (B, T) of the tokens that count, if the model's inputs have one."""

    signal: Signal
    mask: Tensor | None


Visit = Callable[[int, Arrival], Signal]
"""Called at each wall with its index and what arrives; returns what the model goes on with."""


class Stop(Exception):
    """Ends a forward pass at a wall."""


class Walled(nn.Module):
    """A model and the names of the modules behind which its walls stand.

    The model itself is not changed: hooks are in place only while `walk` runs.
    """

    def __init__(self, model: nn.Module, walls: Sequence[str]):
        super().__init__()
        self.model = model
        self.walls = tuple(walls)
        self._norms = tuple(module for module in model.modules() if isinstance(module, nn.GroupNorm))
        self._stacks = (layers_of(model),)  # in a tuple, or they would be saved a second time
        self.takes_cache = "use_cache" in inspect.signature(model.forward).parameters

    def train(self, mode: bool = True) -> Self:
        """Training mode, except for modules whose weights are all frozen: their norms keep their statistics."""
        super().train(mode)
        if not all(weight.requires_grad for weight in self.model.parameters()):
            for module in self.model.modules():
                if is_frozen(module):
                    module.eval()
        return self

    def walk(self, inputs: Any, visit: Visit, blocks: int | None = None, *, whole: bool = False) -> Any:
        """Runs the model up to the last wall of its first `blocks`, or the `whole` of it; `visit` is called at each.

        Returns the model's output, or None if it ended before.
        """
        mask, names = mask_of(inputs), self.walls[:blocks]

        def hook(index: int) -> Callable[..., Any]:
            def at_wall(module: nn.Module, arguments: Any, output: Any) -> Any:
                passed = visit(index, Arrival(output, mask))
                if index == len(names) - 1 and not whole and not torch.compiler.is_exporting():
                    raise Stop
                return passed

            return at_wall

        (stacks,) = self._stacks
        inside = by_name(stacks)
        walls = [inside[name] if name in inside else self.model.get_submodule(name) for name in names]
        handles = [module.register_forward_hook(hook(index)) for index, module in enumerate(walls)]
        if torch.is_grad_enabled():
            handles += self.guard_norms()
        try:
            with opened(self.model, stacks):
                return self(inputs)
        except Stop:
            return None
        finally:
            for handle in handles:
                handle.remove()

    def guard_norms(self) -> list[RemovableHandle]:
        """Hooks that keep the model's group norms from what ends the process."""
        return [norm.register_forward_pre_hook(_contiguous_leaf) for norm in self._norms]

    def forward(self, inputs: Any) -> Any:
        """The model's own output, as without walls."""
        if self.takes_cache:  # a cache would keep every block's keys and values
            if isinstance(inputs, Mapping):
                return self.model(**{"use_cache": False, **inputs})
            if isinstance(inputs, Tensor):
                return self.model(inputs, use_cache=False)
        return call(self.model, inputs)


def _contiguous_leaf(norm: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The input of a group norm, contiguous where it needs no gradient.

    On channels-last maps without gradient its backward pass crashes the process (PyTorch 2.13 on CPUs).
    """
    if not torch.is_grad_enabled():
        return given
    return tuple(maps if maps.requires_grad else maps.contiguous() for maps in given)


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """A context for a trial in training mode: buffers, such as running statistics, are then as they were before."""
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                if name in before and before[name].shape == buffer.shape:
                    buffer.copy_(before[name])


class Part(nn.Module):
    """The weights of a model between two walls, by their names in it. They stay the model's, which saves them."""

    def __init__(self, weights: Mapping[str, nn.Parameter]):
        super().__init__()
        inside: dict[str, dict[str, nn.Parameter]] = {}
        for name, weight in weights.items():
            first, _, rest = name.partition(".")
            if rest:
                inside.setdefault(first, {})[rest] = weight
            else:
                self.register_parameter(name, weight)
        for name, own in inside.items():
            self.add_module(name, Part(own))

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Nothing: the model saves its weights."""

    def _load_from_state_dict(self, *arguments: Any, **named: Any) -> None:
        """Nothing, as above."""


class WalledBlock(Block):
    """A block of a model in place: the model has computed its part when a signal arrives at its wall.

    `alone`, where it has been emitted (`emit.py`), computes the part too, so that the block can be called with a
    signal.
    """

    def __init__(self, part: Part, reading: Reading, rule: Rule):
        super().__init__(part, rule)
        self.reading = reading
        self.alone: tuple[nn.Module, ...] = ()
        """The emitted part, if there is one; in a tuple, or the model's modules would be saved a second time."""
        self._passing: tuple[Signal, Signal] = ((), ())

    def forward(self, incoming: Arrival | Signal) -> Tensor:
        """What the rule reads at the wall."""
        if isinstance(incoming, Arrival):
            return self.reading(*incoming)
        (alone,) = self.alone
        (signal, mask), following = alone(*tree_leaves(incoming))
        self._passing = signal, following
        return self.reading(signal, mask)

    def shown(self, passed: Signal) -> Tensor:
        """As of any block: the first tensor that its rule reads, with the batch in front."""
        return self.reading.tensors(passed)[0].movedim(self.reading.layouts[0].batch, 0)

    @property
    def whole(self) -> nn.Module:
        """As of any block, where it has been emitted: the model's own modules are not the block's."""
        return nn.ModuleList([*self.alone, self])

    def judge(self, incoming: Arrival | Signal, labels: Tensor, peers: PeerGoodness | None = None) -> Judged:
        """As of any block; what is compiled is `alone`, for no two blocks are alike."""
        activation = self(incoming)
        return activation, *self.rule.local_loss(activation, labels, peers)

    def pass_on(self, activation: Tensor, incoming: Arrival | Signal) -> Signal:
        """The signal, detached.

        The model has norms of its own. Only contrastive rules divide it by its length, which is their goodness.
        """
        signal, following = self._passing
        self._passing = ((), ())
        if isinstance(incoming, Arrival):
            signal = following = incoming.signal
        if isinstance(self.rule, TwoStreamRule):
            read = self.reading.tensors(signal)
            with torch.no_grad():
                following = replaced(following, read, [self.rule.pass_on(tensor.detach()) for tensor in read])
        return detached(following)
