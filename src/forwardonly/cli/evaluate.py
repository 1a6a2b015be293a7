"""`forwardonly evaluate`: a run's accuracy on test images, each block's own, and the confusion matrix."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import forwardonly as fo
from forwardonly.cli.held import OnData, streamed_test_images
from forwardonly.cli.parsing import UNSET
from forwardonly.cli.runs import open_run
from forwardonly.cli.screen import Screen, percent

WIDEST = 20  # classes of which the whole confusion matrix is shown, where the screen is wide enough


@dataclass(frozen=True, kw_only=True)
class Evaluate(OnData):
    """Options of the command."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    shift: int = 0
    """Also show each image moved by this many pixels along each diagonal, and sum the class scores; 0 for not."""
    mirror: bool = False
    """Also show each image mirrored, and sum the class scores."""
    batch_size: int = 1000
    """Images that go through the network at a time."""
    precision: Annotated[Literal["auto", "fp32", "bf16"] | None, UNSET, tyro.conf.DisallowNone] = None
    """Arithmetic of the blocks; by default the run's own."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda or cuda:N."""


def options(argv: Sequence[str]) -> type[Evaluate]:
    """The options of the command, which do not depend on `argv`."""
    return Evaluate


def run(chosen: Evaluate, screen: Screen) -> dict[str, Any]:
    """`result.json`'s object with fresh accuracies, the confusion matrix (rows true, columns predicted), the folder."""
    if chosen.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, not {chosen.batch_size}")
    views = fo.data.Views(shift=chosen.shift, mirror=chosen.mirror)
    saved_run = open_run(chosen.run, chosen.device)
    images, whole = streamed_test_images(chosen, saved_run)
    precision = chosen.precision or saved_run.result.get("precision", "auto")
    measured = fo.evaluate(saved_run.network, images, batch_size=chosen.batch_size, precision=precision, views=views)
    return {
        **saved_run.result,
        "test_accuracy": measured.accuracy,
        "block_accuracy": measured.block_accuracy,
        "confusion": measured.confusion.tolist(),
        "classes": list(saved_run.classes),
        "data": chosen.data or saved_run.data["name"],
        "images": len(images),
        "whole": whole,
        "data_notes": list(images.notes),
        "views": asdict(views),
        "weights": fo.measure.weights(saved_run.network)._asdict(),
        "run": str(chosen.run),
    }


def show(result: dict[str, Any], screen: Screen) -> None:
    """Two tables: accuracies, and the confusion matrix or, with many classes, the most common confusions."""
    rows = [[f"block {k + 1}", percent(accuracy)] for k, accuracy in enumerate(result["block_accuracy"])]
    rows.append(["network", percent(result["test_accuracy"])])
    seen = ", several views of each together" if any(result["views"].values()) else ""
    which = f"all {result['images']} images" if result["whole"] else f"{result['images']} test images"
    for note in result["data_notes"]:
        screen.say(note)
    screen.table(f"accuracy on {which} of {result['data']}{seen}", ["", "test"], rows)
    counted = fo.measure.Weights(**result["weights"])
    screen.say(f"weights: {counted.bodies:,} in bodies, {counted.rules:,} in rules' heads ({counted.share:.1%} of all)")
    classes, confusion = result["classes"], result["confusion"]
    table = [[name, *(count or "" for count in row)] for name, row in zip(classes, confusion, strict=True)]
    if len(classes) <= WIDEST and screen.fits(["", *classes], table):
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
