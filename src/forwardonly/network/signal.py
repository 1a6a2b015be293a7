"""Signals: what passes from block to block. A tensor, or any tree of tensors that a model passes on.

Shapes: B batch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

Signal = Any
"""A tensor; in residual networks the main path and the shortcut; in a model of the user's, whatever it passes on."""


def tensors_in(signal: Signal) -> list[Tensor]:
    """The tensors of a signal."""
    return [leaf for leaf in tree_leaves(signal) if isinstance(leaf, Tensor)]


def named_tensors(output: Any, place: str = "") -> list[tuple[str, Tensor]]:
    """The tensors of a model's output by their places in it, such as "logits" or "hidden_states.0"; "" for one alone.

    Mappings and dataclasses of any class are looked into; PyTorch's trees know only those that are registered.
    """
    if isinstance(output, Tensor):
        return [(place, output)]
    parts: Iterable[tuple[Any, Any]]
    if isinstance(output, Mapping):
        parts = output.items()
    elif is_dataclass(output) and not isinstance(output, type):
        parts = [(each.name, getattr(output, each.name)) for each in fields(output)]
    elif isinstance(output, tuple | list):
        parts = zip(getattr(output, "_fields", range(len(output))), output, strict=True)
    else:
        parts = enumerate(leaf for leaf in tree_leaves(output) if leaf is not output)
    return [own for name, part in parts for own in named_tensors(part, f"{place}.{name}".removeprefix("."))]


def bytes_of(signal: Signal) -> int:
    """Memory of a signal in bytes."""
    return sum(tensor.nbytes for tensor in tensors_in(signal))


def floats_in(signal: Signal) -> list[Tensor]:
    """The tensors of a signal that hold floats, single numbers left out."""
    return [tensor for tensor in tensors_in(signal) if tensor.is_floating_point() and tensor.dim() > 0]


def sizes_of(signal: Signal, first: str = "") -> str:
    """The sizes of a signal's tensors in words; `first` stands for that of their first axis."""
    sizes = ([first, *tensor.shape[1:]] if first else tensor.shape for tensor in tensors_in(signal))
    return ", ".join(" x ".join(map(str, own)) for own in sizes)


def reason_of(problem: Exception) -> str:
    """What an error of a model's own code says, in one line."""
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0].rstrip(".")


def readable(signal: Signal) -> list[Tensor]:
    """The tensors of a signal that a rule reads where nothing says which.

    Of a tuple or a dict the first one of floats, where models have their hidden states; of a list all of them.
    """
    floats = floats_in(signal)
    return floats if isinstance(signal, list) else floats[:1]


def main_path(signal: Signal) -> Tensor:
    """The tensor of a signal that a body receives."""
    return signal if isinstance(signal, Tensor) else readable(signal)[0]


def detached(signal: Signal) -> Signal:
    """A signal of the same form, cut from autograd's graph."""
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, signal)


def replaced(signal: Signal, old: list[Tensor], new: list[Tensor]) -> Signal:
    """A signal of the same form, with new tensors in place of old ones."""
    instead = {id(before): after for before, after in zip(old, new, strict=True)}
    return tree_map(lambda leaf: instead.get(id(leaf), leaf), signal)


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    """Whether two lists hold equal tensors, to the bit; NaN equals NaN."""
    return len(one) == len(other) and all(
        a.shape == b.shape and bool(torch.equal(a, b) or torch.allclose(a, b, 0, 0, equal_nan=True))
        for a, b in zip(one, other, strict=True)
    )


def to_device(signal: Signal, device: torch.device) -> Signal:
    """A signal on a device."""
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, signal)
