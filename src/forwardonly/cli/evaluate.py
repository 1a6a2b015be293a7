"""`forwardonly evaluate`: a run's accuracy on test images, each block's own, and the confusion matrix."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import forwardonly as fo
from forwardonly.cli.parsing import UNSET, Common
from forwardonly.cli.runs import SavedRun, open_run
from forwardonly.cli.screen import Screen, percent
from forwardonly.data.matching import digest, named_as
from forwardonly.training.runs.folder import DIGEST

WIDEST = 20  # classes whose confusion matrix still fits a screen


@dataclass(frozen=True, kw_only=True)
class Evaluate(Common):
    """Options of the command."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    data: Annotated[str | None, UNSET, tyro.conf.DisallowNone] = None
    """Data set whose test images are used, by default the one that the run was trained on; of a folder or file without
    a test part all images are.
    """
    data_dir: Annotated[Path | None, UNSET, tyro.conf.DisallowNone] = None
    """Folder of the data sets; by default the run's own, then $FORWARDONLY_DATA, then the user's cache."""
    image_size: Annotated[int | None, UNSET, tyro.conf.DisallowNone] = None
    """Resize and crop the images of a folder to squares of this many pixels; by default as the run did."""
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
    images, whole = _images(chosen, saved_run)
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
    screen.table(f"accuracy on {which} of {result['data']}{seen}", ["", "test"], rows)
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


def _images(chosen: Evaluate, saved_run: SavedRun) -> tuple[fo.data.Images, bool]:
    """(images to measure on, whether they are all of a set), whose labels are indices into the run's classes."""
    known = saved_run.trained_on
    if chosen.data is None and known is None:
        raise ValueError(f"{saved_run.folder} was trained in Python and says nothing of its data: name a set by --data")
    name = chosen.data or saved_run.data["name"]
    size = chosen.image_size
    if known is not None and size is None and os.path.isdir(name) and name not in fo.data.NAMES:
        size = known["image_size"]
    own = known is not None and _place(name) == _place(known["name"])  # has images that it was trained on
    where = chosen.data_dir or (known or {}).get("data_dir")
    images, whole = fo.data.load_test(name, data_dir=where, image_size=size, whole=not own)
    if whole and (held := _held_out(saved_run, name, size)) is not None:
        images, whole = held, False
    _, height, width = saved_run.network.shape
    if os.path.isdir(name) and name not in fo.data.NAMES and height == width and images.shape[1:] != (height, width):
        found = " x ".join(map(str, images.shape[1:]))
        wanted = f"{height} x {width}: give --image-size {width}"
        raise ValueError(f"the images in {name} are {found} and the network's {wanted}")
    return named_as(images, saved_run.classes, str(saved_run.folder)), whole


def _held_out(saved_run: SavedRun, name: str, size: int | None) -> fo.data.Images | None:
    """The test images of a folder or file that the network has learned from, known by its content; else None."""
    learned_from = saved_run.config.get(DIGEST)
    if not isinstance(learned_from, str):
        return None
    try:
        validation = (saved_run.trained_on or {}).get("validation", 0)
        train, _, test = fo.data.load(name, validation=validation, image_size=size)
    except ValueError:  # of one class, or too small to be split
        return None
    return test if digest(train) == learned_from.partition("-")[0] else None


def _place(name: str) -> str:
    """A known set's name, or the absolute path of a folder or file."""
    return name if name in fo.data.NAMES else str(Path(name).expanduser().resolve())
