"""What the rules of a localized model read at each wall, seen in one forward pass on an example."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from forwardonly.network.localized import Cut
from forwardonly.network.reading import Channels, NoBatchError, Pool, Reading, layouts_of, mask_of
from forwardonly.network.signal import detached, named_tensors, readable, tensors_in
from forwardonly.network.walled import Arrival, Walled
from forwardonly.network.walls import Wall, all_trained


def cuts_at(
    model: nn.Module,
    inputs: Any,
    walls: Sequence[Wall],
    channels: Channels | None,
    each_position: bool,
    *,
    strict: bool = False,
    scores: str | None = None,
) -> list[Cut]:
    """What rules read at each wall of a model in evaluation mode.

    A wall whose signal has no axis that is the batch falls, unless it is the last one or `strict`: its weights are the
    next block's. `scores` is the place of the head's output in the model's, if it is known.

    Raises:
        ValueError: a signal has no axis that is known to hold the batch or the channels.
    """
    walled = Walled(model, [wall.name for wall in walls])
    tokens: list[Tensor] = []
    with all_trained(model), torch.enable_grad(), _last_tokens(model, tokens):
        signals, output = _signals(walled, inputs)
        counts, others = _at_another_size(walled, inputs)
        averaged = mask_of(inputs) is not None or _texts(inputs)
        pool: Pool = "all" if each_position else "mean" if averaged else "none"
        length = _length_behind_class_token(output, tokens, scores) if pool == "none" else None
        cuts: list[Cut] = []
        weights: tuple[str, ...] = ()
        for index, wall in enumerate(walls):
            weights += wall.weights
            try:
                layouts = layouts_of(signals[index], others[index] if others else None, counts, pool, channels)
            except ValueError as problem:
                falls = isinstance(problem, NoBatchError) and not strict
                if falls and wall is not walls[-1]:
                    continue
                raise ValueError(f"Block {index}, which ends with {wall.name!r}, cannot be read: {problem}.") from None
            for number, (layout, own) in enumerate(zip(layouts, Reading(layouts).tensors(signals[index]), strict=True)):
                if own.dim() == 3 and own.shape[3 - layout.batch - layout.channels] == length:
                    layouts[number] = replace(layout, pool="class-token")
            reading = Reading(layouts)
            with torch.no_grad():
                shape = reading(detached(signals[index]), mask_of(inputs)).shape[2 if each_position else 1 :]
            cuts.append(Cut(wall.name, sorted(weights), reading, shape))
            weights = ()
    if len(cuts) == 1 < len(walls):
        raise ValueError(
            "No wall can stand inside the model, which leaves one block, trained by backprop: each block is to give a "
            "tensor of which one axis is the batch. blocks=1 takes it so."
        )
    return cuts


def _signals(walled: Walled, inputs: Any) -> tuple[list[Any], Any]:
    """The signals at the walls, attached to the graph, and the model's output."""
    signals: list[Any] = []

    def keep(index: int, arrival: Arrival) -> Any:
        signals.append(arrival.signal)
        return arrival.signal

    output = walled.walk(inputs, keep, whole=True)
    return signals, output


def _at_another_size(walled: Walled, inputs: Any) -> tuple[set[tuple[int, int]], list[Any] | None]:
    """The numbers of inputs here and in another batch, and the signals for that one; None if the model takes no
    other."""
    count = min(len(tensor) for tensor in tensors_in(inputs))

    def other(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return torch.cat([leaf, leaf]) if count == 1 else leaf[: count - 1]

    counts = {(len(tensor), len(other(tensor))) for tensor in tensors_in(inputs)}
    try:
        with torch.no_grad():
            return counts, _signals(walled, tree_map(other, inputs))[0]
    except Exception:  # the batch is not axis 0 of every input, as in graphs
        return counts, None


def _texts(inputs: Any) -> bool:
    """Whether the inputs are rows of token numbers."""
    return any(not tensor.is_floating_point() and tensor.dim() == 2 for tensor in tensors_in(inputs))


@contextmanager
def _last_tokens(model: nn.Module, last: list[Tensor]) -> Iterator[None]:
    """A context in which `last` receives the last tensor of three axes that a module of the model gives."""

    def keep(module: nn.Module, arguments: Any, output: Any) -> None:
        last[:] = [tensor for tensor in readable(output) if tensor.dim() == 3 and tensor.requires_grad] or last

    handles = [module.register_forward_hook(keep) for module in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _length_behind_class_token(output: Any, tokens: Sequence[Tensor], scores: str | None) -> int | None:
    """The number of tokens (B, T, D) of which the model's output depends on the first alone; None if on others too.

    Of several outputs that at `scores` is looked at, or the first.
    """
    tensors = [(place, own) for place, own in named_tensors(output) if own.is_floating_point() and own.dim() > 0]
    given = dict(tensors).get(scores or "", tensors[0][1] if tensors else None)
    if not tokens or given is None or not given.requires_grad or given is tokens[0]:
        return None
    weights = torch.randn_like(given)  # the plain sum behind a norm would have no gradient
    total = (given * weights).sum()
    slope: Tensor | None = torch.autograd.grad(total, tokens[0], retain_graph=True, allow_unused=True)[0]
    if slope is None:
        return None
    moved = slope.abs().sum((0, 2))
    return len(moved) if len(moved) > 1 and moved[0] > 0 and not moved[1:].any() else None
