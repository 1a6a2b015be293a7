"""Exported files: networks and training steps for other runtimes.

Shapes: B batch, C classes, L blocks.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from forwardonly.export.c.plan import Precision
from forwardonly.export.converters import to_executorch, to_onnx, to_torch_export, with_int8_weights
from forwardonly.export.step import TrainingStep, as_a_graph, example_inputs, input_type, plain_copy, unchecked
from forwardonly.names import one_of, whole_number
from forwardonly.network.network import Network, require_network
from forwardonly.network.storage import write, write_atomically

Format = Literal["safetensors", "torch-export", "onnx", "executorch"]
SUFFIX = {"torch-export": ".pt2", "onnx": ".onnx", "executorch": ".pte"}
COLOUR = {1: "L", 3: "RGB"}
"""Pillow's name of the colours of images with so many channels."""
SCORES = ["scores", "block_scores"]


def export_network(
    network: Network,
    folder: str | Path,
    *,
    format: Format,
    batch_size: int | None = None,
    precision: Precision = "float32",
) -> list[Path]:
    """Writes a network for prediction to a folder. Returns its files.

    `safetensors` gives `model.safetensors` and `config.json`, which `fo.load` reads. The other formats give one file
    `model` that maps `images` (B, channels, height, width) to `scores` (B, C) and `block_scores` (L, B, C), for any B;
    of a model that `localize` cut, its own inputs by their names. Images are uint8, or float32 if the network was
    trained on features, which are then not checked for NaN. The file says so itself: `input_about` is in it, in ONNX as
    metadata, in a torch-export as the extra file `about.json`, in an ExecuTorch program as methods that return text.

    An ExecuTorch program takes `batch_size` images, by default 1, and runs on XNNPACK where that has the operators.
    With the `precision` int8 an ONNX file holds weights in a quarter of the bytes, with a scale for each unit, channel
    or prototype; it computes in float32.

    Raises:
        ValueError: the folder cannot be written, a package is missing, the converter refuses the network, the network
            has no class scores, or `batch_size` or `precision` is given for another format.
    """
    require_network(network)
    one_of("precision", precision, get_args(Precision))
    if precision != "float32" and format != "onnx":
        raise ValueError(f"A network as {format} holds float32: precision {precision!r} is for onnx.")
    if batch_size is not None and format != "executorch":
        raise ValueError(f"A network as {format} takes any batch: batch_size is for executorch.")
    if format == "safetensors":
        write(network, Path(folder))
        return [Path(folder) / "config.json", Path(folder) / "model.safetensors"]
    network.require_classes()
    count, axes = 2, {0: Dim("batch", min=1)}
    if format == "executorch":
        network, axes = plain_copy(network), {}
        count = whole_number("batch_size", 1 if batch_size is None else batch_size, 1)
    inputs = example_inputs(network, count)
    with _evaluating(network):
        shapes = (tree_map(lambda tensor: axes, inputs),)
        program = _program(_Scores(network), (inputs,), shapes)
    content = _converted(format, program, input_names(inputs), SCORES, input_about(network), xnnpack=True)
    if precision == "int8":
        content = with_int8_weights(content)
    return _write(folder, {f"model{SUFFIX[format]}": content})


def input_names(inputs: Any) -> list[str]:
    """Names of a graph's inputs: "images", or those of a model's own arguments, numbered where they have none."""
    if isinstance(inputs, Tensor):
        return ["images"]
    return list(inputs) if isinstance(inputs, Mapping) else [f"input_{index}" for index in range(len(inputs))]


def export_training_step(network: Network, step: TrainingStep, folder: str | Path, *, format: Format) -> list[Path]:
    """Writes a training step to a folder. Returns its files.

    `training-step` is the graph and `state.safetensors` its initial state. `prediction` is a graph from `images` and
    the state's weights, under the same names, to scores: of any number of images, in ExecuTorch of up to the step's.
    `interface.json` lists names, types and shapes of all, in the order of the graphs' inputs and outputs.

    Raises:
        ValueError: the format is safetensors, which holds no graphs; the folder cannot be written; a package is
            missing; the converter refuses the step.
    """
    if format == "safetensors":
        raise ValueError(
            "safetensors holds weights, not graphs: export a training step as onnx, executorch or torch-export."
        )
    whole = _program(step.graph, step.examples)
    weights = {name: tensor for name, tensor in step.state.items() if name in network.state_dict()}
    most = None
    if format == "executorch":
        network, most = plain_copy(network), step.batch_size
    images = example_inputs(network, 1 if most == 1 else 2)
    axes = {} if most == 1 else {0: Dim("batch", min=1, max=most)}
    with _evaluating(network):
        predicting = _program(_ScoresOf(network), (images, weights), (axes, dict.fromkeys(weights)))
    about, suffix = input_about(network), SUFFIX[format]
    interface = {**_interface(step, list(weights)), "about": about}
    return _write(
        folder,
        {
            f"training-step{suffix}": _converted(format, whole, step.inputs, step.outputs, about),
            f"prediction{suffix}": _converted(format, predicting, ["images", *weights], SCORES, about),
            "state.safetensors": safetensors.torch.save(step.state),
            "interface.json": (json.dumps(interface, indent=2) + "\n").encode(),
        },
    )


def _program(module: nn.Module, inputs: tuple[Any, ...], shapes: Any = None) -> ExportedProgram:
    """A module as a program; `shapes` names the axes that are free."""
    with as_a_graph():
        return torch.export.export(module, inputs, dynamic_shapes=shapes)


def _converted(
    format: Format,
    program: ExportedProgram,
    inputs: Sequence[str],
    outputs: Sequence[str],
    about: dict[str, str],
    *,
    xnnpack: bool = False,
) -> bytes:
    """A program as the content of a file."""
    if format == "onnx":
        return to_onnx(program, inputs, outputs, about)
    if format == "executorch":
        return to_executorch(program, about, xnnpack=xnnpack)
    return to_torch_export(program, about)


class _Scores(nn.Module):
    """Maps images to the network's scores and each block's."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(self, images: Any) -> tuple[Tensor, Tensor]:
        scores = self.network.scores(images)
        return self.network.joined(scores), scores


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


def _write(folder: str | Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Writes files to a folder. Returns them."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_atomically(folder / name, content)
    except OSError as problem:
        raise ValueError(f"Cannot write to {folder}: {problem.strerror or problem}.") from None
    return [folder / name for name in contents]


@contextlib.contextmanager
def _evaluating(network: Network) -> Iterator[None]:
    """A context with the network in evaluation mode on the CPU; mode and device are restored.

    Attention runs as plain products: the layout that a fused kernel gives would be in the graph, which has no such
    kernel.
    """
    training, device = network.training, network.device
    network.eval().cpu()
    try:
        with torch.no_grad(), unchecked(network), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        network.to(device).train(training)
