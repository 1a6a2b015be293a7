"""`forwardonly evaluate`: a run's accuracy on test images, each block's own, and what was taken for what."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

import forwardonly as fo
from forwardonly.cli.parsing import UNSET, Common
from forwardonly.cli.runs import Kept, open_run
from forwardonly.cli.screen import Screen, percent

WIDEST = 20  # classes whose confusion matrix still fits a screen


@dataclass(frozen=True, kw_only=True)
class Evaluate(Common):
    """Options of the command."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    data: Annotated[str | None, UNSET, tyro.conf.DisallowNone] = None
    """Data set whose test images are taken; by default the one that the run was trained on."""
    data_dir: Annotated[Path | None, UNSET, tyro.conf.DisallowNone] = None
    """Folder where data sets lie; by default the run's own, then $FORWARDONLY_DATA, then the user's cache."""
    shift: int = 0
    """Show each image moved by so many pixels along each diagonal too, and add up the class scores; 0 for not."""
    mirror: bool = False
    """Show each image mirrored too, and add up the class scores."""
    batch_size: int = 1000
    """Images that go through the network at a time."""
    precision: Annotated[Literal["auto", "fp32", "bf16"] | None, UNSET, tyro.conf.DisallowNone] = None
    """Arithmetic of the blocks; by default the run's own."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda or cuda:N."""


def options(argv: Sequence[str]) -> type[Evaluate]:
    """The options, the same whatever is in `argv`."""
    return Evaluate


def run(chosen: Evaluate, screen: Screen) -> dict[str, Any]:
    """`result.json`'s object with fresh accuracies, the confusion matrix (rows true, columns predicted), the folder."""
    if chosen.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, not {chosen.batch_size}")
    views = fo.data.Views(shift=chosen.shift, mirror=chosen.mirror)
    kept = open_run(chosen.run, chosen.device)
    images = _test_images(chosen, kept)
    precision = chosen.precision or kept.result.get("precision", "auto")
    measured = fo.evaluate(kept.network, images, batch_size=chosen.batch_size, precision=precision, views=views)
    return {
        **kept.result,
        "test_accuracy": measured.accuracy,
        "block_accuracy": measured.block_accuracy,
        "confusion": measured.confusion.tolist(),
        "classes": list(kept.classes),
        "data": chosen.data or kept.data["name"],
        "images": len(images),
        "views": asdict(views),
        "weights": fo.measure.weights(kept.network)._asdict(),
        "run": str(chosen.run),
    }


def show(result: dict[str, Any], screen: Screen) -> None:
    """Two tables: accuracies, and the confusion matrix or the commonest confusions if there are many classes."""
    rows = [[f"block {k + 1}", percent(accuracy)] for k, accuracy in enumerate(result["block_accuracy"])]
    rows.append(["network", percent(result["test_accuracy"])])
    seen = ", several views of each together" if any(result["views"].values()) else ""
    screen.table(f"accuracy on {result['images']} test images of {result['data']}{seen}", ["", "test"], rows)
    counted = fo.measure.Weights(**result["weights"])
    screen.say(f"weights: {counted.bodies:,} in bodies, {counted.rules:,} in rules ({counted.share:.1%} of all)")
    classes, confusion = result["classes"], result["confusion"]
    if len(classes) <= WIDEST:
        table = [[name, *(count or "" for count in row)] for name, row in zip(classes, confusion, strict=True)]
        screen.table("confusion: true class in rows, predicted class in columns", ["", *classes], table)
        return
    wrong = [
        (count, classes[true], classes[predicted])
        for true, row in enumerate(confusion)
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    worst = sorted(wrong, key=lambda entry: -entry[0])[:WIDEST]
    screen.table("commonest confusions", ["true", "predicted", "times"], [[a, b, n] for n, a, b in worst], words=2)


def _test_images(chosen: Evaluate, kept: Kept) -> fo.data.Images:
    """Test images with labels that count the run's classes."""
    name = chosen.data or kept.data["name"]
    size = None if name in fo.data.NAMES or Path(name).is_file() else kept.data["image_size"]
    images = fo.data.load(name, data_dir=chosen.data_dir or kept.data["data_dir"], image_size=size).test
    strange = [each for each in images.classes if each not in kept.classes]
    if strange:
        raise ValueError(f"{name} has the class {strange[0]!r}, which {kept.folder} was not trained on")
    places = torch.tensor([kept.classes.index(each) for each in images.classes])
    return replace(images, labels=places[images.labels], classes=kept.classes)
