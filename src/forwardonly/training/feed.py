"""The input of the first block: batches that are drawn, augmented and, for contrastive rules, labelled or paired."""

import torch
from torch import Tensor

from forwardonly.data import Images
from forwardonly.labels import wrong_labels
from forwardonly.network.network import Network
from forwardonly.rules import ContrastiveRule, UnlabelledRule
from forwardonly.system.precision import Precision, autocast
from forwardonly.training.batch import Batch
from forwardonly.training.config import TrainingConfig
from forwardonly.training.distributed.team import Team
from forwardonly.training.memory.micro_batch import portion
from forwardonly.training.progress import Position
from forwardonly.training.randomness import generator_at, seed_at
from forwardonly.training.schedule import Schedule
from forwardonly.training.update import Update


class Feed:
    """Makes batches for the first block.

    Args:
        network: its label classifier, if it has one, learns from each batch before the blocks do.
        images: training images, on the device.
        batch_size: images in a step, over all processes.
        seed: of every random draw; a batch depends on it and on the position alone.
    """

    def __init__(
        self,
        network: Network,
        images: Images,
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
        self.fixed: Tensor | None = None
        if getattr(network.rule, "negatives", "uniform") == "fixed":
            self.fixed = wrong_labels(images.labels, network.classes, generator_at(images.labels.device, seed))

    def order(self, phase: int, epoch: int) -> Tensor:
        """The order of the images in an epoch, (N,); not shuffled if one batch holds all of them."""
        device = self.images.labels.device
        if self.batch_size == len(self.images):
            return torch.arange(self.batch_size, device=device)
        generator = generator_at(device, self.seed, phase, epoch)
        return torch.randperm(len(self.images), generator=generator, device=device)

    def dropout_seed(self, position: Position) -> int:
        """Seed of the blocks' own random draws, such as dropout, in a step."""
        return seed_at(self.seed, position.phase, position.epoch, position.step, self.team.replica)

    def __call__(self, chosen: Tensor, position: Position) -> Batch:
        """This replica's part of the batch of the images at `chosen` (B,).

        Random draws are made for the whole batch first, so that they do not depend on the number of replicas.
        """
        network, part = self.network, self.team.part(self.batch_size)
        coordinates = (position.phase, position.epoch, position.step)
        images, labels = self.images.images[chosen], self.images.labels[chosen]
        generator = generator_at(labels.device, self.seed, *coordinates)
        if self.augment is not None:
            views = network.rule.views if isinstance(network.rule, UnlabelledRule) else 1
            drawn = [self.augment(images, generator, epoch=position.epoch, indices=chosen) for _ in range(views)]
            images = drawn[0] if views == 1 else torch.cat(drawn)
        if isinstance(network.rule, UnlabelledRule):  # pairs of the whole batch
            return portion(Batch(network.present(images, labels, generator), labels), part, streams=2)
        wrong = None if self.fixed is None else self.fixed[chosen]
        if wrong is None and isinstance(network.rule, ContrastiveRule) and self.classifier_update is None:
            wrong = wrong_labels(labels, network.classes, generator)
        images, labels, wrong = images[part], labels[part], None if wrong is None else wrong[part]
        logits = None
        if self.classifier_update is not None:
            self.schedule.set_rate([self.classifier_update], position.run_step)
            logits = train_label_classifier(network, self.classifier_update, images, labels, self.precision)
            if self.team.replica > 0:  # hard labels depend on the replica's own images
                generator = generator_at(labels.device, self.seed, *coordinates, self.team.replica)
        return Batch(network.present(images, labels, generator, wrong, logits), labels)


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
