"""What a run is made of: everything that stays as it is from its first step to its last."""

from dataclasses import dataclass

import torch

from forwardonly.data import Images
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
    """A network on its device, its optimisers, its data, and how it is trained."""

    network: Network
    images: Images
    """Of training, on the device; where processes share the blocks, those of the first stage alone are."""
    config: TrainingConfig
    device: torch.device
    seed: int
    team: Team
    precision: Precision
    schedule: Schedule
    updates: list[Update]
    """One a block."""
    feed: Feed
    micro_batch: int | None = None
    """Images that a block computes at a time; None for all of a batch."""

    @property
    def batch_size(self) -> int:
        """Images in a step, over all processes."""
        return self.feed.batch_size

    def context(self, seed: int | None, first: int = 0) -> Context:
        """What a step needs, for blocks of which the first is at that index."""
        return Context(self.precision, seed, self.micro_batch, first)


def open_session(
    network: Network, train: Images, config: TrainingConfig, device: torch.device, seed: int, team: Team
) -> Session:
    """Readies a network, which is on its device or offloaded, for training: preparation fitted, optimisers made."""
    train = train.to(device) if team.stage == 0 else train
    precision = choose_precision(config.precision, device)
    batch_size = min(config.batch_size, len(train))
    network.prepare.fit(train.images)
    for block in network.row:
        block.compiled = config.compile
    updates = [team.update(block, config, batch_size) for block in network.row]
    schedule = Schedule(config, len(train) // batch_size, len(updates))
    feed = Feed(network, train, config, schedule, precision, batch_size, seed, team)
    return Session(network, train, config, device, seed, team, precision, schedule, updates, feed)
