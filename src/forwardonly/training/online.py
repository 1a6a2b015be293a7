"""Online learning: training on batches as they arrive, without epochs."""

from typing import Any

import torch
from torch import Tensor

from forwardonly.data.targets import Names, read_targets
from forwardonly.names import whole_number
from forwardonly.network.network import Network, require_network
from forwardonly.system.precision import choose_precision
from forwardonly.training import compatibility
from forwardonly.training.batch import Batch
from forwardonly.training.config import TrainingConfig
from forwardonly.training.feed import train_label_classifier
from forwardonly.training.randomness import generator_at, seed_at
from forwardonly.training.step import Context
from forwardonly.training.strategies import whole_step
from forwardonly.training.update import Update

WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


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
        require_network(network)
        self.network = network
        self.seed = whole_number("seed", seed, 0)
        self.config = TrainingConfig.resolve(network.rule, given=options)
        self.precision = choose_precision(self.config.precision, network.device)
        rates = self.config.body_rates(len(network.row))
        self.updates = [Update(block, self.config, rate) for block, rate in zip(network.row, rates, strict=True)]
        classifier = network.label_classifier
        self.classifier_update = None if classifier is None else Update(classifier, self.config)
        self.steps = 0
        self._learns_from_one = False  # not known yet; the trial is a pass of its own

    @torch.enable_grad()
    def learn(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """One step of every block on images (B, channels, height, width) with labels (B,). Returns the losses (L,).

        A rule without labels needs none. Inputs of other shapes, and other targets, as `network` takes and learns them:
        see `forwardonly.targets`.

        Raises:
            ValueError: images of another shape than the network's, no images, or labels that are not its classes.
        """
        device = self.network.device
        if torch.is_inference_mode_enabled():
            raise ValueError("Training needs gradients: call learn outside torch.inference_mode().")
        if not self.network.labelled and isinstance(images, Tensor):
            labels = torch.zeros(len(images), dtype=torch.int64)  # of which only the number counts
        labels = self._checked(images, labels).to(device)
        images = images.to(device)
        self.network.train()
        logits = None
        if self.classifier_update is not None:
            logits = train_label_classifier(self.network, self.classifier_update, images, labels, self.precision)
        generator = generator_at(device, self.seed, self.steps)
        batch = Batch(self.network.present(images, labels, generator, logits=logits), self.network.aimed(labels))
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            context = Context(self.precision, seed_at(self.seed, self.steps))
            losses = whole_step(self.network, self.updates, batch, context)
        self.steps += 1
        return losses

    def _checked(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """The labels as int64; ValueError if the network cannot learn from such a batch."""
        if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
            raise ValueError(
                f"images and labels must be tensors, not {type(images).__name__} and {type(labels).__name__}: "
                "torch.from_numpy makes one."
            )
        if len(images) == 0:
            raise ValueError("There are no images to learn from.")
        if len(images) == 1 and not self._learns_from_one:
            compatibility.require_batch(self.network, 1)
            self._learns_from_one = True
        if self.network.targets != "class":
            read, _ = read_targets(labels, self.network.expected, Names(None), "labels")
            if self.network.units is not None:
                self.network.units.require_fitted()
            return read
        if labels.shape != images.shape[:1] or labels.dtype not in WHOLE:
            raise ValueError(
                f"labels must be {len(images)} whole numbers, one for each image, not {labels.dtype} of shape "
                f"{tuple(labels.shape)}."
            )
        if self.network.labelled and not 0 <= int(labels.min()) <= int(labels.max()) < self.network.classes:
            raise ValueError(
                f"Labels must be from 0 to {self.network.classes - 1}, the network's classes, but go from "
                f"{int(labels.min())} to {int(labels.max())}."
            )
        return labels.long()
