"""The figures of a network, and of each block alone: accuracy, or what suits other targets than classes.

Shapes: L blocks, B batch, C classes.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from forwardonly.data import Images, Views
from forwardonly.data.inputs import Inputs, each
from forwardonly.data.matching import named_as
from forwardonly.data.taking import Columns, Data, take
from forwardonly.measure.metrics import TALLIES
from forwardonly.names import whole_number
from forwardonly.network.network import Network, require_network
from forwardonly.network.readout import block_losses, weights_of
from forwardonly.system.precision import autocast, choose_precision
from forwardonly.targets import IGNORED

AT_A_TIME = 1000  # images


def evaluate(
    network: Network,
    images: Any,
    *,
    batch_size: int = AT_A_TIME,
    precision: str = "auto",
    views: Views | None = None,
    classes: Sequence[Any] | None = None,
    columns: Columns | None = None,
) -> Any:
    """Accuracy on labelled images, or on the summed scores of several `views` of each, on the network's device.

    Numbers are the mean of those of the views.

    If the network has learned class names, labels are matched by name: images may have their classes in another order,
    or fewer. For several labels, numbers or tokens the figures are others; see `forwardonly.measure.metrics`.

    Args:
        network: measured in evaluation mode.
        images: data of any kind that `fo.fit` takes; a stream is read to its end.
        batch_size: images at a time, where the data have no batches of their own.
        precision: auto, fp32 or bf16.
        views: of each image.
        classes: names of the classes, as in `fo.fit`.
        columns: as in `fo.fit`.

    Raises:
        ValueError: no images, a class that is not one of the network's, images of another shape than its own, or a
            network that learns without labels.
    """
    require_network(network)
    network.require_classes()
    batch_size = whole_number("batch_size", batch_size, 1)
    data = take(images, network.expected, classes=classes, columns=columns, name="the data to evaluate on")
    if isinstance(data, Images) and len(data) == 0:
        raise ValueError("There are no images to evaluate on.")
    data = matched(network, data)
    if isinstance(data, Images) and data.kind == "class" and (highest := int(data.labels.max())) >= network.classes:
        raise ValueError(f"A label is {highest}, but the network has classes 0 to {network.classes - 1}.")
    tally = TALLIES[network.targets](len(network.readout.weights), network.classes, network.device)
    for scores, targets in _scored(network, data, batch_size, precision, views or Views()):
        joined = network.readout(scores)
        tally.add(scores, network.readout.mean(joined) if network.targets in ("number", "token") else joined, targets)
    return tally.result()


def matched(network: Network, images: Data) -> Any:
    """The images with the network's labels for their classes, by name, if the network has learned class names.

    Raises:
        ValueError: images of a class that the network has not learned.
    """
    return images if network.class_names is None else named_as(images, network.class_names, "the network")


def fit_readout(network: Network, images: Data, *, batch_size: int = AT_A_TIME, precision: str = "auto") -> None:
    """Fits the network's readout to labelled images; a fixed readout does not change."""
    batch_size = whole_number("batch_size", batch_size, 1)
    images = matched(network, images)
    if network.readout.fitted_on is None:
        return
    scored = _scored(network, images, batch_size, precision, Views())
    if network.targets == "token":  # whose scores of a whole vocabulary at every position are not kept
        losses, count = torch.zeros_like(network.readout.weights), 0
        for own, targets in scored:
            kept = targets != IGNORED
            if found := int(kept.sum()):  # of a batch of padding alone the mean is NaN
                losses += block_losses(own[:, kept], targets[kept], "token") * found
                count += found
        if count == 0:
            raise ValueError(f"{images.name} has no token that is to be predicted: all are {IGNORED}.")
        network.readout.weights.copy_(weights_of(losses / count))
    else:
        scores, labels = zip(*((network.aimed(own), network.aimed(targets)) for own, targets in scored), strict=True)
        network.readout.fit(torch.cat(scores, dim=1), torch.cat(labels), network.targets)


def _scored(
    network: Network, images: Data, batch_size: int, precision: str, views: Views
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every block's scores (L, B, C) and the labels (B,), batch by batch, in evaluation mode."""
    device = network.device
    chosen = choose_precision(precision, device)
    batches: Iterator[tuple[Inputs, Tensor | None]] = iter(images.in_order(batch_size))
    with network.evaluating():
        for inputs, labels in batches:
            if labels is None:
                raise ValueError(
                    f"{images.name} has no targets to compare with: a batch is (inputs, targets), or a dict."
                )
            given = each(inputs, lambda part: part.to(device))
            with torch.no_grad(), autocast(chosen, device, cache=False):  # bf16 copies of all weights would fill memory
                if isinstance(given, Tensor) and given.dim() == 4:
                    scores = [network.scores(view) for view in views(given)]
                else:
                    scores = [network.scores(given)]
            together = sum(scores[1:], start=scores[0])
            yield together / len(scores) if network.targets == "number" else together, labels.to(device)
