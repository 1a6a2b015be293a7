"""Checkpoints: the state of a run, from which it continues to the same bits.

A checkpoint is one safetensors file: its tensors, and in its header, as JSON, the tree of plain values that holds them.
Its name is a growing number and the SHA-256 of its bytes, so that one rename makes it complete and the newest. Nothing
is unpickled. It does not depend on the number of processes: a run of one process can be resumed as a run of many, and
the other way round.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from forwardonly.network.storage import packed, write_atomically

FOLDER = "checkpoint"
KEPT = 2  # the newest, and one to fall back on should a disk damage it
_NAME = re.compile(r"(\d{8})-([0-9a-f]{64})\.safetensors")


def write(folder: Path, state: dict[str, Any]) -> None:
    """Adds a checkpoint of `state` (dicts, lists, tensors, numbers, strings) to a run folder, and deletes old ones.

    Raises:
        OSError: it cannot be written; earlier checkpoints are unchanged.
    """
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    before = _found(folder)
    number = int(before[0].name[:8]) + 1 if before else 1
    digest = hashlib.sha256()
    for piece in _packed(state):
        digest.update(piece)
    write_atomically(folder / FOLDER / f"{number:08d}-{digest.hexdigest()}.safetensors", _packed(state))
    unfinished = (folder / FOLDER).glob(".*.tmp")  # left by a process that was killed
    for old in (*before[KEPT - 1 :], *unfinished):
        old.unlink(missing_ok=True)


def exists(folder: Path) -> bool:
    """Whether the run folder has a checkpoint, complete or not."""
    return bool(_found(folder))


def read(folder: Path) -> dict[str, Any]:
    """The newest complete checkpoint, on the CPU; warns of newer ones that are damaged.

    Raises:
        ValueError: there is none, or all are damaged.
    """
    found = _found(folder)
    if not found:
        raise ValueError(f"{folder} has no checkpoint to resume from.")
    problems = []
    for path in found:
        try:
            state = _read(path)
        except ValueError as problem:
            problems.append(str(problem))
            continue
        for damage in problems:
            warnings.warn(f"{damage} Going on from the one before.", stacklevel=2)
        return state
    raise ValueError(problems[0])


def pack(state: Any) -> bytes:
    """A tree of dicts, lists, tensors and plain values as one safetensors file."""
    return b"".join(_packed(state))


def _packed(state: Any) -> Iterator[bytes | memoryview]:
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_to_json(state, tensors))
    return packed(tensors, {"tree": tree})


def unpack(content: bytes) -> Any:
    """The tree that `pack` was given, with lists for tuples.

    Raises:
        ValueError: the bytes are not from `pack`.
    """
    try:
        tensors = safetensors.torch.load(content)  # checks the header against the bytes that are there
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return _from_json(json.loads(header["__metadata__"]["tree"]), tensors)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        reason = " ".join(str(problem).split())[:200] or type(problem).__name__
        raise ValueError(f"not what a checkpoint holds ({reason})") from None


def _found(folder: Path) -> list[Path]:
    """The checkpoints in a run folder, the newest first."""
    try:
        names = [path for path in (folder / FOLDER).iterdir() if _NAME.fullmatch(path.name)]
    except OSError:
        return []
    return sorted(names, reverse=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise ValueError(f"The checkpoint {path} cannot be read: {problem.strerror or problem}.") from None
    if hashlib.sha256(content).hexdigest() != path.stem[9:]:
        raise ValueError(f"The checkpoint {path} is damaged: its bytes do not have the SHA-256 in its name.")
    try:
        state = unpack(content)
    except ValueError as problem:
        raise ValueError(f"The checkpoint {path} is damaged: {problem}.") from None
    if not isinstance(state, dict):
        raise ValueError(f"The checkpoint {path} is damaged: it holds no state.")
    return state


def _to_json(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A tree as JSON can hold it: a tensor by its number, a dict as a list of pairs, because keys may be numbers."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {"pairs": [[key, _to_json(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_to_json(item, tensors) for item in value]
    return value


def _from_json(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_from_json(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    return {key: _from_json(item, tensors) for key, item in value["pairs"]}
