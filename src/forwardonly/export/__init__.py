"""Export: a network, or the step that trains it, for runtimes that do not need this library."""

from forwardonly.export.files import Format, export_network, export_training_step, input_about
from forwardonly.export.step import TrainingStep, training_step

__all__ = ["Format", "TrainingStep", "export_network", "export_training_step", "input_about", "training_step"]
