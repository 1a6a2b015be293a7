"""Models of other libraries, by names from which they can be built again.

Only libraries that build a model from data are known: no code of a saved file is run.
"""

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from forwardonly.names import nearest

KINDS = ("timm", "hf")
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
"""What is fetched of a model of the hub: its config, weights and tokenizer, no code and no pickles."""


def build(name: str, options: Mapping[str, Any]) -> nn.Module:
    """The model of a name: "timm:NAME" with options of `timm.create_model`, or "hf:FOLDER" or "hf:OWNER/NAME".

    Raises:
        ValueError: the name is of neither form, there is no such model, an option does not fit, or a package is
            missing.
    """
    kind, own = parts_of(name)
    if kind == "hf" and options:
        raise ValueError(f"{next(iter(options))!r} is no option of {name}, whose files say what the model is.")
    try:
        return _timm(own, options) if kind == "timm" else _hugging_face(folder_of(own))
    except ValueError:
        raise
    except Exception as problem:  # a model, and the reader of its files, may raise anything
        raise ValueError(f"The model {name!r} cannot be built: {_first_line(problem)}.") from None


def pretrained(name: str, options: Mapping[str, Any]) -> nn.Module:
    """As `build`, a model of timm with the weights that timm has for it, which are fetched where they are not kept yet.

    Raises:
        ValueError: there is no such model, or there are no such weights, or they cannot be fetched.
    """
    _, own = parts_of(name)
    try:
        return _timm(own, {**options, "pretrained": True})
    except ValueError:
        raise
    except Exception as problem:  # of the network, or of timm
        raise ValueError(
            f"There are no pretrained weights of {name} to be had: {_first_line(problem)}. Give a file of weights, or "
            "'random' to start from none."
        ) from None


def folder_of(own: str) -> Path:
    """The folder of a Hugging Face model: one here, or that in which the hub's OWNER/NAME is kept once it is fetched.

    Raises:
        ValueError: there is no such folder, and the hub's model of that name cannot be fetched.
    """
    path = Path(own).expanduser()
    if path.exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", own):
        return path
    hub = _imported("huggingface_hub")
    try:
        return Path(hub.snapshot_download(own, allow_patterns=HUB_FILES))
    except Exception as problem:  # of the network, or of the hub
        raise ValueError(
            f"{own} is no folder here, and cannot be fetched from the Hugging Face hub: {_first_line(problem)}."
        ) from None


def _first_line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0].rstrip(".: ")


def parts_of(name: str) -> tuple[str, str]:
    """The two parts of a model's name, such as "timm" and "resnet18".

    Raises:
        ValueError: it is no such name.
    """
    kind, _, own = name.partition(":")
    if kind not in KINDS or not own:
        raise ValueError(f"A model is a module, or a name such as 'timm:resnet18' or 'hf:FOLDER', not {name!r}.")
    return kind, own


def _timm(name: str, options: Mapping[str, Any]) -> nn.Module:
    timm = _imported("timm")
    if not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}: {nearest(name, timm.list_models())}")
    model: nn.Module = timm.create_model(name, **options)
    return model


def _hugging_face(path: Path) -> nn.Module:
    transformers = _imported("transformers")
    if not (path / "config.json").is_file():
        raise ValueError(
            f"{path} has no config.json: a Hugging Face model is named by its folder, or by OWNER/NAME on the hub."
        )
    causal = vocabulary(path) is not None
    kind = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
    model: nn.Module
    options = {"local_files_only": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    told = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # its table of weights, of which a sentence below says the first
    try:
        model, about = kind.from_pretrained(path, **options)
    finally:
        transformers.logging.set_verbosity(told)
    if other := sorted(about["mismatched_keys"]):
        name, found, expected = other[0]
        sizes = [" x ".join(map(str, shape)) for shape in (expected, found)]
        raise ValueError(
            f"The weights in {path} do not fit its config.json: {name!r} of {sizes[0]} is of {sizes[1]} there."
        )
    if causal and (missing := sorted(about["missing_keys"])):
        raise ValueError(
            f"The weights in {path} do not fit its config.json: {missing[0]!r} is missing, so it would be random."
        )
    return model.to(torch.float32)  # files have bfloat16, mostly; a block learns in float32


def vocabulary(folder: Path) -> int | None:
    """Size of the vocabulary of a Hugging Face model that predicts the next token; None of another model.

    Raises:
        ValueError: its config cannot be read, or does not say the size.
    """
    config = config_of(folder)
    named = config.get("architectures")
    names = map(str, named) if isinstance(named, list) else ()
    if not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        return None
    if not isinstance(size := config.get("vocab_size"), int):
        raise ValueError(f"{folder / 'config.json'} does not say the size of the model's vocabulary.")
    return size


def config_of(folder: Path) -> dict[str, Any]:
    """The config of a Hugging Face model; empty where the folder has none.

    Raises:
        ValueError: it cannot be read.
    """
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError, RecursionError) as problem:
        raise ValueError(f"{file} cannot be read: {problem}.") from None
    return config if isinstance(config, dict) and "model_type" in config else {}


def tokenizer(folder: Path) -> Any:
    """The tokenizer of a Hugging Face model.

    Raises:
        ValueError: its folder has none.
    """
    transformers = _imported("transformers")
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception:  # the reader of its files may raise anything
        raise ValueError(f"{folder} has no tokenizer: put the model's own beside it, such as tokenizer.json.") from None


def statistics(model: nn.Module) -> tuple[Sequence[float], Sequence[float]] | None:
    """Mean and deviation of the pixels that a timm model's weights were trained with, if it says so."""
    config = getattr(model, "pretrained_cfg", None) or {}
    return (config["mean"], config["std"]) if "mean" in config and "std" in config else None


def load_weights(model: nn.Module, file: Path) -> None:
    """Loads a safetensors file of weights into a model.

    A classifier's weights that the model does not have, or has for other classes, are left out. A first convolution of
    colours is summed over them where the model takes grey pictures.

    Raises:
        ValueError: the file cannot be read, or another weight is missing or of another shape.
    """
    try:
        given = safetensors.torch.load_file(file)
    except FileNotFoundError:
        raise ValueError(f"There is no file of weights {file}.") from None
    except (SafetensorError, OSError) as problem:
        raise ValueError(
            f"{file} is no safetensors file ({problem}): write a state dict as one by safetensors.torch.save_file."
        ) from None
    own = model.state_dict()
    parameters = dict(model.named_parameters())
    first = next((name for name, weight in parameters.items() if weight.dim() == 4), None)
    if first in given and parameters[first].shape[1] == 1:
        given[first] = given[first].sum(1, keepdim=True)
    head = _classifier_of(model)
    fits = {name: weight for name, weight in given.items() if name in own and own[name].shape == weight.shape}
    for name, weight in own.items():
        if name not in fits and name not in head and not name.endswith("num_batches_tracked"):
            shape = " x ".join(map(str, weight.shape))
            found = f"of {' x '.join(map(str, given[name].shape))}" if name in given else "missing"
            raise ValueError(f"{file} does not fit the model: its weight {name!r} of {shape} is {found} there.")
    model.load_state_dict(fits, strict=False)


def _classifier_of(model: nn.Module) -> set[str]:
    """Names of the weights of a model's classifier, which may be of any number of classes; none where it has none."""
    ask = getattr(model, "get_classifier", None)  # of timm's models
    if ask is None:
        return set(list(dict(model.named_parameters()))[-2:])
    found = ask()
    layers = [own for own in (found if isinstance(found, tuple | list) else [found]) if isinstance(own, nn.Module)]
    of_it = {id(weight) for layer in layers for weight in layer.parameters()}
    return {name for name, weight in model.named_parameters() if id(weight) in of_it}


def source_of(model: nn.Module) -> dict[str, Any] | None:
    """How a Hugging Face model is built again: its class and its config; None for models of other kinds."""
    kind = type(model)
    if not kind.__module__.startswith("transformers.models."):
        return None
    config = json.loads(model.config.to_json_string(use_diff=False))  # type: ignore[union-attr, operator]
    return {"class": kind.__name__, "config": config}


def rebuilt(source: Mapping[str, Any]) -> nn.Module:
    """The model of a source, with weights that are still to be loaded.

    Raises:
        ValueError: the source is not of a known form, or the model cannot be built.
    """
    if "name" in source:
        options = {name: value for name, value in source["options"].items() if name != "pretrained"}
        return build(str(source["name"]), options)
    transformers = _imported("transformers")
    kind = getattr(transformers, str(source["class"]), None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise ValueError(f"transformers has no model class {source['class']!r}.")
    config = {name: value for name, value in source["config"].items() if name != "auto_map"}
    model: nn.Module = kind(kind.config_class.from_dict(config))  # type: ignore[attr-defined]
    return model


def _imported(package: str) -> Any:
    """A package that is not ours to require.

    Raises:
        ValueError: it is not installed, or cannot be imported.
    """
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"A {package} model needs the package {package}: pip install {package}.")
    try:
        return importlib.import_module(package)
    except Exception as problem:  # of a package that it needs, or of two that do not go together
        raise ValueError(f"The package {package} cannot be imported: {_first_line(problem)}.") from None
