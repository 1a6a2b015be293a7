"""Networks as files: `config.json` says how to build one, `model.safetensors` holds its weights.

Nothing is unpickled.
"""

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from forwardonly import rules
from forwardonly.names import as_path
from forwardonly.network.build import from_config as built
from forwardonly.network.localize import rebuilt
from forwardonly.network.network import Network, require_network
from forwardonly.system import mapped

CONFIG = "config.json"
MODEL = "model.safetensors"
RESULT = "result.json"
METRICS = "metrics.jsonl"
CLASSES = "class_names"
"""Key of the class names in the config."""
FEATURES = "feature_names"
"""Key of the names of a table's columns in the config."""
FORMAT = 2
"""Version of the folder's format; a network saved in another one is refused with a sentence."""

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
"""safetensors' names of the types."""


def save(network: Network, folder: str | Path, **more: Any) -> None:
    """Writes a network to a folder, which is made if it does not exist; `more` is added to the config.

    The config also has the names of its classes and of a table's columns, if it has learned any.

    Raises:
        ValueError: the folder cannot be written or holds a finished run, or the network was built by hand and has no
            config.
    """
    require_network(network)
    folder = as_path("folder", folder)
    if (folder / RESULT).exists():
        raise ValueError(f"{folder} holds a finished run, whose result is its own network's: choose another folder.")
    write(network, folder, **more)


def write(network: Network, folder: Path, **more: Any) -> None:
    """As `save`, whatever the folder holds."""
    if not network.config:
        raise ValueError(
            "This network was built by hand, so no config can rebuild it: save its state_dict() instead, "
            "or build it with fo.build."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / MODEL, packed(network.state_dict()))
        learned = {CLASSES: network.class_names, FEATURES: network.feature_names}
        named = {key: list(names) for key, names in learned.items() if names is not None}
        write_json(folder / CONFIG, {"format": FORMAT, "network": network.config, **more, **named})
    except OSError as problem:
        raise ValueError(f"Cannot write to {folder}: {problem.strerror or problem}.") from None


def from_config(config: Mapping[str, Any], model: nn.Module | None = None) -> Network:
    """The network that a config describes, with fresh weights; `model` is what `localize` made it of.

    Raises:
        ValueError: the config is not of the form that `save` writes, or its model cannot be built.
    """
    if "cuts" not in config:
        if model is not None:
            raise ValueError("The network is not one that localize made of a model: load it without model.")
        return built(config)
    try:
        return rebuilt(config, model)
    except (KeyError, TypeError, AttributeError) as problem:
        raise ValueError(f"The network's config is not one that forwardonly wrote: {problem!r}.") from None


def load(folder: str | Path, model: nn.Module | None = None) -> Network:
    """The network that `save` or a run wrote to a folder, on the CPU and in evaluation mode.

    `model` is the user's own, of which `localize` made the network, where no name says how to build it. Its weights
    become the saved ones.

    Raises:
        ValueError: a file is missing, damaged, or not written by this library; or the model is missing or another one.
    """
    folder = as_path("folder", folder)
    config = read_config(folder)
    if not config["network"]:
        raise ValueError(
            f"The network in {folder} was built by hand, so no config can rebuild it: build it again, then "
            f"load_state_dict(safetensors.torch.load_file(...)) of its {MODEL}."
        )
    try:
        tensors = safetensors.torch.load_file(folder / MODEL)
    except FileNotFoundError:
        raise ValueError(f"{folder} has no {MODEL}: the run was not finished.") from None
    except (SafetensorError, OSError) as problem:
        raise ValueError(f"{folder / MODEL} is damaged: {problem}.") from None
    _require_fit(config["network"], tensors, folder, model)
    network = from_config(config["network"], model)
    try:
        network.load_state_dict(tensors)
    except RuntimeError:
        raise ValueError(f"{folder / MODEL} does not hold the weights of the network in {CONFIG}.") from None
    network.class_names = _class_names(config, network.classes, folder)
    network.feature_names = _feature_names(config, folder)
    return network.eval()


def _class_names(config: Mapping[str, Any], count: int, folder: Path) -> tuple[str, ...] | None:
    """The class names in a config; None if it has none. `forwardonly train` of earlier versions wrote them elsewhere.

    Raises:
        ValueError: they are not names, or more than the network has classes.
    """
    data = config.get("data")
    earlier = data.get("classes") if isinstance(data, dict) else None
    for names in (config.get(CLASSES), earlier):
        if isinstance(names, list) and len(names) <= count and all(isinstance(name, str) for name in names):
            return tuple(names)
    if config.get(CLASSES) is not None:
        raise ValueError(f"{folder / CONFIG} does not name the network's {count} classes.")
    return None


def _feature_names(config: Mapping[str, Any], folder: Path) -> tuple[str, ...] | None:
    """The names of a table's columns in a config; None if it has none.

    Raises:
        ValueError: they are not names, or one is there twice.
    """
    names = config.get(FEATURES)
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
        raise ValueError(f"{folder / CONFIG} does not name the columns that the network takes, each by its own name.")
    return tuple(names)


def _require_fit(config: dict[str, Any], tensors: Mapping[str, Tensor], folder: Path, model: nn.Module | None) -> None:
    """Raises ValueError unless the weights are those of the network in the config, before memory is spent on it.

    No size in a config is larger than the number of its network's weights, but for options that the rule says are none;
    so the trial build without memory takes no longer than the size of the file allows.
    """
    most = max(4096, sum(tensor.numel() for tensor in tensors.values()))
    if (largest := _largest(_sizes(config))) > most:
        raise ValueError(f"{folder / CONFIG} asks for {largest:.6g} of something, more than {MODEL} has numbers.")
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes of zero, given when the network was built
            wanted = from_config(config, model).state_dict()
    except ValueError:
        raise
    except Exception as problem:  # a config may trip any module of any body
        reason = " ".join(str(problem).split())[:200] or type(problem).__name__
        raise ValueError(f"{folder / CONFIG} describes a network that cannot be built: {reason}.") from None
    found = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    if found != {name: (tensor.shape, tensor.dtype) for name, tensor in wanted.items()}:
        raise ValueError(f"{folder / MODEL} does not hold the weights of the network in {CONFIG}.")


def _sizes(config: dict[str, Any]) -> dict[str, Any]:
    """A config without the options of its rule that are no sizes."""
    rule = config.get("rule")
    if not isinstance(rule, dict) or (name := str(rule.get("name"))) not in rules.TABLE:
        return config
    others = rules.rule_class(rules.TABLE[name]).not_sizes
    return {**config, "rule": {option: value for option, value in rule.items() if option not in others}}


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
    path = as_path("folder", folder) / CONFIG
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
    """The `result.json` of a finished run; empty if there is none, as after an interrupted run.

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


def read_history(folder: str | Path) -> list[dict[str, Any]]:
    """The rows of a run's `metrics.jsonl`, one for each epoch; none if there is no such file.

    Raises:
        ValueError: the file is damaged.
    """
    path = Path(folder) / METRICS
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError) as problem:
        raise ValueError(f"{path} is damaged: {problem}.") from None
    if not all(isinstance(row, dict) and isinstance(row.get("loss"), list) for row in rows):
        raise ValueError(f"{path} is damaged: a line of it is no epoch's row.")
    return rows


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file, so that there is either the old one or the whole new one."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def packed(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Iterator[bytes | memoryview]:
    """A safetensors file in pieces, so that at most one tensor is copied at a time."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):  # aligned
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
    """Makes a rename in the folder survive a power failure, where the system can sync folders."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
