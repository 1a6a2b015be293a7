"""How to train within a given amount of memory: how many images at a time, and whether idle blocks wait elsewhere.

Each kind of block is tried with 2 and with 4 images, and the bytes of all tensors of its steps are counted; memory is
taken to grow in proportion to the images. What idle blocks can be made to wait is in `waiting.py`.
"""

import copy
from dataclasses import dataclass
from typing import NamedTuple

import torch

from forwardonly.data import Images
from forwardonly.measure.accuracy import AT_A_TIME
from forwardonly.network.block import Block
from forwardonly.network.network import Network
from forwardonly.rules import ContrastiveRule
from forwardonly.system import mapped
from forwardonly.system.memory import AllocatedBytes, memory_bytes, parse_bytes, peak_memory_bytes
from forwardonly.system.precision import Precision, choose_precision
from forwardonly.training.batch import Batch, bytes_of, tensors_in
from forwardonly.training.config import TrainingConfig
from forwardonly.training.distributed.team import Team
from forwardonly.training.memory.offload import tensors_of
from forwardonly.training.step import learn, needs_peers, reach
from forwardonly.training.update import Update

TRIALS = (2, 4)
FEWEST = 32  # images at a time below which idle blocks had better wait: a step of fewer wastes the processor
SLACK = 1.15  # for what the count cannot see: scratch memory of the products, the heap's gaps
RESERVE = 32 * 2**20


class MemoryPlan(NamedTuple):
    """How a budget is kept."""

    part: int
    """Images that a block computes at a time."""
    waits: bool
    """Whether idle blocks wait outside the device."""
    predicted: int
    """Images that are predicted at a time."""


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


def make_plan(network: Network, train: Images, config: TrainingConfig, device: torch.device, team: Team) -> MemoryPlan:
    """The quickest way of training within `config.memory_budget`; the network may be on the host or the device.

    Raises:
        ValueError: there is none, and the text names the smallest budget that there is one for; or the training is not
            of the kind that can be done in parts.
    """
    assert config.memory_budget is not None
    _require_parts(network, config, team)
    budget, batch = parse_bytes(config.memory_budget), min(config.batch_size, len(train))
    costs = measure(network, train, config, choose_precision(config.precision, device))
    before = RESERVE + (memory_bytes(device) if device.type == "cpu" else train.images.nbytes + train.labels.nbytes)
    guests = 3 if device.type == "cuda" else 1  # blocks on the device at a time: one comes, one computes, one goes
    resident = sum(cost.resident for cost in costs)

    def needed(part: int, waits: bool) -> int:
        beside = [(guests - 1 if waits else -1) * cost.resident for cost in costs]
        steps = [cost.step(batch, part) + more for cost, more in zip(costs, beside, strict=True)]
        return before + max(steps) + (0 if waits else resident)

    parts = [batch]
    while parts[-1] > 1:
        parts.append(-(-parts[-1] // 2))
    ways = [(part, False) for part in parts if part >= min(FEWEST, batch)]
    ways += [(part, len(costs) > 1) for part in parts]  # with one block there is nobody to wait
    for part, waits in ways:
        if needed(part, waits) <= budget:
            rows = 2 * part // network.classes if isinstance(network.rule, ContrastiveRule) else part
            return MemoryPlan(part, waits, max(1, min(AT_A_TIME, rows)))
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
        reached = [reach([block], front.signal, front.peers, precision) for front in fronts]
        fronts = [Batch(signal, fronts[k].labels, peers) for k, (signal, peers) in enumerate(reached)]
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
            signal = learn(block, update, *batch, precision)[2]
    return _Trial(
        peak=held.peak,
        resident=sum(tensor.nbytes for tensor in tensors_of(block, update)),
        signal=max(bytes_of(batch.signal), bytes_of(signal)),
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


def _require_parts(network: Network, config: TrainingConfig, team: Team) -> None:
    """Raises ValueError if what is to be trained needs its whole batch, or all its blocks, at once."""
    obstacles = {
        "many processes": not team.alone,
        "blocks that train one after another: choose schedule simultaneous": config.schedule == "greedy",
        "compiled blocks: leave out compile": config.compile,
        "a rule whose blocks hear all others": needs_peers(network.row[0]) == "all",
        "a softmax that reads all blocks: choose uniform negatives and prediction by goodness": network.label_classifier
        is not None,
    }
    for obstacle, there in obstacles.items():
        if there:
            raise ValueError(f"A memory budget cannot be kept with {obstacle}.")
