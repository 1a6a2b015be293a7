"""A class that a trained network has not seen, from a few examples and without the data of the others.

Prototypes of new classes from the mean of their features, "imprinting": Qi, Brown & Lowe 2018, arXiv 1712.07136. Ours:
one in every block, and the local steps that keep it from the old classes (`rules.hyperspherical.new_prototype`).
"""

from typing import Any

import torch
from torch import Tensor

from forwardonly import rules
from forwardonly.data import Images
from forwardonly.data.inputs import each, parts, read_inputs
from forwardonly.names import name_in
from forwardonly.network.block import Block
from forwardonly.network.network import Network
from forwardonly.network.signal import Signal


def add_class(network: Network, images: Any, name: str) -> int:
    """Adds a class to a trained network from a few of its images; ten are enough. Returns the index of the class.

    Each block gets prototypes of the new class, made of its own features of the images. Nothing else changes: the
    bodies and the old prototypes stay, so that the old classes keep their scores, and no old data are needed. The
    network is one of C + 1 classes from here on: it predicts, is evaluated, saved, exported and trained as such. A
    `training.Online` that was made before still moves the old prototypes: make a new one.

    Args:
        network: of the rule `hyperspherical`; changed in place.
        images: of the new class alone, (N, channels, height, width) or what else the network takes; or `Images`, whose
            labels are not looked at.
        name: of the new class.

    Raises:
        ValueError: a network of another rule, a name that is none or that a class has already, no images, images of
            another shape than the network's, or values that are not finite; the network is then as it was.
    """
    row = [block.rule for block in network.row if isinstance(block.rule, rules.Hyperspherical)]
    if len(row) < len(network.row):
        raise ValueError(f"The rule {name_in(rules.TABLE, network.rule)} cannot add a class: only hyperspherical can.")
    names = [*(network.class_names or ()), *map(str, range(len(network.class_names or ()), network.classes))]
    if not isinstance(name, str) or not name:
        raise ValueError(f"name must be the new class's name, a text, not {name!r}.")
    if name in names:
        raise ValueError(f"The network has a class {name!r} already: give the new one another name.")
    inputs = read_inputs(images.images if isinstance(images, Images) else images, network.expected, "the images")
    if len(parts(inputs)[0]) == 0:
        raise ValueError("There are no images to add a class from.")

    def new_prototypes(block: Block, activation: Tensor, _: Signal) -> Tensor:
        assert isinstance(block.rule, rules.Hyperspherical)
        return block.rule.new_prototypes(activation)

    with network.evaluating(), torch.no_grad():
        prepared = network.prepare(each(inputs, lambda part: part.to(network.device)))
        new = network.each(network.alone(prepared), new_prototypes)
    for index, prototypes in enumerate(new):
        if not bool(prototypes.isfinite().all()):
            raise ValueError(f"The new prototypes of block {index} are not finite: has the network been trained?")
    for rule, prototypes in zip(row, new, strict=True):
        rule.add_class(prototypes)
    network.classes += 1
    network.class_names = (*names, name)
    if network._config:
        network._config["rule"] = {**network._config["rule"], "classes": network.classes}
    return network.classes - 1
