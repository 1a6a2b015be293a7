"""forwardonly: train deep networks without backpropagation.

Every block learns from its own local objective in the forward pass; no gradient ever crosses from one block to another.
"""

from forwardonly import bodies, data, labels, measure, rules, training
from forwardonly.allocator import keep_freed_memory
from forwardonly.block import Block
from forwardonly.build import build, mlp
from forwardonly.localize import localize
from forwardonly.measure import Evaluation, evaluate
from forwardonly.network import Network
from forwardonly.readout import Readout
from forwardonly.storage import load, save
from forwardonly.training import Run, fit
from forwardonly.transfer import Front, extract
from forwardonly.version import __version__

__all__ = [
    "Block",
    "Evaluation",
    "Front",
    "Network",
    "Readout",
    "Run",
    "__version__",
    "bodies",
    "build",
    "data",
    "evaluate",
    "extract",
    "fit",
    "keep_freed_memory",
    "labels",
    "load",
    "localize",
    "measure",
    "mlp",
    "rules",
    "save",
    "training",
]
