"""Runs with any of the features of `training.compatibility`, small enough to try every pair; also used by other
processes.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

import forwardonly as fo
from forwardonly.network import block

OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {"schedule": "greedy"},
    "delay": {"delay": 0.5},
    "workers": {"workers": 2},
    "budget": {"memory_budget": "8GiB"},
    "compile": {"compile": True},
}


def network(features: Iterable[str]) -> fo.Network:
    """A network with those of the features that are its own."""
    features = set(features)
    if "all-peers" in features:
        negatives = "hard" if "classifier" in features else "uniform"
        rule = fo.rules.make("cff-fixed", classes=4, negatives=negatives)
    else:
        rule = fo.rules.make("ff" if "classifier" in features else "projection", classes=4)
    if "in-place" in features:
        drop = [nn.Dropout(0.2)] if "dropout" in features else []
        layers = [
            part
            for fan_in, out in ((36, 12), (12, 30), (30, 14))
            for part in (nn.Linear(fan_in, out), nn.ReLU(), *drop)
        ]
        return fo.localize(nn.Sequential(nn.Flatten(), *layers), rule, torch.rand(2, 1, 6, 6), blocks=3)
    return fo.mlp((1, 6, 6), [12, 9, 8], rule=rule, dropout=0.2 if "dropout" in features else 0.0)


def options(features: Iterable[str]) -> dict[str, Any]:
    """The training options of those that are the training's."""
    return {name: value for feature in features for name, value in OPTIONS.get(feature, {}).items()}


def data(features: Iterable[str]) -> Any:
    """Images in memory, or the same as a stream of batches or read by index."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (64, 1, 6, 6), dtype=torch.uint8, generator=generator)
    images = fo.data.Images(pictures, torch.arange(64) % 4, ("a", "b", "c", "d"), "random")
    if "stream" in features:
        return [(images.images[start : start + 16], images.labels[start : start + 16]) for start in range(0, 64, 16)]
    if "indexed" in features:
        return [(images.images[index], int(images.labels[index])) for index in range(64)]
    return images


def train(features: Iterable[str], team: fo.training.Team | None = None, device: str = "cpu") -> None:
    """Two epochs with these features; raises unless every loss is finite. Compiling is left out: it takes a minute."""
    block._compiled_judge = lambda: block._judge  # type: ignore[assignment]
    given = {"epochs": 2, "precision": "fp32", "device": device, **options(features)}
    if "stream" not in features:  # whose batches are its own
        given["batch_size"] = 16
    run = fo.fit(network(features), data(features), team=team, **given)
    losses = [loss for row in run.history for loss in row["loss"] if loss is not None]
    assert losses and all(map(math.isfinite, losses))
