"""The run folder: config, checkpoints, metrics, the finished network and its result."""

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from forwardonly.network.network import Network
from forwardonly.network.storage import (
    CONFIG,
    FORMAT,
    METRICS,
    MODEL,
    RESULT,
    packed,
    read_config,
    write,
    write_atomically,
    write_json,
)
from forwardonly.training.runs import checkpoint
from forwardonly.version import __version__

DIGEST = "digest"
"""Key of the images' digest in a finished run's config."""


def start(folder: Path, config: Mapping[str, Any]) -> None:
    """Makes the run folder, and writes the config with the versions in use.

    Raises:
        ValueError: it already holds a run, or cannot be written.
    """
    if (folder / RESULT).exists() or checkpoint.exists(folder):
        raise ValueError(f"{folder} already holds a run: choose another folder, or resume it.")
    if (folder / MODEL).exists():
        raise ValueError(f"{folder} already holds a network: choose another folder.")
    versions = {"forwardonly": __version__, "torch": torch.__version__, "python": platform.python_version()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG, {"format": FORMAT, "versions": versions, **config})
    except OSError as problem:
        raise ValueError(f"Cannot write to {folder}: {problem.strerror or problem}.") from None


def resume(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state to resume from; None if the run was killed before its first checkpoint, and so starts again.

    Raises:
        ValueError: the folder holds no run, a damaged one, or one of another network than that in `config`.
    """
    if (folder / CONFIG).exists():
        refuse_changes(folder, read_config(folder)["network"], json.loads(json.dumps(config["network"])))
        if not checkpoint.exists(folder):
            return None
    return checkpoint.read(folder)


def go_on(folder: Path, config: Mapping[str, Any]) -> None:
    """Puts the options with which a run is resumed into its config, where they are not those that it had.

    Raises:
        ValueError: the folder cannot be written.
    """
    before = read_config(folder) if (folder / CONFIG).exists() else {"format": FORMAT}
    after = {**before, **config, "network": before.get("network", config["network"])}
    try:
        if json.loads(json.dumps(after)) != before:
            write_json(folder / CONFIG, after)
    except OSError as problem:
        raise ValueError(f"Cannot write to {folder}: {problem.strerror or problem}.") from None


def arithmetic_of(folder: Path) -> tuple[Any, Any]:
    """The precision and the number of threads of the run in a folder, None where its config does not say them."""
    config = read_config(folder) if (folder / CONFIG).exists() else {}
    training = config.get("training")
    return config.get("precision"), training.get("threads") if isinstance(training, dict) else None


def refuse_changes(folder: Path, then: Any, now: Any, where: str = "") -> None:
    """Raises ValueError that names the first option in which the run in `folder` differs from the requested one.

    Options that its version of the library did not have are not compared.
    """
    if isinstance(then, dict) and isinstance(now, dict):
        for name in now:
            if name in then:
                refuse_changes(folder, then[name], now[name], f"{where} {name}")
    elif then != now:
        raise ValueError(f"{folder} was started with another{where}, {then} and not {now}: leave that option as it was")


def write_checkpoint(folder: Path, state: dict[str, Any], history: Sequence[Mapping[str, Any]]) -> None:
    """Writes a checkpoint, and the metrics, a line for each epoch.

    Raises:
        ValueError: the folder cannot be written; earlier checkpoints are unchanged.
    """
    try:
        checkpoint.write(folder, state)
        _write_metrics(folder, history)
    except OSError as problem:
        raise ValueError(
            f"Cannot write the checkpoint to {folder}: {problem.strerror or problem}; the last good one is kept."
        ) from None


def finish(
    folder: Path,
    network: Network,
    history: Sequence[Mapping[str, Any]],
    result: Mapping[str, Any],
    learned_from: str | None = None,
) -> None:
    """Writes the finished network and its result, and the metrics once more.

    `learned_from` is the digest of the images, which goes into the config.

    A run that was killed between its last checkpoint and its last line of metrics would otherwise lack that line.

    Raises:
        ValueError: the folder cannot be written; the run can be resumed from its last checkpoint.
    """
    config = {**read_config(folder), **({} if learned_from is None else {DIGEST: learned_from})}
    if network.config:
        write(network, folder, **{key: value for key, value in config.items() if key not in ("format", "network")})
    try:
        if not network.config:  # built by hand: the weights alone
            write_atomically(folder / MODEL, packed(network.state_dict()))
        _write_metrics(folder, history)
        write_json(folder / RESULT, result)
        for unfinished in folder.glob(".*.tmp"):  # left by a process that was killed
            unfinished.unlink(missing_ok=True)
    except OSError as problem:
        raise ValueError(f"Cannot write to {folder}: {problem.strerror or problem}.") from None


def _write_metrics(folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
    write_atomically(folder / METRICS, "".join(json.dumps(row) + "\n" for row in history).encode())
