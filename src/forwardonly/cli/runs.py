"""A run folder as the commands that look into it need it: its network, its classes, the data it was trained on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forwardonly as fo
from forwardonly.network.storage import read_config, read_result
from forwardonly.system.precision import choose_device


@dataclass(frozen=True)
class Kept:
    """What `forwardonly train` has left in `folder`; `result` is what it measured, empty if it was interrupted."""

    folder: Path
    network: fo.Network
    classes: tuple[str, ...]
    data: dict[str, Any]
    result: dict[str, Any]


def open_run(folder: Path, device: str) -> Kept:
    """Reads a run, and puts its network on a device.

    Raises:
        ValueError: no such run, a damaged one, or one that `forwardonly train` has not written; no such device.
    """
    config = read_config(folder)
    network = fo.load(folder).to(choose_device(device))
    data = config.get("data")
    if not isinstance(data, dict) or len(data.get("classes", ())) != network.classes:
        raise ValueError(f"{folder} was not written by `forwardonly train`: its config says nothing of its data")
    return Kept(folder, network, tuple(data["classes"]), data, read_result(folder))
