"""What a rule reads at a wall: one tensor of maps (B, K, H, W) or features (B, D), made of a model's own signal.

Where the batch and the channels lie is known from the model (`layout.py`), never guessed from a shape.

Shapes: B batch, K or D channels, T tokens or times; a model's signal may be any tree of tensors.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from forwardonly.network.layout import channel_axis
from forwardonly.network.signal import floats_in

Pool = Literal["none", "mean", "class-token", "all"]
Channels = Literal["first", "last"]
"""Where all signals of a model have their channels: behind the batch, or last."""

MASK = "attention_mask"
"""The input of a Hugging Face model that says which tokens count."""


class NoBatchError(ValueError):
    """A signal has no axis that is the batch, so that no rule could compare its rows with labels."""


@dataclass(frozen=True)
class Layout:
    """Where a tensor's batch and channels lie, and how its positions are pooled.

    `pool`: "none" keeps the positions as a map; "mean" takes the mean over those that the mask leaves; "class-token"
    puts the first token beside the mean of the others; "all" gives (B, T, D), of which each position is an example of
    its own where tokens are learned. `place` is the tensor's among those of floats in the signal.
    """

    batch: int
    channels: int
    pool: Pool = "none"
    place: int = 0

    def read(self, tensor: Tensor, mask: Tensor | None = None) -> Tensor:
        """Maps (B, K, H, W) or features (B, D) of a tensor; `mask` (B, T) is 0 at positions that do not count."""
        if tensor.dim() == 1:
            return tensor.unsqueeze(1)
        turned = tensor.movedim((self.batch, self.channels), (0, 1))
        if turned.dim() == 2:
            return turned
        if self.pool == "none":
            if turned.dim() == 3:
                return turned.unsqueeze(3)
            return turned if turned.dim() == 4 else turned.flatten(3)
        rows = turned.flatten(2)
        if self.pool == "all":
            return rows.transpose(1, 2)
        if self.pool == "class-token":
            return torch.cat([rows[:, :, 0], rows[:, :, 1:].mean(2)], 1)
        if mask is None or mask.shape != (rows.shape[0], rows.shape[2]):
            return rows.mean(2)
        kept = mask.to(rows.dtype).unsqueeze(1)
        return (rows * kept).sum(2) / kept.sum(2).clamp_min(1)


class Reading(nn.Module):
    """Reads the tensors of a model's signal by their layouts.

    Of a list of tensors each is averaged over its positions, and all are put together.
    """

    def __init__(self, layouts: list[Layout]):
        super().__init__()
        self.layouts = layouts

    def forward(self, signal: Any, mask: Tensor | None = None) -> Tensor:
        """Maps (B, K, H, W) or features (B, D)."""
        read = [layout.read(tensor, mask) for layout, tensor in zip(self.layouts, self.tensors(signal), strict=True)]
        if len(read) == 1:
            return read[0]
        return torch.cat([own if own.dim() == 2 else own.mean((2, 3)) for own in read], 1)

    def tensors(self, signal: Any) -> list[Tensor]:
        """The tensors of a signal that are read."""
        floats = floats_in(signal)
        return [floats[layout.place] for layout in self.layouts]

    def describe(self) -> list[dict[str, Any]]:
        """The layouts, as JSON represents them."""
        return [asdict(layout) for layout in self.layouts]


def layouts_of(
    signal: Any, other: Any, counts: Collection[tuple[int, int]], pool: Pool, channels: Channels | None
) -> list[Layout]:
    """The layouts of a recorded signal.

    Of a tuple or a dict the first tensor of floats is read that has the batch on one of its axes: where windows or
    patches are folded into that axis, it has more rows than there are labels.

    Args:
        signal: what arrives at a wall.
        other: the same for another size of the batch; None: axis 0 is the batch.
        counts: how many rows the model's inputs have, for both sizes.
        pool: how positions are pooled.
        channels: where channels lie, if the model does not show it.

    Raises:
        NoBatchError: no axis of it is the batch.
        ValueError: there is no tensor to read, or it is not known where its channels lie.
    """
    floats = floats_in(signal)
    if not floats:
        raise ValueError("it gives no tensor of floats")
    others = [None] * len(floats) if other is None else floats_in(other)
    batches = [_batch_axis(tensor, like, counts) for tensor, like in zip(floats, others, strict=True)]
    places = [place for place, batch in enumerate(batches) if batch is not None]
    if isinstance(signal, list):
        places = places if len(places) == len(floats) else []
    if not places:
        raise NoBatchError(f"no single axis of its output {_sizes(floats[0])} is the batch")
    chosen = places if isinstance(signal, list) else places[:1]
    return [_layout(floats[place], batches[place] or 0, place, pool, channels) for place in chosen]


def _batch_axis(tensor: Tensor, other: Tensor | None, counts: Collection[tuple[int, int]]) -> int | None:
    """The axis that is as long as the batch in both of two batches, and the only one that differs in them."""
    if other is None:
        return 0
    grown = [axis for axis in range(tensor.dim()) if tensor.shape[axis] != other.shape[axis]]
    return grown[0] if len(grown) == 1 and (tensor.shape[grown[0]], other.shape[grown[0]]) in counts else None


def _layout(tensor: Tensor, batch: int, place: int, pool: Pool, channels: Channels | None) -> Layout:
    if tensor.dim() <= 2:
        return Layout(batch, 1 - batch, pool, place)
    rest = [axis for axis in range(tensor.dim()) if axis != batch]
    axis = {"first": rest[0], "last": rest[-1]}[channels] if channels is not None else channel_axis(tensor)
    if axis is None or axis == batch:
        raise ValueError(
            f"which axis of its output {_sizes(tensor)} holds the channels cannot be seen: "
            "give channels='first' or 'last'"
        )
    return Layout(batch, axis, pool, place)


def _sizes(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))


def mask_of(inputs: Any) -> Tensor | None:
    """Which tokens count, (B, T), if the inputs say so."""
    return inputs.get(MASK) if isinstance(inputs, Mapping) else None
