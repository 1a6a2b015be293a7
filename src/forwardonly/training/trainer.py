"""What carries a run from step to step: epochs, batches, learning rates, checkpoints, figures."""

import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from forwardonly.data import Images
from forwardonly.labels import wrong_labels
from forwardonly.measure.accuracy import fit_readout
from forwardonly.measure.free_riding import diagnose
from forwardonly.network.block import Signal
from forwardonly.network.network import Network
from forwardonly.rules import ContrastiveRule, PeerGoodness
from forwardonly.system import mapped
from forwardonly.system.memory import peak_memory_bytes
from forwardonly.system.precision import choose_precision
from forwardonly.training.batch import Batch
from forwardonly.training.config import TrainingConfig
from forwardonly.training.distributed.team import Team
from forwardonly.training.interrupt import Interrupted
from forwardonly.training.memory.budget import MemoryPlan
from forwardonly.training.randomness import generator_at, seed_at
from forwardonly.training.runs import folder as keeping
from forwardonly.training.step import learn_all, learn_one, learn_row, needs_peers, reach, read
from forwardonly.training.strategies.cache import Cache, repeats
from forwardonly.training.strategies.pipeline import Pipe, spread
from forwardonly.training.strategies.threads import PREPARING, Turn, Workers, check_workers
from forwardonly.training.update import Span, span_of_learning


class StepEvent(NamedTuple):
    """How far a run is: steps done and in all, and at the end of an epoch its row of the history."""

    step: int
    steps: int
    row: dict[str, Any] | None = None


class NonFiniteLoss(ValueError):
    """A loss or a weight became NaN or infinite."""


@dataclass
class Progress:
    """Where a run stands: which block is trained (in greedy training), which epoch, which step of it."""

    phase: int = 0
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """What a run carries from step to step."""

    def __init__(
        self, network: Network, train: Images, config: TrainingConfig, device: torch.device, seed: int, team: Team
    ):
        self.network = network
        self.team = team
        self.images = train = train.to(device) if team.stage == 0 else train  # the other stages receive theirs
        self.config = config
        self.device = device
        self.seed = seed
        self.precision = choose_precision(config.precision, device)
        self.batch = min(config.batch_size, len(train))
        if self.batch < team.replicas:
            raise ValueError(f"A batch of {self.batch} images cannot be shared by {team.replicas} processes.")
        self.part = self.batch  # images that a block computes at a time
        self.plan: MemoryPlan | None = None  # how a memory budget is kept, if there is one
        self.updates = [team.update(block, config, self.batch) for block in network.row]
        self.classifier_update = (
            None if network.label_classifier is None else team.update(network.label_classifier, config, self.batch)
        )
        if config.staggered and needs_peers(network.row[0]) == "all":
            raise ValueError("Blocks that hear all others begin and stop together: delay must be 0, settle must be 1.")
        self.steps = len(train) // self.batch
        total, depth = config.epochs * self.steps, len(self.updates)
        self.spans = [span_of_learning(config, total, index, depth) for index in range(depth)]
        self.timed = list(zip(self.updates, self.spans, strict=True))
        if self.classifier_update is not None:
            self.timed.append((self.classifier_update, Span(0, total)))
        check_workers(network, config, device, team)
        self.workers = None if config.workers == 1 else Workers(config.workers)
        self.phases = len(self.updates) if config.schedule == "greedy" else 1
        self.place = Progress()
        self.losses = torch.zeros(self.steps, len(self.updates), device=device)
        self.everyones = self.losses  # the sum of all processes' losses, up to date once they have met
        network.prepare.fit(train.images)
        for block in network.row:
            block.compiled = config.compile
        self.wrong: Tensor | None = None
        if config.redraw == "once" and isinstance(network.rule, ContrastiveRule):
            if network.label_classifier is not None:
                raise ValueError("Wrong labels that are drawn once cannot be hard ones, nor read by a softmax.")
            self.wrong = wrong_labels(train.labels, network.classes, generator_at(device, seed))
        self.cache: Cache | None = None
        if repeats(network, train, config):
            self.cache = Cache(network, train, self.wrong, self.precision)
        self.pipe = Pipe(team, device)
        self.own = [slice(0, len(self.updates))]
        if team.stages > 1:
            self.own = spread(network, config, team, lambda: self._first(self._order(), 0), self.precision)

    def train(
        self,
        validation: Images | None,
        folder: Path | None,
        progress: Callable[[StepEvent], None] | None,
        interrupted: threading.Event,
    ) -> Iterator[dict[str, Any]]:
        """Epoch after epoch, from wherever the run stands; yields each epoch's row."""
        place, total = self.place, self.phases * self.config.epochs * self.steps
        self.network.train()
        while place.phase < self.phases:
            started = time.perf_counter()
            order = self._order()
            if self.cache is not None:
                self.cache.move_to(place.phase)
            for block in self.network.row:
                block.rule.start_epoch(place.epoch)
            with self.workers or nullcontext():
                while place.step < self.steps:
                    if self.workers is None:
                        self.losses[place.step] = self._step(order)
                    else:
                        self.workers.begin(partial(self._carry, order, place.step))
                    place.step += 1
                    if self.team.heartbeat is not None:
                        self.team.heartbeat.step = self._steps_done()
                    if progress is not None:
                        progress(StepEvent(self._steps_done(), total))
                    if interrupted.is_set():
                        place.seconds += time.perf_counter() - started
                        raise Interrupted(self._interrupted(folder))
                    if folder is not None and self._pauses(place.step):
                        self._sync()
                        self._checkpoint(folder, place.seconds + time.perf_counter() - started)
            self._sync()
            place.seconds += time.perf_counter() - started
            row = self._row(validation, time.perf_counter() - started)
            self._next_epoch()
            yield row
            if folder is not None:
                self._checkpoint(folder, place.seconds)
            if progress is not None:
                progress(StepEvent(self._steps_done(), total, row))

    def _step(self, order: Tensor) -> Tensor:
        """One batch through the loop; returns the losses (L,) of the blocks trained here, by this replica's share."""
        place, row, own = self.place, self.network.row, self.own[self.team.stage]
        seed = seed_at(self.seed, place.phase, place.epoch, place.step, self.team.replica)
        torch.manual_seed(seed)  # for dropout
        for index in range(len(self.timed)):
            self._set_rate(index, place.step)
        if self.cache is not None:
            chosen = self._chosen(order, place.step)
            chosen = chosen if self.team.replicas == 1 else chosen[self.team.part(self.batch)]
            losses = torch.zeros(len(row), device=self.device)
            losses[place.phase] = self.cache.learn(self.updates[place.phase], chosen)
        elif self.updates[own.start].waiting:  # and the stage before sends nothing
            losses = torch.zeros(len(row), device=self.device)
        else:
            batch = (
                self._first(order, place.step)
                if self.team.stage == 0
                else self.pipe.receive(not self._syncs_after(place.step))
            )
            if self.config.schedule == "greedy":
                losses = self._learn_one(*reach(row[: place.phase], batch.signal, None, self.precision), batch.labels)
            elif needs_peers(row[0]) == "all":
                losses = learn_all(row, self.updates, batch.signal, batch.labels, self.precision)
            else:
                losses = torch.zeros(len(row), device=self.device)
                updates = self.updates[own]
                losses[own], batch = learn_row(row[own], updates, batch, self.precision, seed, own.start, self.part)
                if self.team.stage + 1 < self.team.stages and not self.updates[own.stop].waiting:
                    self.pipe.send(batch)
        self.team.finish()
        return losses if self.team.replicas == 1 else losses * self.team.weight(self.batch)

    def _carry(self, order: Tensor, step: int, turn: Turn) -> None:
        """One batch of this epoch through the loop, by a worker: `_step` where others are under way."""

        @contextmanager
        def at_its_rate(index: int) -> Iterator[None]:
            with turn(index):
                self._set_rate(index, step)
                yield

        with turn(PREPARING):
            batch = self._first(order, step)
        self.losses[step] = learn_row(self.network.row, self.updates, batch, self.precision, turn=at_its_rate)[0]

    def _chosen(self, order: Tensor, step: int) -> Tensor:
        """Where the images of a step's global batch are, (B,)."""
        return order[step * self.batch : (step + 1) * self.batch]

    def _first(self, order: Tensor, step: int) -> Batch:
        """What the first block receives. Everything is drawn for the global batch, then this replica takes its part."""
        place, part = self.place, self.team.part(self.batch)
        generator = generator_at(self.device, self.seed, place.phase, place.epoch, step)
        chosen = self._chosen(order, step)
        images, labels = self.images.images[chosen], self.images.labels[chosen]
        if self.config.augment is not None:
            images = self.config.augment(images, generator, epoch=place.epoch, indices=chosen)
        wrong = None if self.wrong is None else self.wrong[chosen]
        if wrong is None and isinstance(self.network.rule, ContrastiveRule) and self.classifier_update is None:
            wrong = wrong_labels(labels, self.network.classes, generator)
        images, labels, wrong = images[part], labels[part], None if wrong is None else wrong[part]
        logits = None
        if self.classifier_update is not None:
            logits = read(self.network, self.classifier_update, images, labels, self.precision)
            if self.team.replica > 0:  # hard labels depend on the replica's own images, so they are not drawn for all
                generator = generator_at(self.device, self.seed, place.phase, place.epoch, step, self.team.replica)
        return Batch(self.network.present(images, labels, generator, wrong, logits), labels)

    def _learn_one(self, incoming: Signal, peers: PeerGoodness | None, labels: Tensor) -> Tensor:
        """A step of greedy training, as `_step`."""
        phase = self.place.phase
        losses = torch.zeros(len(self.updates), device=self.device)
        losses[phase] = learn_one(self.network.row, phase, self.updates[phase], incoming, labels, peers, self.precision)
        return losses

    def _order(self) -> Tensor:
        """The epoch's order of the images, (N,); a batch that holds them all has none."""
        if self.batch == len(self.images):
            return torch.arange(self.batch, device=self.device)
        generator = generator_at(self.device, self.seed, self.place.phase, self.place.epoch)
        return torch.randperm(len(self.images), generator=generator, device=self.device)

    def _set_rate(self, index: int, step: int) -> None:
        """Readies the update at that place in `timed` for a step of this epoch."""
        done = self.place.epoch * self.steps + step
        update, span = self.timed[index]
        update.waiting, update.settled = done < span.first, done >= span.end
        if not update.settled:
            update.set_rate(span.rate_factor(self.config, done))

    def _steps_done(self) -> int:
        epochs = self.place.phase * self.config.epochs + self.place.epoch
        return epochs * self.steps + self.place.step

    def _next_epoch(self) -> None:
        place = self.place
        place.step = 0
        place.epoch += 1
        if place.epoch == self.config.epochs:
            place.epoch = 0
            place.phase += 1

    def _pauses(self, done: int) -> bool:
        """Whether there is a checkpoint within the epoch after so many steps of it."""
        every = self.config.checkpoint_every
        return every is not None and done % every == 0 and done < self.steps

    def _syncs_after(self, step: int) -> bool:
        """Whether the processes meet once this step is done."""
        return step + 1 == self.steps or self._pauses(step + 1)

    def _sync(self) -> None:
        """All processes, at the same step, get all weights and losses, which must be finite."""
        self._arrive()
        self.pipe.flush()
        self.team.sync(self.network, self.own)
        self.everyones = self.team.all_reduce(self.losses)
        self._check_finite()

    def _arrive(self) -> None:
        """All steps that were begun are done when this returns."""
        if self.workers is not None:
            self.workers.finish()

    def _check_finite(self) -> None:
        """Looks at all losses, and at the weights, which the last step may have spoilt."""
        bad = (~torch.isfinite(self.everyones)).nonzero()
        if len(bad):
            step, block = bad[0].tolist()
            raise NonFiniteLoss(
                f"The loss of block {block} became {float(self.everyones[step, block])} in epoch {self.place.epoch}, "
                f"step {step}: try a lower learning rate or --precision fp32."
            )
        for index, block in enumerate(self.network.row):
            mapped.release()  # of the block before, if it lies in a file
            if not all(bool(torch.isfinite(parameter).all()) for parameter in block.parameters()):
                raise NonFiniteLoss(
                    f"A weight of block {index} became NaN or infinite in epoch {self.place.epoch}, by step "
                    f"{self.place.step - 1}: try a lower learning rate or --precision fp32."
                )

    def _row(self, validation: Images | None, seconds: float) -> dict[str, Any]:
        row: dict[str, Any] = {
            "epoch": self.place.phase * self.config.epochs + self.place.epoch,
            "loss": self._mean_losses(),
            "seconds": seconds,
            "learning_rate": self.updates[-1].optimisers[0].param_groups[0]["lr"],
        }
        if self.config.schedule == "greedy":
            row["block"] = self.place.phase
        watched = [block.rule.watched() for block in self.network.row]
        row.update({name: [own[name] for own in watched] for name in watched[0]})
        due = (self.place.epoch + 1) % self.config.validate_every == 0 or self.place.epoch + 1 == self.config.epochs
        if validation is not None and due:
            measured = self.team.evaluate(self.network, validation, self.precision, self.plan and self.plan.predicted)
            row["validation_accuracy"] = measured.accuracy
            row["block_accuracy"] = measured.block_accuracy
            if self.config.diagnose:
                row["free_riding"] = diagnose(self.network, validation, precision=self.precision).as_json()
        return row

    def _mean_losses(self) -> list[float | None]:
        """Mean loss of each block over the steps of this epoch in which it did not wait, or None."""
        done = (self.place.epoch + 1) * self.steps
        learned = [min(done - span.first, self.steps) for span in self.spans]  # losses of the others are 0
        sums = self.everyones.sum(0).tolist()
        return [total / steps if steps > 0 else None for total, steps in zip(sums, learned, strict=True)]

    def _checkpoint(self, folder: Path, seconds: float) -> None:
        own = [update.state_dict() for update in self.updates]
        state = self._state(seconds, self.team.gathered(own, self.own, self.device))
        if self.team.leads:
            keeping.keep(folder, state, self.place.history)

    def _state(self, seconds: float, updates: list[Any]) -> dict[str, Any]:
        """Everything the run goes on from, with the states of all updates."""
        return {
            "network": self.network.state_dict(),
            "updates": updates,
            "label_classifier": None if self.classifier_update is None else self.classifier_update.state_dict(),
            "place": {**asdict(self.place), "seconds": seconds},
            "losses": self.everyones,
            "part": self.part,
            "training": asdict(self.config),
            "seed": self.seed,
        }

    def open(self, folder: Path | None, extra: dict[str, Any], resume: bool) -> None:
        """Makes the run folder, or takes everything from its checkpoint; all processes start as the leading one does.

        Raises:
            ValueError: there is no run to resume, or it is damaged or had other options; the folder cannot be written.
        """
        state = None
        if folder is not None and self.team.leads:
            state = keeping.resume(folder) if resume else None
            if not resume:
                more = {"training": asdict(self.config), "seed": self.seed, **extra}
                keeping.start(folder, {"network": self.network.config, **more})
        if self.team.alone and state is None:
            return
        if self.team.leads and state is None:
            state = self._state(0.0, [update.state_dict() for update in self.updates])
        state = self.team.broadcast(state, self.device)
        try:
            self._take(state, folder)
        except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as problem:
            raise ValueError(
                f"The checkpoint in {folder} belongs to another network or is damaged ({type(problem).__name__})."
            ) from None

    def _take(self, state: dict[str, Any], folder: Path | None) -> None:
        now = {**asdict(self.config), "seed": self.seed}
        for name, value in {**state["training"], "seed": state["seed"]}.items():
            if now.get(name) != value:
                raise ValueError(f"The run in {folder} had {name} {value}, not {now.get(name)}: resume it with that.")
        self.network.load_state_dict(state["network"])
        for update, kept in zip(self.updates, state["updates"], strict=True):
            update.load_state_dict(kept)
        if self.classifier_update is not None:
            self.classifier_update.load_state_dict(state["label_classifier"])
        self.place = Progress(**state["place"])
        self.part = int(state.get("part", self.batch))
        place = self.place
        within = place.phase <= self.phases and place.epoch < self.config.epochs and place.step <= self.steps
        least = min(place.phase, place.epoch, place.step, self.part - 1)
        if not within or least < 0 or state["losses"].shape != self.losses.shape:
            raise ValueError(f"The checkpoint in {folder} is damaged or of other data.")
        if self.team.leads:  # the others' share in a sum is what they add from here on
            self.losses.copy_(state["losses"])

    def _interrupted(self, folder: Path | None) -> str:
        self._arrive()
        if folder is None:
            return "Interrupted; nothing was saved, for the run has no folder."
        if not self.team.alone:
            return f"Interrupted; the same command with --resume --out {folder} goes on from the last checkpoint."
        self._check_finite()
        self._checkpoint(folder, self.place.seconds)
        return f"Interrupted; a checkpoint is in {folder}: the same command with --resume --out {folder} goes on."

    def finish(self, validation: Images | None, test: Images | None, folder: Path | None) -> dict[str, Any]:
        """Final figures, from the last epoch's weights, and the files that hold them."""
        self.network.eval()
        result: dict[str, Any] = {
            "test_accuracy": None,
            "validation_accuracy": None,
            "block_accuracy": None,
            "seconds": self.place.seconds,
            "epochs": self.config.epochs,
            "seed": self.seed,
            "precision": self.precision,
            "device": describe_device(self.device),
            "processes": self.team.world,
            "torch": torch.__version__,
        }
        if self.plan is not None:
            result["plan"] = self.plan._asdict()
        fitted_on = {"validation": validation, "training": self.images}.get(self.network.readout.fitted_on or "")
        if fitted_on is not None:
            fit_readout(self.network, fitted_on, precision=self.precision)
        for name, images in (("validation", validation), ("test", test)):
            if images is not None:
                measured = self.team.evaluate(self.network, images, self.precision, self.plan and self.plan.predicted)
                result[f"{name}_accuracy"] = measured.accuracy
                result["block_accuracy"] = measured.block_accuracy
        result["peak_memory_bytes"] = peak_memory_bytes(self.device)
        if folder is not None and self.team.leads:
            keeping.finish(folder, self.network, self.place.history, result)
        return result


def describe_device(device: torch.device) -> str:
    """The device in words that stand beside a result."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads, {platform.machine()}"
