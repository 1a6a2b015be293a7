"""The session of a run: network, optimisers, data and settings, which stay the same from the first step to the last."""

from dataclasses import dataclass

import torch
from torch import nn

from forwardonly.data import Images
from forwardonly.data.streams import Passing
from forwardonly.data.taking import Data
from forwardonly.network.network import Network
from forwardonly.system.precision import Precision, choose_precision
from forwardonly.training.config import TrainingConfig
from forwardonly.training.distributed.team import Team
from forwardonly.training.feed import Feed
from forwardonly.training.schedule import Schedule
from forwardonly.training.step import Context
from forwardonly.training.update import Update


@dataclass
class Session:
    """A network on its device with its optimisers, its data, and the settings of its training."""

    network: Network
    images: Data
    """Training images, on the device, or a stream; where processes share the blocks, only the first stage's are."""
    config: TrainingConfig
    device: torch.device
    seed: int
    team: Team
    precision: Precision
    schedule: Schedule
    updates: list[Update]
    """One for each block."""
    feed: Feed
    bodies: list[nn.Parameter]
    """Weights of bodies that the run trains; they are frozen while heads learn first."""
    micro_batch: int | None = None
    """Images that a block computes at a time; None for the whole batch."""

    @property
    def batch_size(self) -> int:
        """Images in a step, over all processes."""
        return self.feed.batch_size

    def must_turn(self, step: int) -> bool:
        """Whether the bodies are to be frozen or freed before a step."""
        return bool(self.bodies) and self.bodies[0].requires_grad == self.schedule.heads_alone(step)

    def free(self) -> None:
        """Frees the bodies, however the run has ended."""
        if self.bodies and not self.bodies[0].requires_grad:
            self.turn()

    def turn(self) -> None:
        """Freezes the bodies, or frees them; frozen norms keep their statistics."""
        for weight in self.bodies:
            weight.requires_grad_(not weight.requires_grad)
        self.network.train()

    def context(self, seed: int | None, first: int = 0) -> Context:
        """The context of a step for the blocks from index `first` on."""
        return Context(self.precision, seed, self.micro_batch, first)


def open_session(
    network: Network, train: Data, config: TrainingConfig, device: torch.device, seed: int, team: Team, batch_size: int
) -> Session:
    """Prepares a network, on its device or offloaded, for training: fits its preparation and makes its optimisers."""
    train = train.to(device) if isinstance(train, Images) and team.stage == 0 else train
    precision = choose_precision(config.precision, device)
    for block in network.row:
        block.compiled = config.compile
    rates = config.body_rates(len(network.row))
    updates = [team.update(block, config, batch_size, rate) for block, rate in zip(network.row, rates, strict=True)]
    bodies = [weight for block in network.row for weight in block.body.parameters() if weight.requires_grad]
    schedule = Schedule(config, steps_per_epoch(train, config, batch_size), len(updates))
    feed = Feed(network, train, config, schedule, precision, batch_size, seed, team)
    inputs, targets = feed.sample()
    network.prepare.fit(inputs)
    if network.units is not None:
        network.units.fit(targets)
    return Session(network, train, config, device, seed, team, precision, schedule, updates, feed, bodies)


def steps_per_epoch(train: Data, config: TrainingConfig, batch_size: int) -> int:
    """Steps in an epoch of a run, or in each of its equal parts where the config says how many steps it has.

    Raises:
        ValueError: a stream that does not say its length, and no number of steps.
    """
    if config.steps is not None:
        return config.steps // config.epochs
    if not isinstance(train, Passing):
        return len(train) // batch_size
    if train.length is None:
        raise ValueError(f"{train.name} has no length, so an epoch has no end: say how long to train by steps=N.")
    return train.length
