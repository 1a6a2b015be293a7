"""`forwardonly export`: a run's network, or its training step, as files for other runtimes."""

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro

import forwardonly as fo
from forwardonly.cli.held import OnData, source_of, streamed_test_images
from forwardonly.cli.parsing import UNSET
from forwardonly.cli.runs import SavedRun, open_run
from forwardonly.cli.screen import Screen
from forwardonly.data import Images
from forwardonly.data.large import Folder
from forwardonly.export import (
    Format,
    Precision,
    executorch_program,
    export_c,
    export_network,
    export_training_step,
    input_about,
    training_step,
)
from forwardonly.network.answers import alike
from forwardonly.network.storage import read_config

OF_A_STEP = ("batch_size", "spare_classes", "optimiser", "learning_rate", "momentum", "weight_decay")
CHECKED = {"onnx": "onnxruntime", "executorch": "ExecuTorch"}
"""Formats whose files are checked, and the runtime that does it."""

SOME = 200  # images that are enough to check an ExecuTorch file: its portable kernels can take half a second for one

Scores = Callable[[torch.Tensor], np.ndarray]
"""An exported network: images (B, channels, height, width) -> scores (B, C)."""


@dataclass(frozen=True, kw_only=True)
class Export(OnData):
    """Options of the command."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    format: Format | Literal["c"] = "onnx"
    """Kind of file; c is a training step as one C file without dependencies, which also predicts."""
    what: Literal["prediction", "training-step"] = "prediction"
    """The network for prediction, or its training step with a prediction graph for the weights so learned."""
    out: Annotated[Path | None, UNSET, tyro.conf.DisallowNone] = None
    """Folder of the files; by default `export` in the run's folder."""
    batch_size: Annotated[int | None, UNSET, tyro.conf.DisallowNone] = None
    """Images in a training step, by default those of the run; or in a network for ExecuTorch, by default 1."""
    optimiser: Annotated[Literal["sgd", "adam", "adamw"] | None, UNSET, tyro.conf.DisallowNone] = None
    """Optimiser of the training step; by default the run's."""
    learning_rate: Annotated[float | None, UNSET, tyro.conf.DisallowNone] = None
    """Learning rate of a step in C at the start; by default the run's."""
    momentum: Annotated[float | None, UNSET, tyro.conf.DisallowNone] = None
    """Momentum of sgd; by default the run's. Without any (0), a step in C keeps one number a weight, else two."""
    weight_decay: Annotated[float | None, UNSET, tyro.conf.DisallowNone] = None
    """Weight decay of the training step; by default the run's."""
    precision: Annotated[Precision | None, UNSET, tyro.conf.DisallowNone] = None
    """Weights of a network in ONNX; all numbers of a step in C, whose int8 learns by plain sgd."""
    spare_classes: Annotated[int | None, UNSET, tyro.conf.DisallowNone] = None
    """Room in C for classes that the device adds, by statistics of the training images of the run or of --data."""
    check: Annotated[bool, UNSET] = True
    """Leave out the check that an ONNX or ExecuTorch file predicts as the run does, on its test images or `--data`."""


def options(argv: Sequence[str]) -> type[Export]:
    """The options of the command, which do not depend on `argv`."""
    return Export


def run(chosen: Export, screen: Screen) -> dict[str, Any]:
    """The `files` written; after a check of them also `images`, `agree` and `largest_difference`.

    `agree` counts the images with the same prediction, `largest_difference` is that of any score.

    Raises:
        ValueError: no such run, options that it cannot have, or an exported network with other predictions.
    """
    if chosen.precision is not None and (chosen.format, chosen.what) not in (
        ("c", "training-step"),
        ("onnx", "prediction"),
    ):
        raise ValueError(
            "--precision is for a network with --format onnx, or a training step with --format c: others hold float32."
        )
    for name in OF_A_STEP:
        taken = chosen.what == "training-step" or (name == "batch_size" and chosen.format == "executorch")
        if getattr(chosen, name) is not None and not taken:
            raise ValueError(f"--{name.replace('_', '-')} is for a training step: add --what training-step.")
    if chosen.spare_classes is not None and chosen.format != "c":
        raise ValueError("--spare-classes is for --format c: other files have the network's classes.")
    if chosen.learning_rate is not None and chosen.format != "c":
        raise ValueError("--learning-rate is for --format c: in other formats it is an input of the step.")
    saved_run = open_run(chosen.run, "cpu", classes=chosen.format != "safetensors")
    test = _images(chosen, saved_run) if chosen.check and chosen.format in CHECKED else None
    out = chosen.out or chosen.run / "export"
    if chosen.format == "c":
        files = _export_c(chosen, saved_run, out)
    elif chosen.what == "training-step":
        files = export_training_step(saved_run.network, _step(chosen, saved_run), out, format=chosen.format)
    else:
        precision: Precision = chosen.precision or "float32"
        network, batch = saved_run.network, chosen.batch_size
        files = export_network(network, out, format=chosen.format, batch_size=batch, precision=precision)
    result = {
        "run": str(chosen.run),
        "format": chosen.format,
        "what": chosen.what,
        "files": [str(file) for file in files],
        "about": input_about(saved_run.network),
    }
    if test is not None:
        predicting = next(file for file in files if file.stem in ("model", "prediction"))
        read = _onnx if chosen.format == "onnx" else _executorch
        result.update(_compare(predicting, *read(predicting, saved_run.network.state_dict()), saved_run, test))
    return result


def show(result: dict[str, Any], screen: Screen) -> None:
    """The files, and the result of the check."""
    for file in result["files"]:
        screen.say(file)
    if result["format"] != "safetensors":
        screen.say(f"images: {result['about']['input']}")
    if "images" in result:
        screen.say(
            f"{result['agree']} of {result['images']} test images get the same class from {CHECKED[result['format']]}; "
            f"scores differ by {result['largest_difference']:.1e} at most"
        )


def _export_c(chosen: Export, saved_run: SavedRun, out: Path) -> list[Path]:
    """The files of a training step in C."""
    if chosen.what != "training-step":
        raise ValueError("A C file holds the training step, which also predicts: add --what training-step.")
    precision: Precision = chosen.precision or "float32"
    network, spare = saved_run.network, chosen.spare_classes or 0
    if spare and isinstance(network.rule, fo.rules.Hyperspherical) and not network.rule.summarised:
        name, options = source_of(chosen, saved_run)
        fo.summarise(network, fo.data.load(name, **options)[0])
    return export_c(network, out, precision=precision, spare_classes=spare, **_step_options(chosen))


def _step(chosen: Export, saved_run: SavedRun) -> Any:
    """The training step as a graph."""
    return training_step(saved_run.network, **_step_options(chosen))


def _step_options(chosen: Export) -> dict[str, Any]:
    """Options of a training step: the run's training config, except for options in `chosen`."""
    trained = read_config(chosen.run).get("training", {})
    known = (
        *("optimiser", "learning_rate", "weight_decay", "momentum", "clip", "batch_size"),
        *("body_rate", "layer_decay"),
    )
    given = {"batch_size": 128, **{name: trained[name] for name in known if name in trained}}
    return given | {name: own for name in known if (own := getattr(chosen, name, None)) is not None}


def _images(chosen: Export, saved_run: SavedRun) -> Images | Folder:
    """The test images for the check, for ExecuTorch some of them, which are read before anything is written.

    Raises:
        ValueError: they or onnxruntime cannot be found.
    """
    if chosen.format == "onnx" and importlib.util.find_spec("onnxruntime") is None:
        raise ValueError(
            "The check needs onnxruntime: pip install 'forward-only[onnx]', or leave it out with --no-check."
        )
    try:
        test = streamed_test_images(chosen, saved_run)[0]
    except (ValueError, OSError) as problem:
        raise ValueError(
            f"The check of the exported file needs test images: {str(problem).rstrip('.')}. Leave the check out "
            "with --no-check."
        ) from None
    if chosen.format == "onnx":
        return test
    return test.subset(torch.linspace(0, len(test) - 1, min(len(test), SOME)).long())


def _onnx(path: Path, weights: Mapping[str, torch.Tensor]) -> tuple[Scores, int]:
    """An ONNX file in onnxruntime, and how many images it is given at a time."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = {each.name: weights[each.name].numpy() for each in session.get_inputs() if each.name != "images"}
    return lambda images: session.run(["scores"], {"images": images.numpy(), **given})[0], 1000


def _executorch(path: Path, weights: Mapping[str, torch.Tensor]) -> tuple[Scores, int]:
    """An ExecuTorch file in its runtime, and how many images it is given at a time."""
    program = executorch_program(path.read_bytes())
    batch: int = program.metadata("forward").input_tensor_meta(0).sizes()[0]
    given = []
    if path.stem == "prediction":
        interface = json.loads((path.parent / "interface.json").read_text())
        given = [weights[name] for name in interface["prediction_inputs"][1:]]

    def scores(images: torch.Tensor) -> np.ndarray:
        filled = torch.cat([images, images[:1].expand(batch - len(images), -1, -1, -1)])
        return program.load_method("forward").execute([filled, *given])[0][: len(images)].numpy()

    return scores, batch


def _compare(path: Path, exported: Scores, batch: int, saved_run: SavedRun, test: Images | Folder) -> dict[str, Any]:
    """Compares an exported network's predictions with those of the run's network."""
    agree, difference = 0, 0.0
    for images in test.inputs_in_order(batch):
        assert isinstance(images, torch.Tensor)
        scores = torch.as_tensor(exported(images))
        with torch.no_grad():
            ours = saved_run.network(images)
        agree += int(alike(saved_run.network, scores, ours).sum())
        difference = max(difference, float((scores - ours).abs().max()))
    if agree < 0.99 * len(test):
        raise ValueError(f"{path} predicts otherwise than the run for {len(test) - agree} of {len(test)} images.")
    return {"images": len(test), "agree": agree, "largest_difference": difference}
