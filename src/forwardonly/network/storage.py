"""Networks as files: `config.json` says how to build one, `model.safetensors` holds its weights.

Nothing is unpickled."""

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from forwardonly.network.build import from_config
from forwardonly.network.network import Network
from forwardonly.system import mapped

CONFIG = "config.json"
MODEL = "model.safetensors"
RESULT = "result.json"
FORMAT = 2
"""Of the folder; a network saved in another one is refused with a sentence."""

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The names that safetensors has for types."""


def save(network: Network, folder: str | Path, **more: Any) -> None:
    """Writes a network to a folder, which is made if it is not there; `more` goes into the config beside it.

    Raises:
        ValueError: the folder cannot be written, or the network was built by hand and has no config.
    """
    folder = Path(folder)
    if not network.config:
        raise ValueError(
            "This network was built by hand, so no config can rebuild it: save its state_dict() instead, "
            "or build it with fo.build."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / MODEL, packed(network.state_dict()))
        write_json(folder / CONFIG, {"format": FORMAT, "network": network.config, **more})
    except OSError as problem:
        raise ValueError(f"Cannot write to {folder}: {problem.strerror or problem}.") from None


def load(folder: str | Path) -> Network:
    """The network that `save` or a run wrote to a folder, on the CPU and in evaluation mode.

    Raises:
        ValueError: a file is missing, damaged, or not of this library.
    """
    folder = Path(folder)
    config = read_config(folder)
    try:
        tensors = safetensors.torch.load_file(folder / MODEL)
    except FileNotFoundError:
        raise ValueError(f"{folder} has no {MODEL}: the run was not finished.") from None
    except (SafetensorError, OSError) as problem:
        raise ValueError(f"{folder / MODEL} is damaged: {problem}.") from None
    _require_fit(config["network"], tensors, folder)
    network = from_config(config["network"])
    try:
        network.load_state_dict(tensors)
    except RuntimeError:
        raise ValueError(f"{folder / MODEL} does not hold the weights of the network in {CONFIG}.") from None
    return network.eval()


def _require_fit(config: dict[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Raises ValueError unless the weights are those of the network in the config, before any memory is spent on that.

    No size in a config is larger than the number of its network's weights, but options that bound one; so a trial
    without memory takes no time that the file does not account for.
    """
    most = max(4096, sum(tensor.numel() for tensor in tensors.values()))
    if (largest := _largest(config)) > most:
        raise ValueError(f"{folder / CONFIG} asks for {largest:.6g} of something, more than {MODEL} has numbers.")
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes of zero; whoever has such a network was told when it was built
            wanted = from_config(config).state_dict()
    except ValueError:
        raise
    except Exception as problem:  # a config may trip any module of any body
        reason = " ".join(str(problem).split())[:200] or type(problem).__name__
        raise ValueError(f"{folder / CONFIG} describes a network that cannot be built: {reason}.") from None
    found = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    if found != {name: (tensor.shape, tensor.dtype) for name, tensor in wanted.items()}:
        raise ValueError(f"{folder / MODEL} does not hold the weights of the network in {CONFIG}.")


def _largest(value: Any) -> float:
    """The largest number in a tree of lists and dicts."""
    if isinstance(value, dict | list):
        return max(map(_largest, value.values() if isinstance(value, dict) else value), default=0)
    return value if isinstance(value, int | float) and value == value else 0


def read_config(folder: str | Path) -> dict[str, Any]:
    """The `config.json` of a run folder.

    Raises:
        ValueError: there is none, or it is not one that this version of the library wrote.
    """
    path = Path(folder) / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder} is not a run folder: it has no {CONFIG}.") from None
    except (OSError, ValueError, RecursionError) as problem:
        raise ValueError(f"{path} cannot be read: {problem}.") from None
    if not isinstance(config, dict) or not isinstance(config.get("network"), dict):
        raise ValueError(f"{path} is not a forwardonly config: it describes no network.")
    if (found := config.get("format", 1)) != FORMAT:
        known = isinstance(found, int) and found > 0
        age = ("an older" if found < FORMAT else "a newer") if known else "another"
        raise ValueError(
            f"{folder} was saved by {age} version of forwardonly, in format {found}, and this version reads format "
            f"{FORMAT}: open it with the version that saved it, or train it again."
        )
    return config


def read_result(folder: str | Path) -> dict[str, Any]:
    """What a finished run measured, its `result.json`; empty if the folder holds none, as that of an interrupted run.

    Raises:
        ValueError: the file is damaged.
    """
    path = Path(folder) / RESULT
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as problem:
        raise ValueError(f"{path} is damaged: {problem}.") from None
    if not isinstance(result, dict):
        raise ValueError(f"{path} is damaged: it holds no object.")
    return result


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """A JSON file that is either the old one or the whole new one."""
    write_atomically(path, (as_json(content) + "\n").encode())


def as_json(content: Mapping[str, Any]) -> str:
    """JSON, with Python's numbers where numpy's are.

    Raises:
        TypeError: there is something that JSON does not know.
    """
    return json.dumps(content, indent=2, default=_python_number)


def _python_number(value: Any) -> Any:
    if isinstance(value, np.generic) and not isinstance(item := value.item(), np.generic):
        return item
    raise TypeError(f"JSON does not know {type(value).__name__}.")


def packed(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Iterator[bytes | memoryview]:
    """A safetensors file piece by piece, so that no more than one tensor of it is ever held beside the originals."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):  # as they align
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in header:
        if name != "__metadata__":
            yield tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            mapped.release()


def write_atomically(path: Path, content: bytes | Iterable[bytes | memoryview]) -> None:
    """Writes under a temporary name, syncs and renames, so that a kill leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            for piece in [content] if isinstance(content, bytes) else content:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Makes a rename in the folder outlast a power cut, where the system can sync folders."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
