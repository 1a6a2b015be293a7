"""Assignments of units to classes: fixed groups of equal size, and how certain and how distinct soft ones are.

Shapes: C classes, K channels or other units, V votes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def group_index(count: int, classes: int, unit: str = "channel") -> Tensor:
    """The class that each of `count` channels, or other units, belongs to, (K,); groups differ by at most one in size.

    Raises:
        ValueError: fewer of them than classes.
    """
    if count < classes:
        raise ValueError(
            f"A layer has {count} {unit}s: too few for {classes} classes, which need a group of one {unit} each."
        )
    return torch.arange(count) * classes // count


def region_index(channels: int, regions: int, classes: int) -> Tensor:
    """The class of each region of each channel, (V,): its channel's, or its own where there are fewer channels.

    Raises:
        ValueError: fewer of them than classes.
    """
    if channels < classes and regions > 1:
        return group_index(channels * regions, classes, "region")
    return group_index(channels, classes).repeat_interleave(regions)


def entropy(assignment: Tensor) -> Tensor:
    """Entropy of an assignment W (V, C) in nats: mean over votes of -sum_c W log W."""
    return -torch.xlogy(assignment, assignment).sum(1).mean()


def orthogonality(assignment: Tensor) -> Tensor:
    """Mean over pairs of classes of (Wn^T Wn - I)^2, where Wn is W (V, C) with columns of unit length."""
    columns = F.normalize(assignment, dim=0)
    gram = columns.T @ columns
    return (gram - torch.eye(len(gram), device=gram.device)).square().mean()
