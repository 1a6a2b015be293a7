"""forwardonly: train deep networks without backpropagation.

Every block learns from its own local objective in the forward pass; no gradient crosses from one block to another.
"""

import importlib
from typing import TYPE_CHECKING, Any

from forwardonly.version import __version__

if TYPE_CHECKING:
    from forwardonly import bodies, data, labels, measure, rules, training
    from forwardonly.measure.accuracy import evaluate
    from forwardonly.measure.metrics import Evaluation
    from forwardonly.measure.probe import Probe, probe
    from forwardonly.network.block import Block
    from forwardonly.network.build import build, mlp
    from forwardonly.network.localize import localize, unlocalize
    from forwardonly.network.network import Network
    from forwardonly.network.new_class import add_class, summarise
    from forwardonly.network.readout import Readout
    from forwardonly.network.storage import load, save
    from forwardonly.system.allocator import keep_freed_memory
    from forwardonly.training.fit import Run, fit
    from forwardonly.transfer import Front, extract

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
    "summarise",
    "training",
    "unlocalize",
]

_HOMES = {
    "Block": "network.block",
    "Evaluation": "measure",
    "Front": "transfer",
    "Network": "network.network",
    "Probe": "measure",
    "Readout": "network.readout",
    "Run": "training",
    "add_class": "network.new_class",
    "build": "network.build",
    "evaluate": "measure",
    "extract": "transfer",
    "fit": "training",
    "keep_freed_memory": "system.allocator",
    "load": "network.storage",
    "localize": "network.localize",
    "mlp": "network.build",
    "probe": "measure",
    "save": "network.storage",
    "summarise": "network.new_class",
    "unlocalize": "network.localize",
}
"""The module of each name that is no module itself. They are imported when asked for: PyTorch takes seconds to load,
and `forwardonly --help` does not need it."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'forwardonly' has no attribute {name!r}")
    home = _HOMES.get(name)
    module = importlib.import_module(f"forwardonly.{home or name}")
    found = getattr(module, name) if home else module
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
