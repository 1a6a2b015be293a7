"""Locality audit: checks that no block's loss changes the gradient of an earlier block.

On a copy of the network, each block's loss is scaled up in turn, while all blocks compute their losses on one batch as
in a training step. If the gradient of an earlier block then differs in any bit, a gradient has crossed a wall.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from forwardonly.data import Images
from forwardonly.data.inputs import Inputs, each
from forwardonly.data.taking import take
from forwardonly.labels import wrong_labels
from forwardonly.measure.accuracy import matched
from forwardonly.network.network import Network
from forwardonly.rules import ContrastiveRule

FACTOR = 3.0  # scale of the perturbed loss: enough to change every gradient that depends on it
BATCH = 64


class Leak(NamedTuple):
    """A parameter of block `moved` that depends on the loss of a later block, `perturbed`; both counted from 0."""

    perturbed: int
    moved: int
    parameter: str


def leaks(network: Network, images: Any) -> list[Leak]:
    """Every parameter of an earlier block that depends on a later block's loss; empty if training is local.

    The network does not change. A batch of at most 64 of the images is used.

    Raises:
        ValueError: there are no images.
    """
    some = _some(network, images)
    wrong = None
    if isinstance(network.rule, ContrastiveRule):
        generator = torch.Generator(network.device).manual_seed(0)
        wrong = wrong_labels(some[1], network.classes, generator)
    plain = _gradients(network, some, wrong, None)
    found = []
    for perturbed in range(1, len(plain)):
        changed = _gradients(network, some, wrong, perturbed)
        for block in range(perturbed):
            found += [
                Leak(perturbed, block, name)
                for name, after in changed[block].items()
                if name not in plain[block] or not torch.equal(plain[block][name], after)
            ]
    return found


def _some(network: Network, images: Any) -> tuple[Inputs, Tensor]:
    """At most 64 inputs with targets, on the network's device."""
    data = take(images, network.expected, name="the data to audit with")
    data = matched(network, data) if network.labelled else data
    if isinstance(data, Images):
        if len(data) == 0:
            raise ValueError("There are no images to audit the network with.")
        part = data.subset(torch.arange(min(BATCH, len(data)))).to(network.device)
        return part.images, network.aimed(part.labels)
    inputs, targets = next(data.in_order(BATCH))
    if targets is None:
        raise ValueError(f"{data.name} has no targets to audit the network with.")
    given = each(inputs, lambda one: one[:BATCH].to(network.device))
    return given, network.aimed(targets[:BATCH].to(network.device))


def _gradients(
    network: Network, batch: tuple[Inputs, Tensor], wrong: Tensor | None, perturbed: int | None
) -> list[dict[str, Tensor]]:
    """The gradients of each block's parameters, with one block's loss scaled up."""
    trial = copy.deepcopy(network).train().requires_grad_(True)
    if perturbed is not None:
        rule: Any = trial.row[perturbed].rule
        rule.loss = _larger(rule.loss)
    generator = torch.Generator(network.device).manual_seed(0)
    incoming = trial.present(*batch, generator, wrong)
    with torch.random.fork_rng(devices=[network.device] if network.device.type == "cuda" else []):
        torch.manual_seed(0)
        for loss in trial.local_losses(incoming, batch[1]):
            loss.backward(retain_graph=True)  # so that a leak is found instead of raising an error
    return [
        {name: parameter.grad for name, parameter in block.named_parameters() if parameter.grad is not None}
        for block in trial.row
    ]


def _larger(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *given: FACTOR * loss(*given)
