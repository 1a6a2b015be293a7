"""A run: from a network and images to a trained network, a history, and a folder that holds both."""

import json
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from forwardonly.block import Signal
from forwardonly.data import Images
from forwardonly.labels import wrong_labels
from forwardonly.measure.accuracy import evaluate, fit_readout
from forwardonly.measure.free_riding import diagnose
from forwardonly.measure.memory import peak_memory_bytes
from forwardonly.network import Network
from forwardonly.precision import choose_device, choose_precision
from forwardonly.rules import ContrastiveRule, Heard
from forwardonly.storage import save, write_atomically, write_json
from forwardonly.training import checkpoint
from forwardonly.training.cache import Cache, repeats
from forwardonly.training.loop import learn_all, learn_one, reach, read
from forwardonly.training.randomness import generator_at, seed_at
from forwardonly.training.recipe import Recipe
from forwardonly.training.update import Update, rate_factor


class Progress(NamedTuple):
    """How far a run is: steps done and in all, and at the end of an epoch its row of the history."""

    step: int
    steps: int
    row: dict[str, Any] | None = None


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after the checkpoint was written; its text says how to go on."""


class NonFiniteLoss(ValueError):
    """A loss became NaN or infinite."""


@dataclass
class Run:
    """A finished run: the network, a row an epoch, the final figures, and the folder if there is one."""

    network: Network
    history: list[dict[str, Any]]
    result: dict[str, Any]
    folder: Path | None


@dataclass
class _Place:
    """Where a run stands: which block is trained (in greedy training), which epoch, which step of it."""

    phase: int = 0
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


def fit(
    network: Network,
    train: Images,
    *,
    validation: Images | None = None,
    test: Images | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    config: dict[str, Any] | None = None,
    **options: Any,
) -> Run:
    """Trains a network, every block by its own rule.

    Args:
        network: moved to the device that the options name.
        train: images to learn from.
        validation: images to report accuracy on after each epoch.
        test: images to report accuracy on once, at the end.
        out: run folder; without one nothing is written.
        resume: go on from the checkpoint in `out`.
        seed: of every random draw in the run; initial weights were drawn when the network was built.
        progress: called after every step.
        config: kept in the run's `config.json` beside the network and the recipe.
        options: fields of `Recipe`; what is not given is the rule's default.

    Raises:
        ValueError: options, images or labels that make no sense, or a folder that cannot be written.
        NonFiniteLoss: a loss became NaN or infinite; the folder keeps the last good checkpoint.
        Interrupted: Ctrl-C; the step was finished and, with `out`, a checkpoint written.
    """
    recipe = Recipe.for_rule(network.rule, **options)
    _check(network, train, validation, test)
    if network.readout.fitted_on == "validation" and validation is None:
        raise ValueError(f"The readout {network.readout.kind!r} is fitted to validation images: hold some out.")
    device = choose_device(recipe.device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        trainer = _Trainer(network.to(device), train.to(device), recipe, device, seed)
        folder = None if out is None else Path(out)
        if folder is not None:
            _open(folder, trainer, config or {}, resume)
        with _finish_step_on_interrupt() as interrupted:
            for row in trainer.train(validation, folder, progress, interrupted):
                trainer.place.history.append(row)
        return trainer.finish(validation, test, folder)


class _Trainer:
    """What a run carries from step to step."""

    def __init__(self, network: Network, train: Images, recipe: Recipe, device: torch.device, seed: int):
        self.network = network
        self.images = train
        self.recipe = recipe
        self.device = device
        self.seed = seed
        self.precision = choose_precision(recipe.precision, device)
        self.updates = [Update(block, recipe) for block in network.row]
        self.reader_update = None if network.reader is None else Update(network.reader, recipe)
        self.batch = min(recipe.batch_size, len(train))
        self.steps = len(train) // self.batch
        self.phases = len(self.updates) if recipe.schedule == "greedy" else 1
        self.place = _Place()
        self.losses = torch.zeros(self.steps, len(self.updates), device=device)
        network.prepare.fit(train.images)
        self.wrong: Tensor | None = None
        if recipe.redraw == "once" and isinstance(network.rule, ContrastiveRule):
            if network.reader is not None:
                raise ValueError("Wrong labels that are drawn once cannot be hard ones, nor read by a softmax.")
            self.wrong = wrong_labels(train.labels, network.classes, generator_at(device, seed))
        self.cache: Cache | None = None
        if repeats(network, train, recipe):
            self.cache = Cache(network, train, self.wrong, self.precision)

    def train(
        self,
        validation: Images | None,
        folder: Path | None,
        progress: Callable[[Progress], None] | None,
        interrupted: threading.Event,
    ) -> Iterator[dict[str, Any]]:
        """Epoch after epoch, from wherever the run stands; yields each epoch's row."""
        place, total = self.place, self.phases * self.recipe.epochs * self.steps
        self.network.train()
        while place.phase < self.phases:
            started = time.perf_counter()
            order = self._order()
            if self.cache is not None:
                self.cache.move_to(place.phase)
            for block in self.network.row:
                block.rule.start_epoch(place.epoch)
            while place.step < self.steps:
                self.losses[place.step] = self._step(order)
                place.step += 1
                if progress is not None:
                    progress(Progress(self._steps_done(), total))
                if interrupted.is_set():
                    place.seconds += time.perf_counter() - started
                    raise Interrupted(self._interrupted(folder))
            place.seconds += time.perf_counter() - started
            self._check_losses()
            row = self._row(validation, time.perf_counter() - started)
            self._next_epoch()
            yield row
            if folder is not None:
                self._checkpoint(folder)
            if progress is not None:
                progress(Progress(self._steps_done(), total, row))

    def _step(self, order: Tensor) -> Tensor:
        """One batch through the loop; returns the losses (L,), zero for blocks that were not trained."""
        place, recipe = self.place, self.recipe
        where = (place.phase, place.epoch, place.step)
        torch.manual_seed(seed_at(self.seed, *where))  # for dropout
        generator = generator_at(self.device, self.seed, *where)
        self._set_rates()
        chosen = order[place.step * self.batch : (place.step + 1) * self.batch]
        if self.cache is not None:
            return self._learn_one(*self.cache.batch(chosen), self.images.labels[chosen])
        images, labels = self.images.images[chosen], self.images.labels[chosen]
        if recipe.augment is not None:
            images = recipe.augment(images, generator, epoch=place.epoch, indices=chosen)
        if self.reader_update is not None:
            read(self.network, self.reader_update, images, labels, self.precision)
        wrong = None if self.wrong is None else self.wrong[chosen]
        incoming = self.network.present(images, labels, generator, wrong)
        if recipe.schedule == "simultaneous":
            return learn_all(self.network.row, self.updates, incoming, labels, self.precision)
        before = self.network.row[: place.phase]
        return self._learn_one(*reach(before, incoming, None, self.precision), labels)

    def _learn_one(self, incoming: Signal, heard: Heard | None, labels: Tensor) -> Tensor:
        """A step of greedy training, as `_step`."""
        phase = self.place.phase
        losses = torch.zeros(len(self.updates), device=self.device)
        losses[phase] = learn_one(
            self.network.row, phase, self.updates[phase], incoming, labels, heard, self.precision
        )
        return losses

    def _order(self) -> Tensor:
        """The epoch's order of the images, (N,); a batch that holds them all has none."""
        if self.batch == len(self.images):
            return torch.arange(self.batch, device=self.device)
        generator = generator_at(self.device, self.seed, self.place.phase, self.place.epoch)
        return torch.randperm(len(self.images), generator=generator, device=self.device)

    def _set_rates(self) -> None:
        done = self.place.epoch * self.steps + self.place.step
        factor = rate_factor(self.recipe.lr_schedule, self.recipe.warmup, done / (self.recipe.epochs * self.steps))
        for update in self.updates if self.reader_update is None else [*self.updates, self.reader_update]:
            update.set_rate(factor)

    def _steps_done(self) -> int:
        epochs = self.place.phase * self.recipe.epochs + self.place.epoch
        return epochs * self.steps + self.place.step

    def _next_epoch(self) -> None:
        place = self.place
        place.step = 0
        place.epoch += 1
        if place.epoch == self.recipe.epochs:
            place.epoch = 0
            place.phase += 1

    def _check_losses(self) -> None:
        bad = (~torch.isfinite(self.losses)).nonzero()
        if len(bad):
            step, block = bad[0].tolist()
            raise NonFiniteLoss(
                f"The loss of block {block} became {float(self.losses[step, block])} in epoch {self.place.epoch}, "
                f"step {step}: try a lower learning rate or --precision fp32."
            )

    def _row(self, validation: Images | None, seconds: float) -> dict[str, Any]:
        row: dict[str, Any] = {
            "epoch": self.place.phase * self.recipe.epochs + self.place.epoch,
            "loss": self.losses.mean(0).tolist(),
            "seconds": seconds,
            "learning_rate": self.updates[0].optimisers[0].param_groups[0]["lr"],
        }
        if self.recipe.schedule == "greedy":
            row["block"] = self.place.phase
        watched = [block.rule.watched() for block in self.network.row]
        row.update({name: [own[name] for own in watched] for name in watched[0]})
        due = (self.place.epoch + 1) % self.recipe.validate_every == 0 or self.place.epoch + 1 == self.recipe.epochs
        if validation is not None and due:
            measured = evaluate(self.network, validation, precision=self.precision)
            row["validation_accuracy"] = measured.accuracy
            row["block_accuracy"] = measured.block_accuracy
            if self.recipe.diagnose:
                row["free_riding"] = diagnose(self.network, validation, precision=self.precision).as_json()
        return row

    def _checkpoint(self, folder: Path) -> None:
        state = {
            "network": self.network.state_dict(),
            "updates": [update.state_dict() for update in self.updates],
            "reader": None if self.reader_update is None else self.reader_update.state_dict(),
            "place": asdict(self.place),
            "losses": self.losses,
            "recipe": asdict(self.recipe),
            "seed": self.seed,
        }
        try:
            checkpoint.write(folder, state)
            lines = "".join(json.dumps(row) + "\n" for row in self.place.history)
            write_atomically(folder / "metrics.jsonl", lines.encode())
        except OSError as problem:
            raise ValueError(
                f"Cannot write the checkpoint to {folder}: {problem.strerror or problem}; the last good one is kept."
            ) from None

    def restore(self, folder: Path) -> None:
        """Takes everything from the folder's checkpoint.

        Raises:
            ValueError: there is none, or it belongs to a run with other options.
        """
        state = checkpoint.read(folder, self.device)
        then, now = {**state["recipe"], "seed": state["seed"]}, {**asdict(self.recipe), "seed": self.seed}
        for name, value in then.items():
            if now.get(name) != value:
                raise ValueError(f"The run in {folder} had {name} {value}, not {now.get(name)}: resume it with that.")
        try:
            self.network.load_state_dict(state["network"])
        except RuntimeError:
            raise ValueError(f"The checkpoint in {folder} belongs to another network.") from None
        for update, kept in zip(self.updates, state["updates"], strict=True):
            update.load_state_dict(kept)
        if self.reader_update is not None:
            self.reader_update.load_state_dict(state["reader"])
        self.losses.copy_(state["losses"])
        self.place = _Place(**state["place"])

    def _interrupted(self, folder: Path | None) -> str:
        if folder is None:
            return "Interrupted; nothing was saved, for the run has no folder."
        self._checkpoint(folder)
        return f"Interrupted; a checkpoint is in {folder}: the same command with --resume --out {folder} goes on."

    def finish(self, validation: Images | None, test: Images | None, folder: Path | None) -> Run:
        """Final figures, from the last epoch's weights, and the files that hold them."""
        self.network.eval()
        result: dict[str, Any] = {
            "test_accuracy": None,
            "validation_accuracy": None,
            "block_accuracy": None,
            "seconds": self.place.seconds,
            "epochs": self.recipe.epochs,
            "seed": self.seed,
            "precision": self.precision,
            "device": describe_device(self.device),
            "torch": torch.__version__,
        }
        fitted_on = {"validation": validation, "training": self.images}.get(self.network.readout.fitted_on or "")
        if fitted_on is not None:
            fit_readout(self.network, fitted_on, precision=self.precision)
        for name, images in (("validation", validation), ("test", test)):
            if images is not None:
                measured = evaluate(self.network, images, precision=self.precision)
                result[f"{name}_accuracy"] = measured.accuracy
                result["block_accuracy"] = measured.block_accuracy
        result["peak_memory_bytes"] = peak_memory_bytes(self.device)
        if folder is not None:
            config = json.loads((folder / "config.json").read_text())
            save(self.network, folder, **{key: value for key, value in config.items() if key != "network"})
            write_json(folder / "result.json", result)
        return Run(self.network, self.place.history, result, folder)


def describe_device(device: torch.device) -> str:
    """The device in words that stand beside a result."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads, {platform.machine()}"


def _open(folder: Path, trainer: _Trainer, config: dict[str, Any], resume: bool) -> None:
    """Makes the run folder, or takes the checkpoint from it."""
    if resume:
        trainer.restore(folder)
        return
    if (folder / "result.json").exists() or (folder / checkpoint.STATE).exists():
        raise ValueError(f"{folder} already holds a run: choose another folder, or resume it.")
    versions = {"forwardonly": _version(), "torch": torch.__version__, "python": platform.python_version()}
    more = {"recipe": asdict(trainer.recipe), "seed": trainer.seed, "versions": versions, **config}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", {"network": trainer.network.config, **more})
    except OSError as problem:
        raise ValueError(f"Cannot write to {folder}: {problem.strerror or problem}.") from None


def _version() -> str:
    from forwardonly import __version__

    return __version__


def _check(network: Network, train: Images, *others: Images | None) -> None:
    """Images and labels that the network can learn from."""
    if len(train) == 0:
        raise ValueError("There are no training images.")
    for images in (train, *others):
        if images is None:
            continue
        if tuple(images.shape) != network.shape:
            raise ValueError(f"The network takes images of {network.shape}, not {tuple(images.shape)}.")
        if len(images) and not 0 <= int(images.labels.min()) <= int(images.labels.max()) < network.classes:
            raise ValueError(
                f"Labels must be from 0 to {network.classes - 1}, the network's classes, but go from "
                f"{int(images.labels.min())} to {int(images.labels.max())}."
            )


@contextmanager
def _finish_step_on_interrupt() -> Iterator[threading.Event]:
    """The first Ctrl-C sets the event, so that the step under way is finished; the second one stops at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(number: int, frame: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
