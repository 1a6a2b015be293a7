"""Training: the loop, its schedules, precision and checkpoints."""

from forwardonly.training.recipe import Recipe
from forwardonly.training.run import Interrupted, NonFiniteLoss, Progress, Run, fit

__all__ = ["Interrupted", "NonFiniteLoss", "Progress", "Recipe", "Run", "fit"]
