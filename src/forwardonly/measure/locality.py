"""An audit of the one promise: no block's loss moves a block before it.

Every block's loss is made larger in turn, on a copy of the network, and all blocks judge one batch, as in a training
step. If the gradient by which an earlier block would move then differs, in any bit, something has come through a wall.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from forwardonly.data import Images
from forwardonly.labels import wrong_labels
from forwardonly.network.block import local_losses
from forwardonly.network.network import Network
from forwardonly.rules import ContrastiveRule

FACTOR = 3.0  # how much larger a loss is made: enough to move whatever hangs on it
BATCH = 64


class Leak(NamedTuple):
    """A parameter of block `moved` that depends on the loss of a later block, `perturbed`; both counted from 0."""

    perturbed: int
    moved: int
    parameter: str


def leaks(network: Network, images: Images) -> list[Leak]:
    """Every way in which a block's loss reaches an earlier block in training on some of the images; empty if it is
    local.

    The network is left as it is. It needs images with labels; a batch of 64 is taken.

    Raises:
        ValueError: there are no images.
    """
    if len(images) == 0:
        raise ValueError("There are no images to audit the network with.")
    some = images.subset(torch.arange(min(BATCH, len(images)))).to(network.device)
    wrong = None
    if isinstance(network.rule, ContrastiveRule):
        generator = torch.Generator(network.device).manual_seed(0)
        wrong = wrong_labels(some.labels, network.classes, generator)
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


def _gradients(
    network: Network, images: Images, wrong: Tensor | None, perturbed: int | None
) -> list[dict[str, Tensor]]:
    """What each block's parameters would move by, with one block's loss made larger."""
    trial = copy.deepcopy(network).train().requires_grad_(True)
    if perturbed is not None:
        rule: Any = trial.row[perturbed].rule
        rule.loss = _larger(rule.loss)
    incoming = trial.present(images.images, images.labels, wrong=wrong)
    with torch.random.fork_rng(devices=[network.device] if network.device.type == "cuda" else []):
        torch.manual_seed(0)
        for loss in local_losses(trial.row, incoming, images.labels):
            loss.backward(retain_graph=True)  # so that a gradient that reaches too far is seen, and not an error
    return [
        {name: parameter.grad for name, parameter in block.named_parameters() if parameter.grad is not None}
        for block in trial.row
    ]


def _larger(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *given: FACTOR * loss(*given)
