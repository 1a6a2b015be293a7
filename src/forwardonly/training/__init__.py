"""Training: the step, its strategies, the run around it, checkpoints, and runs of many processes."""

from forwardonly.training.config import TrainingConfig
from forwardonly.training.distributed.team import LostPeer, Team, join
from forwardonly.training.fit import Run, RunWarning, fit
from forwardonly.training.interrupt import Interrupted
from forwardonly.training.online import Online
from forwardonly.training.progress import StepEvent
from forwardonly.training.trainer import NonFiniteLoss

__all__ = [
    "Interrupted",
    "LostPeer",
    "NonFiniteLoss",
    "Online",
    "Run",
    "RunWarning",
    "StepEvent",
    "Team",
    "TrainingConfig",
    "fit",
    "join",
]
