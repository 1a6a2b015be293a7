"""What can be measured of a network: accuracy, memory, speed, free-riding."""

from forwardonly.measure.accuracy import Evaluation, evaluate
from forwardonly.measure.memory import SavedBytes, peak_memory_bytes

__all__ = ["Evaluation", "SavedBytes", "evaluate", "peak_memory_bytes"]
