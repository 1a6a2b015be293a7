"""How to train within a given amount of memory: in which micro-batches, and whether idle blocks are offloaded.

Each kind of block is tried with 2 and with 4 images, and the bytes of all tensors of its steps are counted; memory is
taken to grow in proportion to the images.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from forwardonly.data import Images
from forwardonly.measure.accuracy import AT_A_TIME
from forwardonly.network.block import Block
from forwardonly.network.network import Network
from forwardonly.rules import ContrastiveRule
from forwardonly.system import mapped
from forwardonly.system.allocator import return_freed_memory
from forwardonly.system.memory import AllocatedBytes, memory_bytes, parse_bytes, peak_memory_bytes
from forwardonly.system.precision import Precision, choose_precision
from forwardonly.training.batch import Batch, bytes_of, tensors_in
from forwardonly.training.config import TrainingConfig
from forwardonly.training.memory.offload import Offload, tensors_of
from forwardonly.training.session import Session
from forwardonly.training.step import Context, advance, learn
from forwardonly.training.update import Update

TRIALS = (2, 4)
FEWEST = 32  # images below which offloading idle blocks is better than smaller micro-batches, which waste the processor
SLACK = 1.15  # for what the count cannot see: scratch memory of the products, the heap's gaps
RESERVE = 32 * 2**20


@dataclass(frozen=True)
class MemoryPlan:
    """What of a run is in memory at a time; by default all of it."""

    micro_batch: int | None = None
    """Images that a block computes at a time; None for all of a batch."""
    offload: bool = False
    """Whether idle blocks are offloaded."""
    predicted: int = AT_A_TIME
    """Images that are predicted at a time."""

    def place(self, network: Network, device: torch.device) -> None:
        """The network to its device, all but the blocks if they are offloaded; and out of files if they are not."""
        if self.offload:
            for name, part in network.named_children():
                if name != "blocks":
                    part.to(device)
            return
        for parameter in network.to(device).parameters():
            if mapped.holds(parameter):
                parameter.data = parameter.data.clone()

    @contextmanager
    def kept(self, session: Session, own: slice, folder: Path | None) -> Iterator[None]:
        """A context in which the plan is kept; the state of the `own` blocks' optimisers is made before the first step.

        `folder` is for the files that idle blocks are offloaded to on a CPU.
        """
        session.micro_batch = self.micro_batch
        if not self.offload:
            for update in session.updates[own]:
                update.allocate()
            yield
            return
        with Offload(session.network.row, session.updates, session.device, folder):
            yield
        session.network.cpu()  # its blocks are there


@dataclass(frozen=True)
class Cost:
    """Bytes that one block needs."""

    resident: int
    """Weights, buffers and optimiser state."""
    fixed: int
    """The most in a step, whatever the number of images; what is resident is part of it."""
    an_image: int
    """What each image of a step adds to that."""
    signal: int
    """An image's signal, before the block or behind it."""

    def step(self, batch: int, part: int) -> int:
        """The most in a step of a batch in such parts; what they pass on is held twice while it is joined."""
        return int(SLACK * (self.fixed + self.an_image * part)) + self.signal * batch * (1 if part == batch else 3)


def make_plan(network: Network, train: Images, config: TrainingConfig, device: torch.device) -> MemoryPlan:
    """The quickest way of training within `config.memory_budget`, or without one; the network may be on the host.

    Raises:
        ValueError: there is none, and the text names the smallest budget that there is one for.
    """
    if config.memory_budget is None:
        return MemoryPlan()
    if device.type == "cpu":
        return_freed_memory()
    budget, batch = parse_bytes(config.memory_budget), min(config.batch_size, len(train))
    costs = measure(network, train, config, choose_precision(config.precision, device))
    before = RESERVE + (memory_bytes(device) if device.type == "cpu" else train.images.nbytes + train.labels.nbytes)
    guests = 3 if device.type == "cuda" else 1  # blocks on the device at a time: one comes, one computes, one goes
    resident = sum(cost.resident for cost in costs)

    def needed(part: int, offload: bool) -> int:
        beside = [(guests - 1 if offload else -1) * cost.resident for cost in costs]
        steps = [cost.step(batch, part) + more for cost, more in zip(costs, beside, strict=True)]
        return before + max(steps) + (0 if offload else resident)

    parts = [batch]
    while parts[-1] > 1:
        parts.append(-(-parts[-1] // 2))
    ways = [(part, False) for part in parts if part >= min(FEWEST, batch)]
    ways += [(part, len(costs) > 1) for part in parts]  # with one block there is no idle one
    for part, offload in ways:
        if needed(part, offload) <= budget:
            rows = 2 * part // network.classes if isinstance(network.rule, ContrastiveRule) else part
            return MemoryPlan(part, offload, max(1, min(AT_A_TIME, rows)))
    least = max(min(needed(*way) for way in ways), peak_memory_bytes(device))
    raise ValueError(
        f"This training does not fit in {config.memory_budget}: the smallest memory budget that it fits in is "
        f"{-(-least // 2**20)}MiB."
    )


def measure(network: Network, train: Images, config: TrainingConfig, precision: Precision) -> list[Cost]:
    """What each block needs; blocks of the same kind are tried once."""
    known: dict[str, Cost] = {}
    costs = []
    fronts = [_front(network, train, count) for count in TRIALS]
    for original in network.row:
        shapes = [tuple(parameter.shape) for parameter in original.parameters()]
        kind = f"{original.body} {shapes} {bytes_of(fronts[0].signal)}"
        if kind not in known:
            known[kind] = _cost([_try(original, front, config, precision) for front in fronts])
        costs.append(known[kind])
        block = copy.deepcopy(original)  # for a trial must not move running statistics
        fronts = [advance([block], front, precision) for front in fronts]
        mapped.release()
    return costs


class _Trial(NamedTuple):
    peak: int
    resident: int
    signal: int


def _try(original: Block, batch: Batch, config: TrainingConfig, precision: Precision) -> _Trial:
    """Two steps of a copy of the block: the first makes what the optimiser keeps, the second has it beside the rest."""
    with AllocatedBytes(known=[*tensors_in(batch.signal), batch.labels]) as held:
        block = copy.deepcopy(original)
        update = Update(block, config)
        for _ in range(2):
            _, behind = learn(block, update, batch, Context(precision))
    return _Trial(
        peak=held.peak,
        resident=sum(tensor.nbytes for tensor in tensors_of(block, update)),
        signal=max(bytes_of(batch.signal), bytes_of(behind.signal)),
    )


def _cost(trials: list[_Trial]) -> Cost:
    few, many = trials
    an_image = max(0, many.peak - few.peak) // (TRIALS[1] - TRIALS[0])
    fixed = max(few.resident, few.peak - TRIALS[0] * an_image)
    return Cost(few.resident, fixed, an_image, few.signal // TRIALS[0])


def _front(network: Network, train: Images, count: int) -> Batch:
    """What the first block receives of so many images."""
    chosen = torch.arange(count) % len(train)
    images, labels = train.images[chosen].to(network.device), train.labels[chosen].to(network.device)
    with torch.no_grad():
        return Batch(network.present(images, labels, wrong=(labels + 1) % network.classes), labels)
