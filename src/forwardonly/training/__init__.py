"""Training: the loop, its schedules, precision, checkpoints, and runs of many processes."""

from forwardonly.training.interrupt import Interrupted
from forwardonly.training.online import Online
from forwardonly.training.parallel import LostPeer, Team, join
from forwardonly.training.recipe import Recipe
from forwardonly.training.run import Run, fit
from forwardonly.training.trainer import NonFiniteLoss, Progress

__all__ = ["Interrupted", "LostPeer", "NonFiniteLoss", "Online", "Progress", "Recipe", "Run", "Team", "fit", "join"]
