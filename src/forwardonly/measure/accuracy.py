"""Accuracy of a network, and of each block alone.

Shapes: L blocks, B batch, C classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from forwardonly.data import Images, Views
from forwardonly.data.matching import named_as
from forwardonly.network.network import Network
from forwardonly.system.precision import autocast, choose_precision

AT_A_TIME = 1000  # images


@dataclass(frozen=True)
class Evaluation:
    """Accuracies are fractions of 1; `confusion` (C, C) counts true classes in rows, predicted ones in columns."""

    accuracy: float
    block_accuracy: list[float]
    confusion: Tensor


def evaluate(
    network: Network,
    images: Images,
    *,
    batch_size: int = AT_A_TIME,
    precision: str = "auto",
    views: Views | None = None,
) -> Evaluation:
    """Accuracy on labelled images, or on the summed scores of several `views` of each, on the network's device.

    If the network has learned class names, labels are matched by name: images may have their classes in another order,
    or fewer.

    Raises:
        ValueError: no images, a class that is not one of the network's, images of another shape than its own, or a
            network that learns without labels.
    """
    network.require_classes()
    if len(images) == 0:
        raise ValueError("There are no images to evaluate on.")
    images = matched(network, images)
    highest = int(images.labels.max())
    if highest >= network.classes:
        raise ValueError(f"A label is {highest}, but the network has classes 0 to {network.classes - 1}.")
    device = network.device
    confusion = torch.zeros(network.classes**2, dtype=torch.int64, device=device)
    right = torch.zeros(len(network.readout.weights), dtype=torch.int64, device=device)
    for scores, labels in _scored(network, images, batch_size, precision, views or Views()):
        right += (scores.argmax(2) == labels).sum(1)
        predicted = network.readout(scores).argmax(1)
        confusion += torch.bincount(labels * network.classes + predicted, minlength=len(confusion))
    table = confusion.view(network.classes, network.classes).cpu()
    return Evaluation(
        accuracy=float(table.diagonal().sum()) / len(images),
        block_accuracy=[count / len(images) for count in right.tolist()],
        confusion=table,
    )


def matched(network: Network, images: Images) -> Images:
    """The images with the network's labels for their classes, by name, if the network has learned class names.

    Raises:
        ValueError: images of a class that the network has not learned.
    """
    return images if network.class_names is None else named_as(images, network.class_names, "the network")


def fit_readout(network: Network, images: Images, *, batch_size: int = AT_A_TIME, precision: str = "auto") -> None:
    """Fits the network's readout to labelled images; a fixed readout does not change."""
    images = matched(network, images)
    if network.readout.fitted_on is not None:
        scores, labels = zip(*_scored(network, images, batch_size, precision, Views()), strict=True)
        network.readout.fit(torch.cat(scores, dim=1), torch.cat(labels))


def _scored(
    network: Network, images: Images, batch_size: int, precision: str, views: Views
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every block's scores (L, B, C) and the labels (B,), batch by batch, in evaluation mode."""
    device, training = network.device, network.training
    chosen = choose_precision(precision, device)
    network.eval()
    for start in range(0, len(images), batch_size):
        batch = images.images[start : start + batch_size].to(device)
        with torch.no_grad(), autocast(chosen, device, cache=False):  # bf16 copies of all weights would fill memory
            scores = [network.scores(view) for view in views(batch)]
        yield sum(scores[1:], start=scores[0]), images.labels[start : start + batch_size].to(device)
    network.train(training)
