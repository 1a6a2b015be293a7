"""Exported files: networks and training steps for other runtimes.

Shapes: B batch, C classes, L blocks.
"""

import contextlib
import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.func import functional_call
from torch.utils._pytree import tree_map

from forwardonly.export.step import TrainingStep, example_inputs, input_type, unchecked
from forwardonly.network.network import Network
from forwardonly.network.storage import save, write_atomically, write_json

Format = Literal["safetensors", "torch-export", "onnx"]
SUFFIX = {"torch-export": ".pt2", "onnx": ".onnx"}
COLOUR = {1: "L", 3: "RGB"}
"""Pillow's name of the colours of images with so many channels."""
SCORES = ["scores", "block_scores"]


def export_network(network: Network, folder: str | Path, *, format: Format) -> list[Path]:
    """Writes a network for prediction to a folder. Returns its files.

    `safetensors` gives `model.safetensors` and `config.json`, which `fo.load` reads. The other formats give one file
    `model` that maps `images` (B, channels, height, width) to `scores` (B, C) and `block_scores` (L, B, C), for any B;
    of a model that `localize` cut, its own inputs by their names. Images are uint8, or float32 if the network was
    trained on features, which are then not checked for NaN. The file says so itself: `input_about` is in it, in ONNX as
    metadata and in a torch-export as the extra file `about.json`.

    Raises:
        ValueError: the folder cannot be written, a package is missing, or the network has no class scores.
    """
    folder = _made(folder)
    if format == "safetensors":
        save(network, folder)
        return [folder / "config.json", folder / "model.safetensors"]
    network.require_classes()
    with _evaluating(network):
        inputs = example_inputs(network, 2)
        batch = Dim("batch", min=1)
        shapes = (tree_map(lambda tensor: {0: batch}, inputs),)
        program = torch.export.export(_Scores(network), (inputs,), dynamic_shapes=shapes)
    return [_write(program, folder / f"model{SUFFIX[format]}", input_names(inputs), SCORES, input_about(network))]


def input_names(inputs: Any) -> list[str]:
    """Names of a graph's inputs: "images", or those of a model's own arguments, numbered where they have none."""
    if isinstance(inputs, Tensor):
        return ["images"]
    return list(inputs) if isinstance(inputs, Mapping) else [f"input_{index}" for index in range(len(inputs))]


def export_training_step(network: Network, step: TrainingStep, folder: str | Path, *, format: Format) -> list[Path]:
    """Writes a training step to a folder. Returns its files.

    `training-step` is the graph and `state.safetensors` its initial state. `prediction` is a graph from `images` and
    the state's weights, under the same names, to scores. `interface.json` lists names, types and shapes of all.

    Raises:
        ValueError: the format is safetensors, which holds no graphs; the folder cannot be written; a package is
            missing.
    """
    if format == "safetensors":
        raise ValueError("safetensors holds weights, not graphs: export a training step as onnx or torch-export.")
    folder, suffix = _made(folder), SUFFIX[format]
    whole = torch.export.export(step.graph, step.examples)
    weights = {name: tensor for name, tensor in step.state.items() if name in network.state_dict()}
    images = example_inputs(network, 2)
    shapes = ({0: Dim("batch", min=1)}, dict.fromkeys(weights))
    with _evaluating(network):
        predicting = torch.export.export(_ScoresOf(network), (images, weights), dynamic_shapes=shapes)
    state, interface = folder / "state.safetensors", folder / "interface.json"
    write_atomically(state, safetensors.torch.save(step.state))
    about = input_about(network)
    write_json(interface, {**_interface(step, list(weights)), "about": about})
    return [
        _write(whole, folder / f"training-step{suffix}", step.inputs, step.outputs, about),
        _write(predicting, folder / f"prediction{suffix}", ["images", *weights], SCORES, about),
        state,
        interface,
    ]


class _Scores(nn.Module):
    """Maps images to the network's scores and each block's."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(self, images: Any) -> tuple[Tensor, Tensor]:
        scores = self.network.scores(images)
        return self.network.readout(scores), scores


class _ScoresOf(nn.Module):
    """The same, with the weights as an input."""

    def __init__(self, network: Network):
        super().__init__()
        self.scores = _Scores(network)

    def forward(self, images: Tensor, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        inside = {f"network.{name}": tensor for name, tensor in weights.items()}
        given: tuple[Tensor, Tensor] = functional_call(self.scores, inside, (images,))
        return given


def input_about(network: Network) -> dict[str, str]:
    """What an exported network takes and what its scores are of, for a program that has nothing but the file.

    `input` is a sentence; `channels`, `height` and `width` are numbers, `colour` is L or RGB for images that pictures
    can become; `classes` is a number, and `class_names` a JSON list in the order of the scores, if the network has
    learned any.
    """
    named = {} if network.class_names is None else {"class_names": json.dumps(list(network.class_names))}
    if len(network.shape) != 3:
        return {"classes": str(network.classes), "input": "what the model that was cut takes", **named}
    channels, height, width = network.shape
    about = {"channels": str(channels), "height": str(height), "width": str(width), "classes": str(network.classes)}
    shape = f"(batch, {channels}, {height}, {width})"
    if input_type(network) != torch.uint8:
        about["input"] = f"features, float32 {shape}, as the network was trained on"
    elif channels in COLOUR:
        about["colour"] = COLOUR[channels]
        about["input"] = (
            f"pixels, uint8 0 to 255 {shape}, {COLOUR[channels]}: a picture upright, laid on white, its shorter side "
            f"resized (bicubic) and the centre cut out, as fo.data.read_adapted does"
        )
    else:
        about["input"] = f"pixels, uint8 0 to 255 {shape}"
    return {**about, **named}


def _interface(step: TrainingStep, weights: Sequence[str]) -> dict[str, Any]:
    examples = dict(zip(step.inputs, step.examples, strict=True))
    return {
        "inputs": [
            {"name": name, "dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
            for name, tensor in examples.items()
        ],
        "outputs": step.outputs,
        "state": list(step.state),
        "prediction_inputs": ["images", *weights],
    }


def _write(
    program: ExportedProgram, path: Path, inputs: Sequence[str], outputs: Sequence[str], about: dict[str, str]
) -> Path:
    """Writes a program in the format of the path's suffix, with `about` in it."""
    if path.suffix == ".pt2":
        temporary = path.with_name(f".{path.stem}.tmp.pt2")
        torch.export.save(program, temporary, extra_files={"about.json": json.dumps(about)})
        temporary.replace(path)
        return path
    try:
        import onnxscript  # noqa: F401  # what torch.onnx needs
    except ImportError:
        raise ValueError("ONNX files need more packages: pip install 'forward-only[onnx]'.") from None
    with _quiet():
        # Its optimiser drops Adam's epsilon of 1e-8 as if it were zero, which gives 0/0 (onnxscript 0.7.2).
        converted = torch.onnx.export(
            program, dynamo=True, optimize=False, input_names=inputs, output_names=outputs, verbose=False
        )
    assert converted is not None
    model = converted.model_proto
    _name_batch(model.graph)
    for key, value in about.items():
        model.metadata_props.add(key=key, value=value)
    write_atomically(path, model.SerializeToString())
    return path


def _name_batch(graph: Any) -> None:
    """Calls the free axis of an ONNX graph `batch`, which the exporter names by a symbol of its own, such as s34."""
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    if not symbol:  # a training step has a batch of one size
        return
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = re.sub(rf"\b{symbol}\b", "batch", axis.dim_param)


@contextlib.contextmanager
def _evaluating(network: Network) -> Iterator[None]:
    """A context with the network in evaluation mode on the CPU; mode and device are restored."""
    training, device = network.training, network.device
    network.eval().cpu()
    try:
        with torch.no_grad(), unchecked(network):
            yield
    finally:
        network.to(device).train(training)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A context without the exporter's remarks on optional packages and its deprecation warnings."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)


def _made(folder: str | Path) -> Path:
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise ValueError(f"Cannot write to {folder}: {problem.strerror or problem}.") from None
    return folder
