"""Benchmarks: alternating arms, so that other load on the machine affects all of them alike.

An arm is a function without arguments that does one step of work.
"""

import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from forwardonly.bench.naive import NaiveChannels, NaiveForwardForward
from forwardonly.bodies import MLP, Body, Chain, TinyCNN
from forwardonly.network.build import build
from forwardonly.network.network import Network
from forwardonly.rules import Backprop, Rule
from forwardonly.system.precision import Precision, autocast, choose_device, choose_precision, processor_name
from forwardonly.training.batch import Batch
from forwardonly.training.config import TrainingConfig
from forwardonly.training.feed import train_label_classifier
from forwardonly.training.step import Context
from forwardonly.training.strategies import whole_step
from forwardonly.training.update import Update

Arm = Callable[[], object]

SHORTEST = 0.02  # seconds; shorter work is repeated within one measurement, because the clock's resolution is limited
MICRO_BATCHES = 4


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work to measure: a network's training step on random images."""

    rule: Rule
    body: Body
    shape: tuple[int, ...]
    """Of one image: channels, height, width."""
    batch: int
    config: TrainingConfig

    @property
    def device(self) -> torch.device:
        """The device that computes."""
        return choose_device(self.config.device)

    @property
    def precision(self) -> Precision:
        """The precision of the arithmetic."""
        return choose_precision(self.config.precision, self.device)

    @property
    def by_backprop(self) -> "Work":
        """The same body, batch, arithmetic and optimiser under backpropagation."""
        return replace(self, rule=Backprop(classes=self.rule.classes))

    def network(self) -> Network:
        """A fresh network in training mode."""
        network = build(self.body, self.shape, rule=self.rule).to(self.device)
        network.prepare.fit(self.images()[0])
        for block in network.row:
            block.compiled = self.config.compile
        return network.train()

    def images(self) -> tuple[Tensor, Tensor]:
        """Random images (B, channels, height, width), uint8, and labels (B,), on the device."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (self.batch, *self.shape), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, self.rule.classes, (self.batch,), generator=generator)
        return images.to(self.device), labels.to(self.device)


def training_step(work: Work) -> Arm:
    """One training step as in `fit`, from a batch of stored images to the last optimiser's step."""
    network = work.network()
    updates = _updates(network, work)
    classifier = network.label_classifier
    classifier_update = None if classifier is None else Update(classifier, work.config)
    images, labels = work.images()
    generator = torch.Generator(work.device).manual_seed(0)

    def step() -> Tensor:
        logits = None
        if classifier_update is not None:
            logits = train_label_classifier(network, classifier_update, images, labels, work.precision)
        batch = Batch(network.present(images, labels, generator, logits=logits), labels)
        return whole_step(network, updates, batch, Context(work.precision))

    return step


def checkpointed_step(work: Work) -> Arm:
    """Backprop with checkpointing: keeps the activations of about sqrt(L) layers and recomputes the others."""
    work = work.by_backprop
    network = work.network()
    block = network.row[0]
    block.body = Segments(block.body)
    return _step_of(network, work)


def accumulated_step(work: Work) -> Arm:
    """Backprop in four micro-batches, whose gradients are accumulated for one optimiser step."""
    work = work.by_backprop
    network = work.network()
    block, (update,) = network.row[0], _updates(network, work)
    images, labels = work.images()

    def step() -> None:
        for some, theirs in zip(images.chunk(MICRO_BATCHES), labels.chunk(MICRO_BATCHES), strict=True):
            with autocast(work.precision, work.device):
                loss, _ = block.rule.local_loss(block(network.prepare(some)), theirs, None)
            (loss * (len(some) / len(images))).backward()
        update.step()

    return step


def forward_pass(work: Work) -> Arm:
    """The activations of all blocks, without loss or gradient."""
    network = work.network()
    images, _ = work.images()

    def step() -> None:
        with autocast(work.precision, work.device):
            network.each(network.prepare(images), lambda *_: None)

    return step


def class_scores(work: Work) -> Arm:
    """Class scores of all blocks, as in `predict`."""
    network = work.network().eval()
    images, _ = work.images()

    def step() -> Tensor:
        with autocast(work.precision, work.device):
            return network.scores(images)

    return step


def full_pass_a_label(work: Work) -> Arm:
    """Class scores as published for Forward-Forward: one pass through the whole network per label."""
    network = work.network().eval()
    images, _ = work.images()

    def step() -> None:
        with torch.no_grad(), autocast(work.precision, work.device):
            for label in range(network.classes):
                one_label(network, images, label)

    return step


def pass_of_one_label(work: Work) -> Arm:
    """One pass through the whole network, under one label."""
    network = work.network().eval()
    images, _ = work.images()

    def step() -> None:
        with torch.no_grad(), autocast(work.precision, work.device):
            one_label(network, images, 0)

    return step


def naive_step(work: Work) -> Arm:
    """One step of Forward-Forward as the usual public scripts implement it, on the host in float32."""
    assert isinstance(work.body, MLP)
    naive = NaiveForwardForward([math.prod(work.shape), *work.body.hidden], work.rule.classes)
    images, labels = (tensor.cpu() for tensor in work.images())
    return lambda: naive.step(images, labels)


def naive_channels_step(work: Work) -> Arm:
    """One step of learnable channels on TinyCNN as a plain loop, on the host in float32."""
    assert isinstance(work.body, TinyCNN)
    naive = NaiveChannels(work.shape[0], work.rule.classes, work.body.width, work.body.dropout)
    images, labels = (tensor.cpu() for tensor in work.images())
    return lambda: naive.step(images, labels)


def one_label(network: Network, images: Tensor, label: int) -> list[Tensor]:
    """Every block's goodness (B,) if all images carried `label`."""
    prepared = network.prepare(images)
    signal = network.with_labels(prepared, torch.full((len(images),), label, device=images.device))
    return network.each(signal, lambda block, activation, _: block.contrastive_rule.goodness(activation))


class Segments(nn.Module):
    """The layers of a `Chain` in about sqrt(L) segments, each recomputed when its gradient is needed."""

    def __init__(self, chain: nn.Module):
        super().__init__()
        assert isinstance(chain, Chain)
        self.chain = chain
        size = max(1, round(math.sqrt(len(chain.bodies))))
        self.spans = [range(start, min(start + size, len(chain.bodies))) for start in range(0, len(chain.bodies), size)]

    def forward(self, signal: Any) -> Any:
        for span in self.spans:
            signal = checkpoint(self._span, span, signal, use_reentrant=False)
        return signal

    def _span(self, span: range, signal: Any) -> Any:
        for index in span:
            incoming, behind = signal, self.chain.between[index]
            activation = self.chain.bodies[index](incoming if isinstance(incoming, Tensor) else incoming[0])
            last = index + 1 == len(self.chain.bodies)
            signal = activation if behind is None or last else behind(activation, incoming)
        return signal


def alternate(arms: Mapping[str, Arm], *, repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of a step of each arm; every round runs all arms, in an order that rotates.

    Raises:
        ValueError: fewer than 7 repeats, whose median means little.
    """
    if repeats < 7:
        raise ValueError(f"repeats must be at least 7, for a median to mean something, not {repeats}.")
    times = {
        name: max(1, math.ceil(SHORTEST / min(_seconds(arm, 1, device) for _ in range(3))))
        for name, arm in arms.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    for round_number in range(repeats):
        for name in names[round_number % len(names) :] + names[: round_number % len(names)]:
            seconds[name].append(_seconds(arms[name], times[name], device))
    return {name: statistics.median(values) for name, values in seconds.items()}


@contextmanager
def competing(count: int) -> Iterator[None]:
    """A context in which `count` processes of one thread compute beside this one."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def machine(device: torch.device) -> dict[str, Any]:
    """Hardware, load, threads and versions, recorded with every measurement; the load is the last minute's."""
    return {
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _updates(network: Network, work: Work) -> list[Update]:
    """The updates of all blocks, as in `fit`."""
    updates = [Update(block, work.config) for block in network.row]
    for update in updates:
        update.allocate()
    return updates


def _step_of(network: Network, work: Work) -> Arm:
    updates = _updates(network, work)
    images, labels = work.images()
    return lambda: whole_step(network, updates, Batch(network.prepare(images), labels), Context(work.precision))


def _seconds(arm: Arm, times: int, device: torch.device) -> float:
    """Seconds of one step: the mean of several in a row."""
    _finish(device)
    started = time.perf_counter()
    for _ in range(times):
        arm()
    _finish(device)
    return (time.perf_counter() - started) / times


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
