"""Optional loggers, which also receive a run's history: TensorBoard, Weights & Biases, trackio.

`metrics.jsonl` is always written. A logger is a context manager whose value is the `progress` argument of `fit`.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from forwardonly.training.progress import StepEvent

Logger = Literal["none", "tensorboard", "wandb", "trackio"]
HINTS = {
    "tensorboard": "pip install 'forward-only[tensorboard]'",
    "wandb": "pip install wandb",
    "trackio": "pip install trackio",
}


@contextmanager
def logger(kind: Logger, folder: Path, config: Mapping[str, Any]) -> Iterator[Callable[[StepEvent], None]]:
    """A function that logs each epoch's row; `folder` is the run's, its name the run's name, `config` its options.

    Raises:
        ValueError: an unknown kind, or a package that is not installed.
    """
    if kind == "none":
        yield lambda event: None
    elif kind == "tensorboard":
        with _tensorboard(folder) as note:
            yield note
    elif kind in ("wandb", "trackio"):
        with _tracker(kind, folder, config) as note:
            yield note
    else:
        raise ValueError(f"Unknown logger {kind!r}: choose one of none, {', '.join(HINTS)}.")


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """A row of the history as single numbers: lists over blocks become `loss/block_1` and so on.

    Values of other types, and of blocks that have not started, are left out.
    """
    found = {}
    for name, value in row.items():
        if isinstance(value, list) and all(each is None or isinstance(each, (int, float)) for each in value):
            found.update({f"{name}/block_{k}": float(each) for k, each in enumerate(value, 1) if each is not None})
        elif isinstance(value, (int, float)) and name != "epoch":
            found[name] = float(value)
    return found


@contextmanager
def _tensorboard(folder: Path) -> Iterator[Callable[[StepEvent], None]]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(f"TensorBoard is not installed: {HINTS['tensorboard']}.") from None
    with ExitStack() as opened:
        writer: Any = None

        def note(event: StepEvent) -> None:
            nonlocal writer
            if event.row is None:
                return
            if writer is None:  # the run has made its folder by now
                writer = opened.enter_context(SummaryWriter(str(folder / "tensorboard")))
            for name, value in scalars(event.row).items():
                writer.add_scalar(name, value, event.row["epoch"])

        yield note


@contextmanager
def _tracker(kind: str, folder: Path, config: Mapping[str, Any]) -> Iterator[Callable[[StepEvent], None]]:
    """Weights & Biases, or trackio, which has the same three functions."""
    try:
        module = importlib.import_module(kind)
    except ImportError:
        raise ValueError(f"{kind} is not installed: {HINTS[kind]}.") from None
    module.init(project="forwardonly", name=folder.name, config=dict(config))
    try:

        def note(event: StepEvent) -> None:
            if event.row is not None:
                module.log({"epoch": event.row["epoch"], **scalars(event.row)})

        yield note
    finally:
        module.finish()
