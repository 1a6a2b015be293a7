"""The input of the first block: batches that are drawn, augmented and, for contrastive rules, labelled or paired."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from forwardonly.data import Images
from forwardonly.data.indexed import Indexed
from forwardonly.data.inputs import Inputs, each, parts
from forwardonly.data.streams import SAMPLE, Passing
from forwardonly.data.taking import Data
from forwardonly.labels import wrong_labels
from forwardonly.network.network import Network
from forwardonly.rules import ContrastiveRule, UnlabelledRule
from forwardonly.system.precision import Precision, autocast
from forwardonly.training import compatibility
from forwardonly.training.batch import Batch
from forwardonly.training.config import TrainingConfig
from forwardonly.training.distributed.team import Team
from forwardonly.training.memory.micro_batch import portion
from forwardonly.training.progress import Position
from forwardonly.training.randomness import generator_at, seed_at
from forwardonly.training.schedule import Schedule
from forwardonly.training.update import Update

READING = 1 << 32  # sets the random numbers of reading apart from those of the steps


class Read(NamedTuple):
    """A batch that was read from a stream: inputs, targets, and the examples' indices, if they have some."""

    inputs: Inputs
    targets: Tensor
    indices: Tensor | None


Draft = Tensor | Read
"""A batch before it is made: the indices (B,) of images in memory, or what was read."""


class Feed:
    """Makes batches for the first block.

    Args:
        network: its label classifier, if it has one, learns from each batch before the blocks do.
        images: training images, on the device, or a stream.
        batch_size: images in a step, over all processes; of a stream with batches of its own, those of the first.
        seed: of every random draw; a batch depends on it and on the position alone.
    """

    def __init__(
        self,
        network: Network,
        images: Data,
        config: TrainingConfig,
        schedule: Schedule,
        precision: Precision,
        batch_size: int,
        seed: int,
        team: Team,
    ):
        self.network = network
        self.images = images
        self.augment = config.augment
        self.schedule = schedule
        self.precision = precision
        self.batch_size = batch_size
        self.seed = seed
        self.team = team
        classifier = network.label_classifier
        self.classifier_update = None if classifier is None else team.update(classifier, config, batch_size)
        self._learns_from_one = False  # not known yet; the trial is a pass of its own
        self.fixed: Tensor | None = None
        self.count = len(images) if isinstance(images, Images | Indexed) else None
        """Images in a pass, if it is known."""
        self.device = images.labels.device if isinstance(images, Images) else network.device
        if getattr(network.rule, "negatives", "uniform") == "fixed":
            if not isinstance(images, Images):
                raise ValueError("negatives fixed need all labels in memory: choose uniform or hard negatives.")
            self.fixed = wrong_labels(images.labels, network.classes, generator_at(self.device, seed))

    def order(self, phase: int, turn: int) -> Tensor:
        """The order of the images in a pass, (N,); not shuffled if one batch holds all of them."""
        assert self.count is not None
        device = self.device if isinstance(self.images, Images) else torch.device("cpu")
        if self.batch_size == self.count:
            return torch.arange(self.batch_size, device=device)
        generator = generator_at(device, self.seed, phase, turn)
        return torch.randperm(self.count, generator=generator, device=device)

    def drafts(self, phase: int, step: int) -> Iterator[Draft]:
        """The batches of a run, or of a block's own run, from a step on, without an end; passes follow each other.

        Of a stream those that come next, wherever it stands.
        """
        if self.count is None:
            assert isinstance(self.images, Passing)
            while True:
                yield self._read(*self.images.next(), None)
        assert not isinstance(self.images, Passing)
        size, each_pass = self.batch_size, self.count // self.batch_size
        turn, begin = divmod(step, each_pass)
        while True:
            order = self.order(phase, turn)
            slices = [order[number * size : (number + 1) * size] for number in range(begin, each_pass)]
            if isinstance(self.images, Images) or self.team.stage > 0:  # where nothing is read
                yield from slices
            else:
                read = self.images.fetch(slices)
                for number, chosen in enumerate(slices, begin):
                    torch.manual_seed(seed_at(self.seed, phase, turn, number, READING))  # for transforms that draw
                    yield self._read(*next(read), chosen)
            turn, begin = turn + 1, 0

    def _required(self, targets: Tensor | None) -> Tensor:
        if targets is None:
            raise ValueError(f"{self.images.name} has inputs without targets: a batch is (inputs, targets), or a dict.")
        return targets

    def _read(self, inputs: Inputs, targets: Tensor | None, indices: Tensor | None) -> Read:
        targets = self._required(targets)
        if len(targets) == 1 and not self._learns_from_one:
            compatibility.require_batch(self.network, 1)
            self._learns_from_one = True
        return Read(inputs, targets, indices)

    def sample(self) -> tuple[Inputs, Tensor]:
        """Examples to take statistics from: all images in memory, and of a stream about 5,000, or one if none is to be
        taken.
        """
        if isinstance(self.images, Images):
            return self.images.images, self.images.labels
        units = self.network.units
        fitted = bool(self.network.prepare.fitted) and (units is None or units.fitted)
        inputs, targets = self.images.sample(1 if fitted else SAMPLE)
        return each(inputs, lambda part: part.to(self.device)), self._required(targets).to(self.device)

    def place(self) -> list[Any] | None:
        """The place in a stream, for a checkpoint; data that are read by index need none."""
        return list(self.images.where()) if isinstance(self.images, Passing) else None

    def dropout_seed(self, position: Position) -> int:
        """Seed of the blocks' own random draws, such as dropout, in a step."""
        return seed_at(self.seed, position.phase, position.epoch, position.step, self.team.replica)

    def __call__(self, draft: Draft, position: Position) -> Batch:
        """This replica's part of the batch of the images at `draft` (B,), or of what was read.

        Random draws are made for the whole batch first, so that they do not depend on the number of replicas.
        """
        network, chosen = self.network, draft if isinstance(draft, Tensor) else draft.indices
        coordinates = (position.phase, position.epoch, position.step)
        images: Any
        part = slice(None) if isinstance(self.images, Passing) else self.team.part(self.batch_size)
        if isinstance(draft, Tensor):
            assert isinstance(self.images, Images)
            images, labels = self.images.images[draft], self.images.labels[draft]
        else:
            images = each(draft.inputs, lambda one: one.to(self.device, non_blocking=True))
            labels = draft.targets.to(self.device, non_blocking=True)
        generator = generator_at(labels.device, self.seed, *coordinates)
        if self.augment is not None:
            turn = position.epoch if self.count is None else position.run_step // (self.count // self.batch_size)
            views = network.rule.views if isinstance(network.rule, UnlabelledRule) else 1
            drawn = [self.augment(images, generator, epoch=turn, indices=chosen) for _ in range(views)]
            images = drawn[0] if views == 1 else torch.cat(drawn)
        if isinstance(network.rule, UnlabelledRule):  # pairs of the whole batch
            return portion(Batch(network.present(images, labels, generator), labels), part, streams=2)
        wrong = None if self.fixed is None else self.fixed[chosen]
        if wrong is None and isinstance(network.rule, ContrastiveRule) and self.classifier_update is None:
            wrong = wrong_labels(labels, network.classes, generator)
        images, labels = each(images, lambda one: one[part]), network.aimed(labels[part])
        wrong = None if wrong is None else wrong[part]
        logits = None
        if self.classifier_update is not None:
            self.schedule.set_rate([self.classifier_update], position.run_step)
            logits = train_label_classifier(network, self.classifier_update, images, labels, self.precision)
            if self.team.replica > 0:  # hard labels depend on the replica's own images
                generator = generator_at(labels.device, self.seed, *coordinates, self.team.replica)
        return Batch(network.present(images, labels, generator, wrong, logits), labels)


def prepared_for(images: Data, batch_size: int, seed: int) -> int:
    """Opens a stream for a run. Returns the examples of a step: `batch_size`, or those of the stream's first batch."""
    if isinstance(images, Passing):
        images.open(batch_size, lambda turn, batch: torch.manual_seed(seed_at(seed, turn, batch, READING)))
        if images.batch_size is None:
            return len(parts(images.sample(1).inputs)[0])
        return batch_size
    return min(batch_size, len(images))


def train_label_classifier(
    network: Network, update: Update, images: Tensor, labels: Tensor, precision: Precision
) -> Tensor:
    """One training step of the network's label classifier on detached activations; the blocks do not change.

    Returns its logits (B, C) for the images after the step, from which `Network.present` can draw wrong labels.
    """
    assert network.label_classifier is not None
    with autocast(precision, labels.device):
        passed = network.read(network.prepare(images))
        loss = network.label_classifier.loss(passed, labels)
    update(loss)
    with torch.no_grad(), autocast(precision, labels.device):
        return network.label_classifier(passed).sum(0)
