"""A probe: what a frozen network's activations say of labels, by a linear classifier or by nearest neighbours.

Hinton 2022, arXiv 2212.13345: a linear classifier reads the normalised activations of all blocks but the first. It
shows what a network has learned without labels, and reads any other network too.

Shapes: B batch, C classes; features of an example are those of the blocks one behind the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from forwardonly.data import Images, hold_out
from forwardonly.data.images import limited, spare
from forwardonly.data.matching import named_as
from forwardonly.measure.accuracy import AT_A_TIME
from forwardonly.measure.readers import KINDS, Reader, middle
from forwardonly.names import one_of, require, whole_number
from forwardonly.network.network import Network, require_network
from forwardonly.ops.pooling import grid_pool
from forwardonly.rules.base import unit_rms
from forwardonly.system.precision import autocast, choose_precision

Method = Literal["ridge", "logistic", "knn"]
Blocks = Literal["all-but-first", "all", "last"]

HELD_OUT = 0.1  # of the labelled images, which choose the strength
MOST_HELD_OUT = 5000


@dataclass(frozen=True)
class Probe:
    """A classifier of a network's activations.

    `accuracy`, on the test images, is a fraction of 1, or None without any; `validation_accuracy` is that on the
    labelled images that were held out to choose `strength`, None where there were too few to hold out. `images` counts
    the labelled images.
    """

    accuracy: float | None
    validation_accuracy: float | None
    strength: float
    features: int
    images: int
    classes: tuple[str, ...]
    _network: Network = field(repr=False)
    _read: Reader = field(repr=False)
    _how: dict[str, Any] = field(repr=False)

    def scores(self, images: Tensor | np.ndarray | Images) -> Tensor:
        """Class scores (B, C) of images (B, channels, height, width).

        Raises:
            ValueError: images of another shape than the network's, or something else than images.
        """
        pixels = images.images if isinstance(images, Images) else images
        require("images", pixels, (Tensor, np.ndarray), "a tensor, an array or fo.data.Images")
        return self._read(_finite_features(self._network, torch.as_tensor(pixels), self._how))

    def predict(self, images: Tensor | np.ndarray | Images) -> Tensor:
        """The class index of each image, (B,).

        Raises:
            ValueError: as `scores`.
        """
        return self.scores(images).argmax(1)


def probe(
    network: Network,
    train: Images,
    test: Images | None = None,
    *,
    method: Method = "ridge",
    blocks: Blocks = "all-but-first",
    grid: int = 2,
    labels_share: float = 1.0,
    seed: int = 0,
    batch_size: int = AT_A_TIME,
    precision: str = "auto",
) -> Probe:
    """Fits a classifier to a network's activations for labelled images; the network's weights do not change.

    The features are each block's activation, pooled to a grid and divided by its root mean square; they are held in
    memory, in float32. The strength of the classifier is chosen on a tenth of the labelled images, at most 5,000, and
    the classifier then fitted to all of them. Rules that embed labels see a neutral one. The preparation of a network
    that was never trained is fitted to the images first.

    Args:
        network: trained by any rule, or not at all.
        train: labelled images.
        test: labelled images to report accuracy on.
        method: ridge regression in closed form, logistic regression, or nearest neighbours by cosine (knn).
        blocks: whose activations are read; of a network of one block, that one.
        grid: maps are averaged over a grid of this many cells a side.
        labels_share: share of the labelled images that is used, the same of every class.
        seed: of the draw of these images, and of those that are held out.
        batch_size: images that go through the network at a time.
        precision: auto, fp32 or bf16.

    Raises:
        ValueError: images without labels, of one class or of another shape than the network's, a share that leaves a
            class without an image, an option out of range, or a network that has diverged.
    """
    require_network(network)
    _check(network, train, test, method, blocks, labels_share)
    grid, batch_size = whole_number("grid", grid, 1), whole_number("batch_size", batch_size, 1)
    kept = round(len(train) * labels_share)
    if kept < (least := len(train.labels.unique())):
        raise ValueError(
            f"labels_share {labels_share:g} of {len(train)} images leaves {kept}, fewer than one for each of {least} "
            "classes."
        )
    train = limited(train, kept, whole_number("seed", seed, 0))
    test = None if test is None else named_as(test, train.classes, "the set of training images")
    if not network.prepare.fitted:
        network.prepare.fit(train.images.to(network.device))
    how: dict[str, Any] = {"blocks": blocks, "grid": grid, "batch_size": batch_size, "precision": precision}
    kind, classes = KINDS[method], len(train.classes)
    parts = hold_out(train, _spare(train), seed)
    (x, y), (held_x, held_y) = (
        (_finite_features(network, part.images, how), part.labels.to(network.device)) for part in parts
    )
    strength, held_accuracy = middle(kind.strengths), None
    if len(held_y):
        reached = [_accuracy(read(held_x), held_y) for read in kind.fit(x, y, classes, kind.strengths)]
        held_accuracy = max(reached)
        strength = kind.strengths[reached.index(held_accuracy)]
        x, y = torch.cat([x, held_x]), torch.cat([y, held_y])
    (read,) = kind.fit(x, y, classes, [strength])
    accuracy = None
    if test is not None:
        accuracy = _accuracy(read(_finite_features(network, test.images, how)), test.labels.to(network.device))
    return Probe(accuracy, held_accuracy, strength, x.shape[1], len(train), train.classes, network, read, how)


def features(network: Network, images: Tensor, *, blocks: Blocks, grid: int, batch_size: int, precision: str) -> Tensor:
    """What a probe reads: the blocks' activations, pooled and of unit mean square, (B, features) in float32."""
    device = network.device
    chosen = choose_precision(precision, device)
    depth = len(network.row)
    first = {"all": 0, "all-but-first": min(1, depth - 1), "last": depth - 1}[blocks]
    rows = []
    with network.evaluating():
        for part in images.split(batch_size):
            with torch.no_grad(), autocast(chosen, device, cache=False):
                incoming = network.alone(network.prepare(part.to(device)))
                seen = network.each(incoming, lambda block, activation, passed: _pooled(activation, grid))
            rows.append(torch.cat([unit_rms(own.float()) for own in seen[first:]], dim=1))
    return torch.cat(rows) if rows else torch.zeros(0, 1, device=device)


def _finite_features(network: Network, images: Tensor, how: Mapping[str, Any]) -> Tensor:
    """`features`; ValueError if they hold NaN or infinity."""
    found = features(network, images, **how)
    if not bool(found.isfinite().all()):
        raise ValueError(
            "The network's activations hold NaN or infinity: training has diverged, or its inputs hold such numbers; "
            "train with a smaller learning_rate."
        )
    return found


def _pooled(activation: Tensor, grid: int) -> Tensor:
    """An activation as (B, features): maps on a grid, tokens (B, T, D) as their mean."""
    if activation.dim() == 3:
        return activation.mean(1)
    return grid_pool(activation, grid)


def _spare(train: Images) -> int:
    """How many of the labelled images to hold out: each class keeps one."""
    return min(round(HELD_OUT * len(train)), MOST_HELD_OUT, spare(train))


def _accuracy(scores: Tensor, labels: Tensor) -> float:
    return float((scores.argmax(1) == labels).float().mean())


def _check(network: Network, train: Images, test: Images | None, method: str, blocks: str, labels_share: Any) -> None:
    """Raises ValueError unless a probe can be fitted."""
    for name, images in (("train", train), ("test", test)):
        if images is None and name == "test":
            continue
        if not isinstance(images, Images):
            raise ValueError(f"{name} must be fo.data.Images or fo.data.Features, not {type(images).__name__}.")
        images.require_labels()
        if len(images) == 0:
            raise ValueError(f"There are no {name} images.")
        if tuple(images.shape) != network.shape:
            raise ValueError(f"The network takes images of {network.shape}, not {tuple(images.shape)}.")
    if len(train.labels.unique()) < 2:
        raise ValueError("A probe needs labelled images of two classes or more.")
    for value, allowed, what in ((method, get_args(Method), "method"), (blocks, get_args(Blocks), "blocks")):
        one_of(what, value, allowed)
    if not isinstance(labels_share, int | float | np.floating) or not 0 < labels_share <= 1:
        raise ValueError(f"labels_share is a share from above 0 to 1, not {labels_share}.")
