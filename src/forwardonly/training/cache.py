"""What reaches the block that greedy training is at, computed once where it is the same in every epoch.

Shapes: N images, S streams: two under contrastive rules, one under the others.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from forwardonly.block import Signal
from forwardonly.data import Images
from forwardonly.network import Network
from forwardonly.precision import Precision
from forwardonly.rules import ContrastiveRule, Heard
from forwardonly.training.loop import reach
from forwardonly.training.recipe import Recipe

MOST_BYTES = 2**30
CHUNK = 1000


def repeats(network: Network, images: Images, recipe: Recipe) -> bool:
    """Whether the signal in front of a block is the same in every epoch of its greedy training, and fits in memory."""
    fixed = recipe.redraw == "once" or not isinstance(network.rule, ContrastiveRule)
    random = (
        nn.modules.dropout._DropoutNd,
        nn.modules.batchnorm._BatchNorm,
    )  # the latter makes an image's depend on others'
    steady = not any(isinstance(module, random) and getattr(module, "p", 1.0) > 0 for module in network.modules())
    if not (recipe.schedule == "greedy" and fixed and steady and recipe.augment is None and network.reader is None):
        return False
    signal = network.present(images.images[:1], images.labels[:1], wrong=images.labels[:1])
    largest = max(_bytes(signal), *(_bytes(passed) for _, _, passed in network.activations(signal)))
    return largest * len(images) <= MOST_BYTES


class Cache:
    """The signal in front of one block for all training images, and what the block hears of those before it.

    `wrong` are the wrong labels (N,) of the negative stream, or None for one-pass rules.
    """

    def __init__(self, network: Network, images: Images, wrong: Tensor | None, precision: Precision):
        self.network = network
        self.images = images
        self.precision = precision
        self.streams = 1 if wrong is None else 2
        self.index = 0
        self.heard: Heard | None = None
        self.signal = self._join(self._presented(wrong))

    def move_to(self, index: int) -> None:
        """Go on to the front of block `index`; the blocks before it must have learned all they will."""
        while self.index < index:
            block = self.network.row[self.index : self.index + 1]
            parts = [reach(block, *self.batch(chosen), self.precision) for chosen in self._chunks()]
            self.signal = self._join(signal for signal, _ in parts)
            told = [heard for _, heard in parts if heard is not None]
            self.heard = Heard(*(torch.cat(rows, dim=1) for rows in zip(*told, strict=True))) if told else None
            self.index += 1

    def batch(self, chosen: Tensor) -> tuple[Signal, Heard | None]:
        """Signal (S B, ...) and heard goodness of the images at `chosen` (B,)."""
        signal, heard = _tensors(self.signal), self.heard
        if len(chosen) < len(self.images):  # the whole set has no order, and copying it would cost half a step
            # index_select copies rows whole: a hundred times faster here than indexing with [...]
            signal = [tensor.index_select(1, chosen) for tensor in signal]
            heard = None if heard is None else Heard(*(rows.index_select(1, chosen) for rows in heard))
        parts = [tensor.flatten(0, 1) for tensor in signal]
        return (parts[0] if isinstance(self.signal, Tensor) else tuple(parts)), heard

    def _presented(self, wrong: Tensor | None) -> Iterator[Signal]:
        """What the first block receives; in the blocks' own arithmetic, so that no step need convert it."""
        for chosen in self._chunks():
            picked = None if wrong is None else wrong[chosen]
            signal = self.network.present(self.images.images[chosen], self.images.labels[chosen], wrong=picked)
            parts = [part.bfloat16() if self.precision == "bf16" else part for part in _tensors(signal)]
            yield parts[0] if isinstance(signal, Tensor) else tuple(parts)

    def _chunks(self) -> Iterator[Tensor]:
        yield from torch.arange(len(self.images), device=self.images.labels.device).split(CHUNK)

    def _join(self, parts: Iterable[Signal]) -> Signal:
        """Signals (S B, ...) of chunks as one of all images, each tensor (S, N, ...)."""
        rows = [[tensor.unflatten(0, (self.streams, -1)) for tensor in _tensors(part)] for part in parts]
        joined = [torch.cat(column, dim=1) for column in zip(*rows, strict=True)]
        return joined[0] if len(joined) == 1 else tuple(joined)


def _tensors(signal: Signal) -> list[Tensor]:
    return [signal] if isinstance(signal, Tensor) else list(signal)


def _bytes(signal: Signal) -> int:
    return sum(tensor.nbytes for tensor in _tensors(signal))
