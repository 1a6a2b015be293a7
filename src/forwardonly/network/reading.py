"""What a rule reads at a wall: one tensor of maps (B, K, H, W) or features (B, D), made of a model's own signal.

Where the batch and the channels lie is known from the model (`layout.py`), never guessed from a shape.

Shapes: B batch, K or D channels, T tokens or times; a model's signal may be any tree of tensors.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from forwardonly.network.layout import channel_axis
from forwardonly.network.signal import readable

Pool = Literal["none", "mean", "class-token", "all"]
Channels = Literal["first", "last"]
"""Where all signals of a model have their channels: behind the batch, or last."""

MASK = "attention_mask"
"""The input of a Hugging Face model that says which tokens count."""


@dataclass(frozen=True)
class Layout:
    """Where a tensor's batch and channels lie, and how its positions are pooled.

    `pool`: "none" keeps the positions as a map; "mean" takes the mean over those that the mask leaves; "class-token"
    puts the first token beside the mean of the others; "all" gives (B, T, D), of which each position is an example of
    its own where tokens are learned.
    """

    batch: int
    channels: int
    pool: Pool = "none"

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
        tensors = readable(signal)
        read = [layout.read(tensor, mask) for layout, tensor in zip(self.layouts, tensors, strict=True)]
        if len(read) == 1:
            return read[0]
        return torch.cat([own if own.dim() == 2 else own.mean((2, 3)) for own in read], 1)

    def describe(self) -> list[dict[str, Any]]:
        """The layouts, as JSON represents them."""
        return [asdict(layout) for layout in self.layouts]


def layouts_of(signal: Any, other: Any, pool: Pool, channels: Channels | None) -> list[Layout]:
    """The layouts of a recorded signal, and of the same signal for another size of the batch (None: axis 0 is it).

    Raises:
        ValueError: there is no tensor to read, or it is not known where its batch or its channels lie.
    """
    tensors = readable(signal)
    if not tensors:
        raise ValueError("it gives no tensor of floats")
    others = [None] * len(tensors) if other is None else readable(other)
    return [_layout(tensor, like, pool, channels) for tensor, like in zip(tensors, others, strict=True)]


def _layout(tensor: Tensor, other: Tensor | None, pool: Pool, channels: Channels | None) -> Layout:
    batch = 0
    if other is not None:
        grown = [axis for axis in range(tensor.dim()) if tensor.shape[axis] != other.shape[axis]]
        if len(grown) != 1:
            raise ValueError(f"no single axis of its output {_sizes(tensor)} is the batch")
        batch = grown[0]
    if tensor.dim() <= 2:
        return Layout(batch, 1 - batch, pool)
    rest = [axis for axis in range(tensor.dim()) if axis != batch]
    axis = {"first": rest[0], "last": rest[-1]}[channels] if channels is not None else channel_axis(tensor)
    if axis is None or axis == batch:
        raise ValueError(
            f"which axis of its output {_sizes(tensor)} holds the channels cannot be seen: "
            "give channels='first' or 'last'"
        )
    return Layout(batch, axis, pool)


def _sizes(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))


def mask_of(inputs: Any) -> Tensor | None:
    """Which tokens count, (B, T), if the inputs say so."""
    return inputs.get(MASK) if isinstance(inputs, Mapping) else None
