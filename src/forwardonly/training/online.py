"""Online learning: training on batches as they arrive, without epochs."""

from typing import Any

import torch
from torch import Tensor

from forwardonly.names import whole_number
from forwardonly.network.network import Network
from forwardonly.system.precision import choose_precision
from forwardonly.training.batch import Batch
from forwardonly.training.config import TrainingConfig
from forwardonly.training.feed import train_label_classifier
from forwardonly.training.randomness import generator_at, seed_at
from forwardonly.training.step import Context
from forwardonly.training.strategies import whole_step
from forwardonly.training.update import Update


class Online:
    """The training step of a network with its optimisers, for callers that supply the batches.

    Args:
        network: stays on its device; its `prepare` must have been fitted to images of the same kind.
        seed: of every random draw.
        options: fields of `TrainingConfig`; those of schedule, length, augmentation and device have no effect.

    Raises:
        ValueError: invalid options.
    """

    def __init__(self, network: Network, *, seed: int = 0, **options: Any):
        self.network = network
        self.seed = whole_number("seed", seed, 0)
        self.config = TrainingConfig.resolve(network.rule, given=options)
        self.precision = choose_precision(self.config.precision, network.device)
        self.updates = [Update(block, self.config) for block in network.row]
        classifier = network.label_classifier
        self.classifier_update = None if classifier is None else Update(classifier, self.config)
        self.steps = 0

    def learn(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step of every block on images (B, channels, height, width) with labels (B,). Returns the losses (L,).

        Raises:
            ValueError: images of another shape than the network's.
        """
        device = self.network.device
        images, labels = images.to(device), labels.to(device)
        self.network.train()
        logits = None
        if self.classifier_update is not None:
            logits = train_label_classifier(self.network, self.classifier_update, images, labels, self.precision)
        generator = generator_at(device, self.seed, self.steps)
        batch = Batch(self.network.present(images, labels, generator, logits=logits), labels)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            context = Context(self.precision, seed_at(self.seed, self.steps))
            losses = whole_step(self.network.row, self.updates, batch, context)
        self.steps += 1
        return losses
