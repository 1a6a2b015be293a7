"""The team: the processes of one run, their roles and their communication.

Processes form a grid of replicas x stages. The replicas share each batch (data parallel); the stages of a replica share
the blocks (layer pipeline, see `pipeline.py`). Rank = replica * stages + stage, so that the stages of a replica are
neighbours on a machine.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from forwardonly.data import Images
from forwardonly.data.taking import Data
from forwardonly.measure.accuracy import AT_A_TIME, evaluate
from forwardonly.measure.metrics import Evaluation, Figures
from forwardonly.network.network import Network
from forwardonly.training.config import TrainingConfig
from forwardonly.training.distributed.heartbeat import Heartbeat
from forwardonly.training.runs.checkpoint import pack, unpack
from forwardonly.training.update import Update, lying_as

T = TypeVar("T")
TIMEOUT = "FORWARDONLY_PEER_TIMEOUT"
REASON_BYTES = 500
"""Longest sentence that processes tell each other of a failure."""


class LostPeer(ValueError):
    """Another process of the run died or hangs; the text names its rank."""


class Team:
    """The processes of a run, as seen from this one; by default it is alone, and no method communicates.

    Args:
        rank: of this process, from 0.
        world: number of processes.
        stages: processes that a batch passes through; `world` must be a multiple.
        heartbeat: of this process, unless it is alone.
        timeout: seconds without a heartbeat after which a process is taken for dead.

    Raises:
        ValueError: `world` is not a multiple of `stages`.
    """

    def __init__(
        self,
        rank: int = 0,
        world: int = 1,
        stages: int = 1,
        heartbeat: Heartbeat | None = None,
        timeout: float = 300.0,
    ):
        if stages < 1 or world % stages:
            raise ValueError(f"{world} processes cannot make pipelines of {stages}: choose a divisor of {world}.")
        self.rank: int = rank
        self.world: int = world
        self.stages: int = stages
        self.replicas = world // stages
        self.replica, self.stage = divmod(rank, stages)
        self.heartbeat = heartbeat
        self.timeout = timeout
        self._pending: SharedUpdate | None = None
        self._same_stage: dist.ProcessGroup | None = None  # None: all processes
        self._same_replica: dist.ProcessGroup | None = None
        if self.stages > 1 and self.replicas > 1:  # every process must create every group, its own or not
            groups = [dist.new_group(list(range(stage, world, stages))) for stage in range(stages)]
            self._same_stage = groups[self.stage]
            groups = [dist.new_group(list(range(k * stages, (k + 1) * stages))) for k in range(self.replicas)]
            self._same_replica = groups[self.replica]

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.rank == 0

    def note_step(self, step: int) -> None:
        """Publishes this process's step with its heartbeat."""
        if self.heartbeat is not None:
            self.heartbeat.step = step

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.world == 1

    def device(self, chosen: torch.device) -> torch.device:
        """The chosen device; on a machine with many GPUs, this process's own."""
        if self.alone or str(chosen) != "cuda":
            return chosen
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())

    def part(self, count: int) -> slice:
        """This replica's part of a global batch of `count` images."""
        return slice(count * self.replica // self.replicas, count * (self.replica + 1) // self.replicas)

    def weight(self, count: int) -> float:
        """This replica's share of a global batch of `count` images."""
        part = self.part(count)
        return (part.stop - part.start) / count

    def update(self, module: nn.Module, config: TrainingConfig, batch: int, body_rate: float = 1.0) -> Update:
        """A module's update; where replicas share global batches of `batch` images, one that sums their gradients."""
        if self.replicas == 1:
            return Update(module, config, body_rate)
        return SharedUpdate(module, config, self, self.weight(batch), body_rate)

    def exchange(self, update: "SharedUpdate", gradient: Tensor) -> "dist.Work | None":
        """Starts to sum a gradient over replicas, in place; meanwhile the previous update takes its step."""
        with self.peers():
            work = dist.all_reduce(gradient, group=self._same_stage, async_op=True)
        self.finish()
        self._pending = update
        return work

    def finish(self) -> None:
        """Completes the step of the last update."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.take()

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.alone:
            return tensor
        total = tensor.clone()
        with self.peers():
            dist.all_reduce(total)
        return total

    def sync(self, network: Network, own: Sequence[slice]) -> None:
        """Gives every process the weights of all blocks, each stage's `own` blocks from that stage.

        Buffers that depend on a replica's own part of the data, such as batch norm's means, are averaged.
        """
        if self.alone:
            return
        with self.peers():
            if self.replicas > 1:
                mine = network if self.stages == 1 else _whole(network, own[self.stage])
                for buffer in mine.buffers():
                    if buffer.is_floating_point():  # by differences: what is the same on all keeps its bits
                        first = buffer.clone()
                        dist.broadcast(first, self.stage, group=self._same_stage)
                        apart = buffer - first
                        dist.all_reduce(apart, group=self._same_stage)
                        buffer.copy_(first + apart / self.replicas)
            for stage in range(self.stages if self.stages > 1 else 0):
                for tensor in _whole(network, own[stage]).state_dict().values():
                    dist.broadcast(tensor, self.replica * self.stages + stage, group=self._same_replica)

    def gathered(self, states: Sequence[Any], own: Sequence[slice], device: torch.device) -> list[Any]:
        """On the leading process, each block's state from the stage that trains it; `states` are this process's own."""
        gathered = list(states)
        if self.stages == 1 or self.replica > 0:
            return gathered
        for stage in range(1, self.stages):
            if self.stage == stage:
                self._send_bytes(pack(gathered[own[stage]]), device)
            elif self.leads:
                gathered[own[stage]] = unpack(self._receive_bytes(stage, device))
        return gathered

    def broadcast(self, state: Any, device: torch.device) -> Any:
        """The leading process's `state`, on every process: any tree that a checkpoint can hold."""
        if self.alone:
            return state
        content = pack(state) if self.leads else b""
        size = torch.tensor([len(content)], device=device)
        with self.peers():
            dist.broadcast(size, 0)
            data = _tensor(content, device) if self.leads else torch.empty(int(size), dtype=torch.uint8, device=device)
            dist.broadcast(data, 0)
        return state if self.leads else unpack(data.cpu().numpy().tobytes())

    def evaluate(self, network: Network, images: Data, precision: str, at_a_time: int | None = None) -> Figures:
        """`measure.evaluate`, with the images divided among the processes where their labels are classes."""
        size = at_a_time or AT_A_TIME
        mine, count, first, end = images, 0, 0, 0
        shared = not self.alone and isinstance(images, Images) and images.kind == "class" and len(images) >= self.world
        if shared:
            assert isinstance(images, Images)
            count = len(images)
            first, end = count * self.rank // self.world, count * (self.rank + 1) // self.world
            mine = images.subset(torch.arange(first, end))
        measured: Figures = self.together(
            lambda: evaluate(network, mine, batch_size=size, precision=precision), network.device
        )
        if not shared:
            return measured
        assert isinstance(measured, Evaluation)
        right = torch.tensor([round(share * (end - first)) for share in measured.block_accuracy])
        confusion = self.all_reduce(measured.confusion.to(network.device)).cpu()
        return Evaluation(
            accuracy=float(confusion.diagonal().sum()) / count,
            block_accuracy=[number / count for number in self.all_reduce(right.to(network.device)).tolist()],
            confusion=confusion,
        )

    def together(self, work: Callable[[], T], device: torch.device) -> T:
        """What `work` returns, which waits for no other process; where it fails on one process, it fails on all.

        Otherwise the others would wait for what the failed one never sends.

        Raises:
            RuntimeError: `work` failed on some process: its reason and rank; in a process alone, `work`'s own error.
        """
        if self.alone:
            return work()
        result, reason = None, b""
        try:
            result = work()
        except Exception as problem:
            reason = (" ".join(str(problem).split()) or type(problem).__name__).encode()[:REASON_BYTES]
        said = torch.zeros(self.world, REASON_BYTES, dtype=torch.uint8, device=device)
        if reason:
            said[self.rank, : len(reason)] = _tensor(reason, device)
        for rank, line in enumerate(self.all_reduce(said).cpu()):
            if line.any():
                text = line.numpy().tobytes().rstrip(b"\0").decode(errors="ignore")
                raise RuntimeError(f"{text} (on rank {rank} of {self.world})")
        return result  # type: ignore[return-value]

    @contextmanager
    def first_on_machine(self) -> Iterator[None]:
        """A context that each machine's first process completes, however long it takes, before the others enter."""
        if self.heartbeat is None:
            yield
            return
        local = int(os.environ.get("LOCAL_RANK", 0))
        key = f"first/{self.rank - local}"
        if local > 0:
            with self.peers():
                self.heartbeat.wait(key, self.rank - local, self.timeout)
        try:
            yield
        finally:
            if local == 0:
                with self.peers():
                    self.heartbeat.store.set(key, "has been")

    @contextmanager
    def peers(self) -> Iterator[None]:
        """A context around operations that wait for other processes.

        Raises:
            LostPeer: the wait failed; the text names the missing processes.
        """
        try:
            yield
        except RuntimeError as problem:
            raise LostPeer(self._loss_sentence(problem)) from None

    def _loss_sentence(self, problem: RuntimeError) -> str:
        assert self.heartbeat is not None
        try:
            missing = self.heartbeat.missing()
        except RuntimeError:
            return "The process that holds the store of all others has died: the last checkpoint is kept."
        if not missing:
            return f"The processes lost touch ({' '.join(str(problem).split())[:200]}): the last checkpoint is kept."
        names = " and ".join(f"rank {rank}" for rank in missing)
        return f"{names.capitalize()} of {self.world} died or hangs: the last checkpoint is kept."

    def _send_bytes(self, content: bytes, device: torch.device) -> None:
        with self.peers():
            dist.send(torch.tensor([len(content)], device=device), 0)
            dist.send(_tensor(content, device), 0)

    def _receive_bytes(self, rank: int, device: torch.device) -> bytes:
        size = torch.empty(1, dtype=torch.int64, device=device)
        with self.peers():
            dist.recv(size, rank)
            data = torch.empty(int(size), dtype=torch.uint8, device=device)
            dist.recv(data, rank)
        return data.cpu().numpy().tobytes()


class SharedUpdate(Update):
    """One block's update where replicas share the batch: the step follows once their gradients are summed.

    The next block computes meanwhile. `weight` is this replica's share of the global batch; where `examples` says of
    how many this replica's loss is a mean, their number is summed beside the gradient.
    """

    def __init__(self, module: nn.Module, config: TrainingConfig, team: Team, weight: float, body_rate: float = 1.0):
        super().__init__(module, config, body_rate)
        self.team = team
        self.weight = weight
        self.sharing: list[nn.Parameter] = []
        self.gradient = torch.empty(0)
        self.work: dist.Work | None = None

    def step(self) -> None:
        self.sharing = [parameter for parameter in self.parameters if parameter.grad is not None]
        if not self.sharing:  # a frozen block
            return
        pieces = [parameter.grad.flatten() for parameter in self.sharing if parameter.grad is not None]
        if self.examples is None:
            self.gradient = torch.cat(pieces).mul_(self.weight)
        else:
            count = pieces[0].new_full((1,), float(self.examples))
            self.gradient = torch.cat([*(piece * count for piece in pieces), count])
        for parameter in self.sharing:
            parameter.grad = None
        self.work = self.team.exchange(self, self.gradient)

    def take(self) -> None:
        """Waits for the sum and takes the step."""
        with self.team.peers():
            assert self.work is not None
            self.work.wait()
        gradient = self.gradient
        if self.examples is not None:
            gradient, count = gradient[:-1], gradient[-1]
            gradient /= count.clamp_min(1)
        pieces = gradient.split([parameter.numel() for parameter in self.sharing])
        for parameter, piece in zip(self.sharing, pieces, strict=True):
            parameter.grad = lying_as(parameter, piece.view(parameter.shape))
        super().step()
        self.gradient = torch.empty(0)


@contextmanager
def join(stages: int = 1, timeout: float | None = None) -> Iterator[Team]:
    """The team of the processes that torchrun started, or of a process alone.

    Args:
        stages: processes that a batch passes through, each with some of the blocks; all others share the batch.
        timeout: seconds without an answer after which a process is taken for dead; by default those in the environment
            variable FORWARDONLY_PEER_TIMEOUT, or 300.

    Raises:
        ValueError: several stages but one process, or a number of processes that is not a multiple of `stages`.
        LostPeer: not all processes joined.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    timeout = float(os.environ.get(TIMEOUT, 300)) if timeout is None else timeout
    if "RANK" not in os.environ and stages != 1:
        raise ValueError(
            f"There is only one process for {stages} stages: start more with "
            "`torchrun --nproc-per-node N -m forwardonly train ...`."
        )
    if timeout <= 0:
        raise ValueError(f"A timeout must be positive, not {timeout:g}.")
    if world == 1:
        yield Team(stages=stages)
        return
    limit = timedelta(seconds=timeout)
    try:
        # a restart must not read old addresses
        attempt = f"forwardonly/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
        (store, rank, world), (own, _, _) = (next(rendezvous("env://", timeout=limit)) for _ in range(2))
        store, own = PrefixStore(attempt, store), PrefixStore(attempt, own)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=limit)
    except RuntimeError as problem:
        raise LostPeer(f"Not all {world} processes came: {' '.join(str(problem).split())[:200]}") from None
    heartbeat = Heartbeat(own, rank, world)
    try:
        team = Team(rank, world, stages, heartbeat, timeout)
        yield team
        with team.peers():
            dist.barrier()  # no process leaves while another still communicates with it
    finally:
        heartbeat.stop()
        dist.destroy_process_group()


def _whole(network: Network, own: slice) -> nn.Module:
    """What holds the weights and the buffers of some blocks."""
    return nn.ModuleList(block.whole for block in network.row[own])


def _tensor(content: bytes, device: torch.device) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).to(device)
