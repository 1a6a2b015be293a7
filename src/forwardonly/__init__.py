"""forwardonly: train deep networks without backpropagation.

Every block learns from its own local objective in the forward pass; no gradient crosses from one block to another.
"""

from forwardonly import bodies, data, labels, measure, rules, training
from forwardonly.measure import Evaluation, Probe, evaluate, probe
from forwardonly.network.block import Block
from forwardonly.network.build import build, mlp
from forwardonly.network.localize import localize, unlocalize
from forwardonly.network.network import Network
from forwardonly.network.new_class import add_class
from forwardonly.network.readout import Readout
from forwardonly.network.storage import load, save
from forwardonly.system.allocator import keep_freed_memory
from forwardonly.training import Run, fit
from forwardonly.transfer import Front, extract
from forwardonly.version import __version__

__all__ = [
    "Block",
    "Evaluation",
    "Front",
    "Network",
    "Probe",
    "Readout",
    "Run",
    "__version__",
    "add_class",
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
    "probe",
    "rules",
    "save",
    "training",
    "unlocalize",
]
