"""What reaches the block that greedy training is at, computed once where it is the same in every epoch.

Shapes: N images, S streams: two under contrastive rules, one under the others.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from forwardonly.bodies.dropout import drops
from forwardonly.data import Images
from forwardonly.network.block import Signal, main_path
from forwardonly.network.candidates import FirstLayer, leading_affine
from forwardonly.network.network import Network
from forwardonly.rules import ContrastiveRule, PeerGoodness
from forwardonly.system.precision import Precision, autocast
from forwardonly.training.batch import bytes_of, tensors_in
from forwardonly.training.config import TrainingConfig
from forwardonly.training.step import learn_one, loss_among_all, needs_peers, reach
from forwardonly.training.update import Update

Chosen = Tensor | slice

MOST_BYTES = 2**30
CHUNK = 1000


def repeats(network: Network, images: Images, config: TrainingConfig) -> bool:
    """Whether the signal in front of a block is the same in every epoch of its greedy training, and fits in memory."""
    fixed = config.redraw == "once" or not isinstance(network.rule, ContrastiveRule)
    mixes = nn.modules.batchnorm._BatchNorm  # makes an image's depend on others'
    steady = not any(drops(module) or isinstance(module, mixes) for module in network.modules())
    if not (
        config.schedule == "greedy" and fixed and steady and config.augment is None and network.label_classifier is None
    ):
        return False
    signal = network.present(images.images[:1], images.labels[:1], wrong=images.labels[:1])
    largest = max(bytes_of(signal), *(bytes_of(passed) for _, _, passed in network.activations(signal)))
    return largest * len(images) <= MOST_BYTES


class Cache:
    """The signal in front of one block for all training images, and what the block hears of those before it.

    `wrong` are the wrong labels (N,) of the negative stream, or None for one-pass rules. Where the first block begins
    with an affine layer, what stands in front of it are images without labels: both streams share their product.
    """

    def __init__(self, network: Network, images: Images, wrong: Tensor | None, precision: Precision):
        self.network = network
        self.images = images
        self.wrong = wrong
        self.precision = precision
        self.index = 0
        self.peers: PeerGoodness | None = None
        self.codes: Tensor | None = None
        first = network.row[0]
        if wrong is not None and first.join is None and leading_affine(first.body)[0] is not None:
            parts = [network.apart(network.prepare(images.images[some])) for some in self._chunks()]
            self.signal = self._join((self._cast(unlabelled) for unlabelled, _ in parts), streams=1)
            codes = self._cast(parts[0][1])
            self.codes = codes if isinstance(codes, Tensor) else None
        else:
            self.signal = self._join(map(self._presented, self._chunks()), streams=1 if wrong is None else 2)

    def move_to(self, index: int) -> None:
        """Go on to the front of block `index`; the blocks before it must have learned all they will."""
        while self.index < index:
            block = self.network.row[self.index : self.index + 1]
            arrived = map(self._signal if self.codes is None else self._presented, self._chunks())
            parts = [
                reach(block, signal, self._heard(some), self.precision)
                for signal, some in zip(arrived, self._chunks(), strict=True)
            ]
            self.signal = self._join((signal for signal, _ in parts), streams=1 if self.wrong is None else 2)
            told = [peers for _, peers in parts if peers is not None]
            self.peers = PeerGoodness(*(torch.cat(rows, dim=1) for rows in zip(*told, strict=True))) if told else None
            self.codes = None
            self.index += 1

    def learn(self, update: Update, chosen: Tensor) -> Tensor:
        """One training step of the block on the images at `chosen` (B,); returns its loss."""
        row, block = self.network.row, self.network.row[self.index]
        whole = len(chosen) == len(self.images)  # the whole set has no order, and copying it would cost half a step
        some = slice(0, len(chosen)) if whole else chosen
        incoming, labels = self._signal(some), self.images.labels[some]
        if self.codes is None:
            return learn_one(row, self.index, update, incoming, labels, self._heard(some), self.precision)
        assert self.wrong is not None
        with autocast(self.precision, labels.device):
            first = FirstLayer(block, main_path(incoming))
            activation = first.streams(self.codes, (labels, self.wrong[some]))
            if needs_peers(block) != "all":
                loss = block.rule.local_loss(activation, labels, None)[0]
        if needs_peers(block) == "all":
            loss = loss_among_all(row, self.index, activation, incoming, None, self.precision)
        update(loss)
        return loss.detach()

    def _signal(self, chosen: Chosen) -> Signal:
        """The signal (S B, ...) of some images."""
        parts = [_pick(tensor, chosen).flatten(0, 1) for tensor in tensors_in(self.signal)]
        return parts[0] if isinstance(self.signal, Tensor) else tuple(parts)

    def _heard(self, chosen: Chosen) -> PeerGoodness | None:
        """What is peers (blocks, B) of some images."""
        return None if self.peers is None else PeerGoodness(*(_pick(rows, chosen) for rows in self.peers))

    def _presented(self, chosen: slice) -> Signal:
        """What the first block receives, all streams of it."""
        wrong = None if self.wrong is None else self.wrong[chosen]
        return self._cast(self.network.present(self.images.images[chosen], self.images.labels[chosen], wrong=wrong))

    def _cast(self, signal: Signal) -> Signal:
        """In the blocks' own arithmetic, so that no step need convert it."""
        parts = [part.bfloat16() if self.precision == "bf16" else part for part in tensors_in(signal)]
        return parts[0] if isinstance(signal, Tensor) else tuple(parts)

    def _chunks(self) -> Iterator[slice]:
        for start in range(0, len(self.images), CHUNK):
            yield slice(start, start + CHUNK)

    @staticmethod
    def _join(parts: Iterable[Signal], streams: int) -> Signal:
        """Signals (S B, ...) of chunks as one of all images, each tensor (S, N, ...)."""
        rows = [[tensor.unflatten(0, (streams, -1)) for tensor in tensors_in(part)] for part in parts]
        joined = [torch.cat(column, dim=1) for column in zip(*rows, strict=True)]
        return joined[0] if len(joined) == 1 else tuple(joined)


def _pick(rows: Tensor, chosen: Chosen) -> Tensor:
    """Some images of (rows, N, ...)."""
    # index_select copies rows whole: a hundred times faster here than indexing with [...]
    return rows[:, chosen] if isinstance(chosen, slice) else rows.index_select(1, chosen)
