"""`forwardonly predict`: image files become class names, with a probability for every class."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

import forwardonly as fo
from forwardonly.cli.parsing import Common
from forwardonly.cli.runs import open_run
from forwardonly.cli.screen import Screen, percent

BATCH = 256
SHOWN = 3  # the likeliest classes in the table; `--json` has them all


@dataclass(frozen=True, kw_only=True)
class Predict(Common):
    """Options of the command."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...", help_behavior_hint="")]
    """Image files, and folders of them."""
    resize: bool = False
    """Resize and cut images of another size to the network's, as training with --image-size does."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda or cuda:N."""


def options(argv: Sequence[str]) -> type[Predict]:
    """The options, the same whatever is in `argv`."""
    return Predict


def run(chosen: Predict, screen: Screen) -> dict[str, Any]:
    """The folder of the run, and for each image its class and every class's probability."""
    kept = open_run(chosen.run, chosen.device)
    files = [file for path in chosen.images for file in _files(path)]
    if not files:
        raise ValueError("name at least one image file or a folder of them; see forwardonly predict --help")
    channels, height, width = kept.network.shape
    resize = chosen.resize or kept.data["image_size"] is not None
    if resize and height != width:
        raise ValueError(f"images can be resized to squares only, but the network takes {width} x {height} pixels")
    predictions = []
    for start in range(0, len(files), BATCH):
        some = files[start : start + BATCH]
        pixels = fo.data.read_images(some, shape=(channels, height, width), image_size=height if resize else None)
        for file, shares in zip(some, kept.network.probabilities(pixels).tolist(), strict=True):
            likeliest = max(range(len(shares)), key=shares.__getitem__)
            predictions.append(
                {
                    "image": str(file),
                    "class": kept.classes[likeliest],
                    "index": likeliest,
                    "probability": shares[likeliest],
                    "probabilities": dict(zip(kept.classes, shares, strict=True)),
                }
            )
    return {"run": str(chosen.run), "predictions": predictions}


def show(result: dict[str, Any], screen: Screen) -> None:
    """A row an image: its class and the likeliest classes."""
    rows = []
    for prediction in result["predictions"]:
        ranked = sorted(prediction["probabilities"].items(), key=lambda entry: -entry[1])[:SHOWN]
        rows.append([prediction["image"], prediction["class"], *(f"{name} {percent(share)}" for name, share in ranked)])
    places = min(SHOWN, len(result["predictions"][0]["probabilities"]))
    screen.table("predictions", ["image", "class", *(f"likeliest {k + 1}" for k in range(places))], rows, words=2)


def _files(path: Path) -> list[Path]:
    """The path itself, or the images in it if it is a folder."""
    if not path.is_dir():
        return [path]
    files = fo.data.list_images(path)
    if not files:
        raise ValueError(f"{path}: there is no image in this folder")
    return files
