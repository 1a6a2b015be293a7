"""Messages between pipeline stages: batches received from the stage before and sent to the stage behind."""

from collections import deque
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from forwardonly.network.signal import tensors_in
from forwardonly.rules import PeerGoodness
from forwardonly.training.batch import Batch
from forwardonly.training.distributed.team import Team

_DTYPES = (
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)
_HEADER = 144  # numbers in a header: room for fifteen tensors of up to six dimensions
_PARTS = 16  # tags of a message; more than the tensors in it


@dataclass
class _Message:
    """Tensors in transit, and the operations to wait for."""

    parts: list[Tensor]
    works: "list[dist.Work | None]"

    def wait(self) -> list[Tensor]:
        for work in self.works:
            if work is not None:
                work.wait()
        return self.parts


class Pipe:
    """The connections of one stage: batches come from the stage before it and go to the one behind it.

    Up to two batches are in flight in each direction, so that communication overlaps with computation. All batches have
    the shapes of the first one.
    """

    def __init__(self, team: Team, device: torch.device):
        self.team = team
        self.device = device
        self._layout: list[int] = []
        self._received = 0
        self._sent = 0
        self._coming: deque[_Message] = deque()
        self._going: deque[_Message] = deque()

    def receive(self, more: bool) -> Batch:
        """The next batch; `more` says whether another one follows before the processes sync."""
        with self.team.peers():
            if not self._layout:
                header = torch.zeros(_HEADER, dtype=torch.int64, device=self.device)
                dist.recv(header, self.team.rank - 1)
                self._layout = header.tolist()
            while len(self._coming) < (2 if more else 1):
                self._coming.append(self._ask())
            return _batch(self._coming.popleft().wait(), self._layout)

    def send(self, batch: Batch) -> None:
        """Starts to send a batch; waits if two are still in flight."""
        parts = [_in_memory_order(part) for part in _parts(batch)]
        with self.team.peers():
            if self._sent == 0:
                dist.send(torch.tensor(_header(batch), device=self.device), self.team.rank + 1)
            while len(self._going) >= 2:
                self._going.popleft().wait()
            works = [dist.isend(part, self.team.rank + 1, tag=self._tag(self._sent, k)) for k, part in enumerate(parts)]
            self._going.append(_Message(parts, works))
        self._sent += 1

    def flush(self) -> None:
        """Waits until everything sent has arrived."""
        with self.team.peers():
            while self._going:
                self._going.popleft().wait()

    def _ask(self) -> _Message:
        """Starts to receive a batch."""
        parts = [
            torch.empty(shape, dtype=dtype, device=self.device, memory_format=order)
            for shape, dtype, order in _shapes(self._layout)
        ]
        works = [
            dist.irecv(_in_memory_order(part), self.team.rank - 1, tag=self._tag(self._received, k))
            for k, part in enumerate(parts)
        ]
        self._received += 1
        return _Message(parts, works)

    def _tag(self, message: int, part: int) -> int:
        return message % 4 * _PARTS + part  # four: two may be in flight, and another two requested


def _parts(batch: Batch) -> list[Tensor]:
    signal = tensors_in(batch.signal)
    return [*signal, batch.labels, *(batch.peers or ())]


def _batch(parts: list[Tensor], layout: list[int]) -> Batch:
    count, has_peers = layout[0], layout[1]
    signal = parts[0] if count == 0 else tuple(parts[:count])
    labels, *peers = parts[max(count, 1) :]
    return Batch(signal, labels, PeerGoodness(*peers) if has_peers else None)


def _header(batch: Batch) -> list[int]:
    """The layout of a message, as numbers.

    Tensors in the signal (0 for a bare one), whether peer goodness follows, and each tensor's type, memory order and
    shape.
    """
    numbers = [0 if isinstance(batch.signal, Tensor) else len(batch.signal), int(batch.peers is not None)]
    for part in _parts(batch):
        numbers += [_DTYPES.index(part.dtype), int(_channels_last(part)), part.dim(), *part.shape]
    assert len(numbers) < _HEADER
    return [*numbers, *[-1] * (_HEADER - len(numbers))]


def _shapes(layout: list[int]) -> list[tuple[list[int], torch.dtype, torch.memory_format]]:
    shapes, at = [], 2
    while layout[at] >= 0:
        kind, last, dimensions = layout[at : at + 3]
        order = torch.channels_last if last else torch.contiguous_format
        shapes.append((layout[at + 3 : at + 3 + dimensions], _DTYPES[kind], order))
        at += 3 + dimensions
    return shapes


def _channels_last(part: Tensor) -> bool:
    """Whether maps (B, K, H, W) are stored as (B, H, W, K)."""
    return part.dim() == 4 and not part.is_contiguous() and part.is_contiguous(memory_format=torch.channels_last)


def _in_memory_order(part: Tensor) -> Tensor:
    """The same values in the order of the memory.

    Reordering maps by channel and back would cost each stage a pass over them, and the convolution behind another one.
    """
    return part.permute(0, 2, 3, 1) if _channels_last(part) else part.contiguous()
