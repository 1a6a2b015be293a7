"""A run folder as the commands that read it need it: its network, its classes, the data it was trained on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forwardonly as fo
from forwardonly.network.storage import read_config, read_result
from forwardonly.system.precision import choose_device


@dataclass(frozen=True)
class SavedRun:
    """A run that `forwardonly train` saved in `folder`; `result` is its final result, empty if it was interrupted."""

    folder: Path
    network: fo.Network
    classes: tuple[str, ...]
    data: dict[str, Any]
    result: dict[str, Any]


def open_run(folder: Path, device: str) -> SavedRun:
    """Reads a run, and moves its network to a device.

    Raises:
        ValueError: no such run, a damaged one, or one that `forwardonly train` did not write; no such device.
    """
    config = read_config(folder)
    network = fo.load(folder).to(choose_device(device))
    data = config.get("data")
    if not isinstance(data, dict) or len(data.get("classes", ())) != network.classes:
        raise ValueError(f"{folder} was not written by `forwardonly train`: its config says nothing of its data")
    return SavedRun(folder, network, tuple(data["classes"]), data, read_result(folder))
