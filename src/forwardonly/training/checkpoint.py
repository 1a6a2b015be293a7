"""The state of a run half-way, so that it can go on to the same bits."""

import io
from pathlib import Path
from typing import Any

import torch

from forwardonly.storage import write_atomically

STATE = Path("checkpoint") / "state.pt"


def write(folder: Path, state: dict[str, Any]) -> None:
    """Replaces the folder's checkpoint by `state`: tensors, numbers, strings, lists and dicts."""
    (folder / STATE).parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(folder / STATE, buffer.getvalue())


def read(folder: Path, device: torch.device) -> dict[str, Any]:
    """The folder's checkpoint; no code in it is run.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    path = folder / STATE
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{folder} has no checkpoint to resume from.") from None
    except Exception as problem:  # torch.load raises many kinds for a damaged file
        first = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise ValueError(f"The checkpoint {path} is damaged: {first}") from None
