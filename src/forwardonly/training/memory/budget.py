"""The memory plan of a run: which micro-batches, and whether idle blocks are offloaded, to fit a memory budget.

Each kind of block takes trial steps with 2 and with 4 images, and the bytes of all their tensors are counted; memory is
assumed to be linear in the number of images.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from forwardonly.data import Images
from forwardonly.data.inputs import each
from forwardonly.data.taking import Data
from forwardonly.measure.accuracy import AT_A_TIME
from forwardonly.network.block import Block
from forwardonly.network.localized import Localized
from forwardonly.network.network import Network
from forwardonly.network.signal import bytes_of, tensors_in
from forwardonly.network.walled import unchanged
from forwardonly.rules import ContrastiveRule
from forwardonly.rules.own_head import OwnHead
from forwardonly.system import mapped
from forwardonly.system.allocator import return_freed_memory
from forwardonly.system.memory import AllocatedBytes, memory_bytes, parse_bytes, peak_memory_bytes
from forwardonly.system.precision import Precision, choose_precision
from forwardonly.training import compatibility
from forwardonly.training.batch import Batch
from forwardonly.training.config import TrainingConfig
from forwardonly.training.memory.offload import Offload, tensors_of
from forwardonly.training.randomness import generator_at
from forwardonly.training.session import Session
from forwardonly.training.step import Context, advance, learn, train_step_in_place
from forwardonly.training.update import Update

TRIALS = (2, 4)
FEWEST = 32  # images below which offload is better than smaller micro-batches, which use the processor badly
SLACK = 1.15  # for memory that is not counted: scratch space of matrix products, heap fragmentation
RESERVE = 32 * 2**20


@dataclass(frozen=True)
class MemoryPlan:
    """Which parts of a run are in memory at a time; by default all of them."""

    micro_batch: int | None = None
    """Images that a block computes at a time; None for the whole batch."""
    offload: bool = False
    """Whether idle blocks are offloaded."""
    predicted: int = AT_A_TIME
    """Images that are predicted at a time."""

    def place(self, network: Network, device: torch.device) -> None:
        """Moves the network to its device, except its blocks if they are offloaded; else moves weights out of files."""
        if self.offload:
            blocks = {id(weight) for block in network.row for weight in block.parameters()}
            for name, part in network.named_children():
                if name == "blocks":
                    continue
                for module in part.modules():  # in place, a block's weights are the model's
                    for weight in module._parameters.values():
                        if weight is not None and id(weight) not in blocks:
                            weight.data = weight.data.to(device)
                    for own, buffer in module._buffers.items():
                        module._buffers[own] = None if buffer is None else buffer.to(device)
            return
        for parameter in network.to(device).parameters():
            if mapped.holds(parameter):
                parameter.data = parameter.data.clone()

    @contextmanager
    def applied(self, session: Session, own: slice, folder: Path | None) -> Iterator[None]:
        """A context in which the plan applies; it makes the optimiser state of the `own` blocks before the first step.

        `folder` is for the files to which idle blocks are offloaded on a CPU.
        """
        session.micro_batch = self.micro_batch
        if not self.offload:
            for update in session.updates[own]:
                update.allocate()
            yield
            return
        with Offload(session.network, session.updates, session.device, folder):
            yield
        session.network.cpu()  # its blocks were offloaded to the CPU


@dataclass(frozen=True)
class Cost:
    """Memory that one block needs, in bytes."""

    resident: int
    """Weights, buffers and optimiser state."""
    fixed: int
    """Peak of a step that does not depend on the number of images; includes resident memory."""
    an_image: int
    """What each image of a step adds to the peak."""
    signal: int
    """An image's signal: the larger of the block's input and output."""

    def step(self, batch: int, part: int) -> int:
        """Peak of a step on a batch in parts of `part` images; the parts' output is held twice while it is joined."""
        return int(SLACK * (self.fixed + self.an_image * part)) + self.signal * batch * (1 if part == batch else 3)


def make_plan(network: Network, train: Data, config: TrainingConfig, device: torch.device, batch: int) -> MemoryPlan:
    """The fastest plan for steps of `batch` images within `config.memory_budget`; the default plan without one.

    The network may be on the host.

    Raises:
        ValueError: no plan fits; the text names the smallest budget that one would fit.
    """
    if config.memory_budget is None:
        return MemoryPlan()
    if device.type == "cpu":
        return_freed_memory()
    job = Job(train, config, choose_precision(config.precision, device), device, batch)
    budget = parse_bytes(config.memory_budget)
    ways = _ways_in_place(network, job) if isinstance(network, Localized) else _ways(network, job)
    if isinstance(network, Localized) and _first_within(budget, ways) is None:
        network.emit()  # micro-batches need blocks that can be called alone
        ways = ways if network.in_place or not network.batch_first else _ways(network, job)
    if (plan := _first_within(budget, ways)) is not None:
        return plan
    least = max(min(needed for _, needed in ways), peak_memory_bytes(device))
    raise ValueError(
        f"This training does not fit in {config.memory_budget}: the smallest memory budget that it fits in is "
        f"{-(-least // 2**20)}MiB."
    )


def _first_within(budget: int, ways: Sequence[tuple[MemoryPlan, int]]) -> MemoryPlan | None:
    """The first plan that fits the budget."""
    return next((plan for plan, needed in ways if needed <= budget), None)


class Job(NamedTuple):
    """What a network is to be trained on, and how."""

    train: Data
    config: TrainingConfig
    precision: Precision
    device: torch.device
    batch: int
    """Images in a step."""

    @property
    def held(self) -> int:
        """Bytes of the images."""
        return self.train.images.nbytes + self.train.labels.nbytes if isinstance(self.train, Images) else 0

    @property
    def on_device(self) -> int:
        """Blocks on the device at a time where idle ones are offloaded: one loads, one computes, one unloads."""
        return 3 if self.device.type == "cuda" else 1


def _ways(network: Network, job: Job) -> list[tuple[MemoryPlan, int]]:
    """Each plan with the bytes that it needs, the fastest first."""
    device, batch, on_device = job.device, job.batch, job.on_device
    costs = measure(network, job.train, job.config, job.precision)
    before = RESERVE + (memory_bytes(device) if device.type == "cpu" else job.held)
    resident = sum(cost.resident for cost in costs)

    def needed(part: int, offload: bool) -> int:
        beside = [(on_device - 1 if offload else -1) * cost.resident for cost in costs]
        steps = [cost.step(batch, part) + more for cost, more in zip(costs, beside, strict=True)]
        return before + max(steps) + (0 if offload else resident)

    parts = [batch]
    while parts[-1] > 1:
        parts.append(-(-parts[-1] // 2))
    if compatibility.block_that_needs_two(network) is not None:  # the last part is what is left of the batch
        parts = [part for part in parts if min(part, batch % part or part) > 1]
    ways = [(part, False) for part in parts if part >= min(FEWEST, batch)]
    ways += [(part, len(costs) > 1) for part in parts]  # with one block there is no idle one
    labels = network.classes if isinstance(network.rule, ContrastiveRule) else 1
    streams = 2 if isinstance(network.rule, ContrastiveRule) else 1
    return [
        (MemoryPlan(part, offload, max(1, min(AT_A_TIME, streams * part // labels))), needed(part, offload))
        for part, offload in ways
    ]


def _ways_in_place(network: Localized, job: Job) -> list[tuple[MemoryPlan, int]]:
    """As `_ways`, of a model in place, whose blocks compute whole batches."""
    device, batch = job.device, job.batch
    few, many = (_peak_in_place(network, _front(network, job.train, count), job.precision) for count in TRIALS)
    an_image = max(0, many - few) // (TRIALS[1] - TRIALS[0])
    step = int(SLACK * (max(0, few - TRIALS[0] * an_image) + batch * an_image))
    slots = 1 + _slots(job.config)
    resident = [
        sum(weight.nbytes * (slots if weight.requires_grad else 1) for weight in block.parameters())
        for block in network.row
    ]
    borrowed = [_borrowed(block) for block in network.row]
    mapped.release()
    if device.type == "cpu":
        return_freed_memory()  # of the trials
    weights = [weight for block in network.row for weight in block.parameters() if not mapped.holds(weight)]
    in_memory = sum(weight.nbytes for weight in weights)
    before = RESERVE + (memory_bytes(device) - in_memory if device.type == "cpu" else job.held) + step
    trained = {id(weight) for block in network.row for weight in block.parameters()}
    beside = {key: size for read in borrowed for key, size in read.items() if key not in trained}
    alone = max(own + sum(read.values()) for own, read in zip(resident, borrowed, strict=True))
    predicted = max(1, min(AT_A_TIME, batch))
    return [
        (MemoryPlan(None, False, predicted), before + sum(resident) + sum(beside.values())),
        (MemoryPlan(None, len(resident) > 1, predicted), before + job.on_device * alone),
    ]


def _borrowed(block: Block) -> dict[int, int]:
    """Bytes of the weights in files that the block reads and another or none trains, such as the model's head."""
    own = {id(weight) for weight in block.parameters()}
    read = [weight for part in block.rule.modules() if isinstance(part, OwnHead) for weight in part.borrowed]
    return {id(weight): weight.nbytes for weight in read if id(weight) not in own and mapped.holds(weight)}


def _peak_in_place(network: Localized, batch: Batch, precision: Precision) -> int:
    """The most bytes of tensors at one time in a step of every block on a batch, without its optimiser."""
    training, known = network.training, [*network.parameters(), *network.buffers(), *tensors_in(batch.signal)]
    updates = [GradientAlone(block) for block in network.train().row]
    devices = [network.device] if network.device.type == "cuda" else []
    network.before_block = lambda _: mapped.release()  # weights in files need not be in memory all at once
    with unchanged(network), torch.random.fork_rng(devices=devices), AllocatedBytes(known=known) as held:
        train_step_in_place(network, updates, batch, Context(precision))
    network.before_block = None
    network.train(training)
    return held.peak


class GradientAlone(Update):
    """An update that takes the gradient and forgets it: a trial step."""

    def __init__(self, module: torch.nn.Module):
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def step(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


def _slots(config: TrainingConfig) -> int:
    """Tensors of a weight's size that the config's optimiser keeps for it."""
    body = torch.nn.Linear(2, 2, bias=False)
    update = Update(torch.nn.ModuleDict({"body": body}), config)
    update(body.weight.square().sum())
    states = [own for optimiser in update.optimisers for own in optimiser.state.values()]
    return sum(isinstance(slot, torch.Tensor) and slot.dim() == 2 for own in states for slot in own.values())


def measure(network: Network, train: Data, config: TrainingConfig, precision: Precision) -> list[Cost]:
    """The memory cost of each block; blocks of the same kind are measured once."""
    known: dict[str, Cost] = {}
    costs = []
    fronts = [_front(network, train, count) for count in TRIALS]
    for original in network.row:
        shapes = [tuple(parameter.shape) for parameter in original.parameters()]
        kind = f"{original.body} {shapes} {bytes_of(fronts[0].signal)}"
        if kind not in known:
            known[kind] = _cost([_try(original, front, config, precision) for front in fronts])
        costs.append(known[kind])
        block = copy.deepcopy(original)  # a trial must not change running statistics
        fronts = [advance([block], front, precision) for front in fronts]
        mapped.release()
    return costs


class _Trial(NamedTuple):
    peak: int
    resident: int
    signal: int


def _try(original: Block, batch: Batch, config: TrainingConfig, precision: Precision) -> _Trial:
    """Measures two steps of a copy of the block: the first makes the optimiser state, the second has it in memory."""
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


def _front(network: Network, train: Data, count: int) -> Batch:
    """The first block's input for `count` images."""
    if isinstance(train, Images):
        images, labels = train.images, train.labels
    else:
        images, given = train.sample(count)  # type: ignore[assignment]  # a rule reads what it gets
        assert given is not None
        labels = given
    chosen = torch.arange(count) % len(labels)
    images = each(images, lambda part: part[chosen].to(network.device))  # type: ignore[assignment]
    labels = labels[chosen].to(network.device)
    wrong = (labels + 1) % network.classes if isinstance(network.rule, ContrastiveRule) else None
    with torch.no_grad():
        generator = generator_at(network.device, 0)
        return Batch(network.present(images, labels, generator, wrong), network.aimed(labels))
