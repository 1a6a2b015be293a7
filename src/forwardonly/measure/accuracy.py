"""How well a network predicts: as a whole, and each block by itself.

Shapes: L blocks, B batch, C classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from forwardonly.data import Images
from forwardonly.network import Network
from forwardonly.precision import autocast, choose_precision


@dataclass(frozen=True)
class Evaluation:
    """Accuracies are fractions of 1; `confusion` (C, C) counts true classes in rows, predicted ones in columns."""

    accuracy: float
    block_accuracy: list[float]
    confusion: Tensor


def evaluate(network: Network, images: Images, *, batch_size: int = 1000, precision: str = "auto") -> Evaluation:
    """The network's accuracy on labelled images, where the network is.

    Raises:
        ValueError: no images, labels outside the network's classes, or images of another shape than its own.
    """
    if len(images) == 0:
        raise ValueError("There are no images to evaluate on.")
    highest = int(images.labels.max())
    if highest >= network.classes:
        raise ValueError(f"A label is {highest}, but the network has classes 0 to {network.classes - 1}.")
    device = network.device
    chosen = choose_precision(precision, device)
    confusion = torch.zeros(network.classes**2, dtype=torch.int64, device=device)
    right = torch.zeros(len(network.readout.weights), dtype=torch.int64, device=device)
    training = network.training
    network.eval()
    with torch.no_grad(), autocast(chosen, device):
        for start in range(0, len(images), batch_size):
            batch = images.images[start : start + batch_size].to(device)
            labels = images.labels[start : start + batch_size].to(device)
            scores = network.scores(batch)
            right += (scores.argmax(2) == labels).sum(1)
            predicted = network.readout(scores).argmax(1)
            confusion += torch.bincount(labels * network.classes + predicted, minlength=len(confusion))
    network.train(training)
    table = confusion.view(network.classes, network.classes).cpu()
    return Evaluation(
        accuracy=float(table.diagonal().sum()) / len(images),
        block_accuracy=[count / len(images) for count in right.tolist()],
        confusion=table,
    )
