"""A saved network as the commands that read it need it: its classes, and the data it was trained on, if known."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forwardonly as fo
from forwardonly.network.storage import read_config, read_result
from forwardonly.system.precision import choose_device


@dataclass(frozen=True)
class SavedRun:
    """What `forwardonly train`, `fo.fit(out=...)` or `fo.save` wrote; `result` is empty without a final one."""

    folder: Path
    network: fo.Network
    classes: tuple[str, ...]
    config: Mapping[str, Any]
    result: dict[str, Any]

    @property
    def trained_on(self) -> dict[str, Any] | None:
        """The data set that `forwardonly train` noted; None for a network from Python, which notes none."""
        data = self.config.get("data")
        return data if isinstance(data, dict) and "name" in data else None

    @property
    def data(self) -> dict[str, Any]:
        """The data set that the network was trained on.

        Raises:
            ValueError: it is not known.
        """
        if self.trained_on is None:
            raise ValueError(f"{self.folder} was trained in Python and says nothing of its data: name a set by --data")
        return self.trained_on


def open_run(folder: Path, device: str, *, classes: bool = True) -> SavedRun:
    """Reads a run or a saved network, and moves its network to a device; with `classes`, one that has class scores.

    Raises:
        ValueError: no such folder, a damaged one, or a network without class names or for other input than images; no
            such device.
    """
    config = read_config(folder)
    if "estimator" in config:
        kind = "ForwardOnlyClassifier" if "classes" in config["estimator"] else "ForwardOnlyRegressor"
        raise ValueError(f"{folder} was saved by {kind}, whose input is not images: read it with {kind}.load")
    network = fo.load(folder).to(choose_device(device))
    if len(network.shape) != 3:
        raise ValueError(
            f"{folder} holds a model that takes no images: use it from Python, as fo.load({str(folder)!r})"
        )
    if not classes:
        return SavedRun(folder, network, network.class_names or (), config, read_result(folder))
    network.require_classes()
    if network.class_names is None or len(network.class_names) != network.classes:
        raise ValueError(
            f"{folder} does not name the {network.classes} classes of its network: train it with fo.fit, or set its "
            "class_names before fo.save"
        )
    return SavedRun(folder, network, network.class_names, config, read_result(folder))
