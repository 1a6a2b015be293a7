"""A class that a trained network has not seen, from a few examples and without the data of the others.

Prototypes of new classes from the mean of their features, "imprinting": Qi, Brown & Lowe 2018, arXiv 1712.07136. Ours:
one in every block, and what keeps it from the old classes (`rules.new_prototype`).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from forwardonly import rules
from forwardonly.data import Images
from forwardonly.data.inputs import each, parts, read_inputs
from forwardonly.data.matching import named_as
from forwardonly.data.taking import Columns, take
from forwardonly.names import name_in
from forwardonly.network.block import Block
from forwardonly.network.network import Network, require_network
from forwardonly.network.signal import Signal

AT_A_TIME = 1000  # images


def add_class(network: Network, images: Any, name: str) -> int:
    """Adds a class to a trained network from a few of its images; ten are enough. Returns the index of the class.

    Each block gets prototypes of the new class, made of its own features of the images, and better ones where
    `summarise` has kept statistics of the old classes. Nothing else changes: the bodies and the old prototypes stay,
    so that the old classes keep their scores, and no old data are needed. With statistics, the order in which classes
    are added does not matter. The network is one of C + 1 classes from here on: it predicts, is evaluated, saved,
    exported and trained as such. A `training.Online` that was made before still moves the old prototypes: make a new
    one.

    Args:
        network: of the rule `hyperspherical`; changed in place.
        images: of the new class alone, (N, channels, height, width) or what else the network takes; or `Images`, whose
            labels are not looked at.
        name: of the new class.

    Raises:
        ValueError: a network of another rule, a name that is none or that a class has already, no images, images of
            another shape than the network's, or values that are not finite; the network is then as it was.
    """
    row = growing(network)
    if not isinstance(name, str) or not name:
        raise ValueError(f"name must be the new class's name, a text, not {name!r}.")
    if name in _names(network):
        raise ValueError(f"The network has a class {name!r} already: give the new one another name.")
    inputs = read_inputs(images.images if isinstance(images, Images) else images, network.expected, "the images")
    if len(parts(inputs)[0]) == 0:
        raise ValueError("There are no images to add a class from.")
    if row[0].summarised and not any(rule.has_statistics for rule in row):
        raise ValueError("The network has room for statistics, but none yet: call fo.summarise with its training data.")

    def new_prototypes(block: Block, activation: Tensor, _: Signal) -> Tensor:
        assert isinstance(block.rule, rules.Hyperspherical)
        return block.rule.new_prototypes(activation)

    with network.evaluating(), torch.no_grad():
        prepared = network.prepare(each(inputs, lambda part: part.to(network.device)))
        new = network.each(network.alone(prepared), new_prototypes)
    for index, prototypes in enumerate(new):
        if not bool(prototypes.isfinite().all()):
            raise ValueError(f"The new prototypes of block {index} are not finite: has the network been trained?")
    append_class(network, new, name)
    return network.classes - 1


def append_class(network: Network, prototypes: Sequence[Tensor], name: str = "") -> None:
    """Adds a class with these prototypes (Q, D) of each block; its name is its index unless one is given."""
    name, names = name or str(network.classes), _names(network)
    for rule, own in zip(growing(network), prototypes, strict=True):
        rule.add_class(own)
    network.classes += 1
    network.class_names = (*names, name)
    if network._config:
        network._config["rule"] = {**network._config["rule"], "classes": network.classes}


def _names(network: Network) -> list[str]:
    """The names of the classes; a class without one has its index."""
    known = network.class_names or ()
    return [*known, *map(str, range(len(known), network.classes))]


def summarise(network: Network, train: Any, *, columns: Columns | None = None) -> None:
    """Keeps statistics of a network's classes, by which `add_class` adds others; their data are not needed any more.

    One pass over the data with which the network was trained. Each block keeps the mean of each class's unit features
    and their covariance within classes: of D features (D + C) D numbers, of 4 bytes each, which `fo.save` saves. They
    describe the network as it is: after more training, call this again. Classes that were added by them keep their
    prototypes.

    Args:
        network: trained, of the rule `hyperspherical` with one prototype a class; changed in place.
        train: labelled data of any kind that `fo.fit` takes, with some of each class that was trained.
        columns: as in `fo.fit`.

    Raises:
        ValueError: a network of another rule or of several prototypes a class, data that do not fit it, or a class
            without any.
    """
    row = growing(network)
    if row[0].prototypes_per_class > 1:
        raise ValueError("Statistics are of one prototype a class: train with prototypes_per_class 1.")
    data = take(train, network.expected, columns=columns, name="the training data")
    if isinstance(data, Images):
        data.require_labels()
    if network.class_names is not None:
        data = named_as(data, network.class_names, "the network")
    classes = row[0].summarised or network.classes
    sizes = [rule.prototypes.shape[2] for rule in row]
    counts = torch.zeros(classes)
    sums = [torch.zeros(classes, size, dtype=torch.float64) for size in sizes]
    squares = [torch.zeros(size, size, dtype=torch.float64) for size in sizes]

    def features(block: Block, activation: Tensor, _: Signal) -> Tensor:
        assert isinstance(block.rule, rules.Hyperspherical)
        return F.normalize(block.rule.features(activation).float(), dim=1)

    with network.evaluating(), torch.no_grad():
        for inputs, labels in data.in_order(AT_A_TIME):
            if labels is None:
                raise ValueError("The training data have no targets: statistics are of classes.")
            if len(labels) and int(labels.max()) >= network.classes:
                raise ValueError(f"A label is {int(labels.max())}, but the network has {network.classes} classes.")
            prepared = network.prepare(each(inputs, lambda part: part.to(network.device)))
            of = F.one_hot(labels.cpu(), network.classes)[:, :classes].double()
            counts += of.sum(0)
            for index, units in enumerate(network.each(network.alone(prepared), features)):
                units = units[of.any(1).to(units.device)].double().cpu()
                sums[index] += of[of.any(1)].T @ units
                squares[index] += units.T @ units
    if bool((counts == 0).any()):
        missing = int((counts == 0).nonzero()[0, 0])
        raise ValueError(f"There are no images of class {missing} to keep statistics of.")
    for rule, own, square in zip(row, sums, squares, strict=True):
        means = own / counts[:, None]
        rule.summarise((square - means.T @ own) / counts.sum(), means)
    if network._config:
        network._config["rule"] = {**network._config["rule"], "summarised": classes}


def growing(network: Network) -> list[rules.Hyperspherical]:
    """The rules of the blocks.

    Raises:
        ValueError: of another kind than one that can add classes.
    """
    require_network(network)
    row = [block.rule for block in network.row if isinstance(block.rule, rules.Hyperspherical)]
    if len(row) < len(network.row):
        raise ValueError(f"The rule {name_in(rules.TABLE, network.rule)} cannot add a class: only hyperspherical can.")
    return row
