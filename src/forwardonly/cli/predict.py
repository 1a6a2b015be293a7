"""`forwardonly predict`: classifies image files, with a probability for every class."""

import csv
import glob
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

import forwardonly as fo
from forwardonly.cli.parsing import Common
from forwardonly.cli.runs import open_run
from forwardonly.cli.screen import Screen, percent

BATCH = 256
SHOWN = 3  # the likeliest classes in the table; `--json` and `--csv` have them all
CHANGES = 10  # lines about changed images
MAX_INPUT = 256 * 2**20  # bytes of an image from standard input


@dataclass(frozen=True, kw_only=True)
class Predict(Common):
    """Options of the command."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...", help_behavior_hint="")]
    """Image files, folders of them, patterns such as 'photos/**/*.png', and `-` for one from standard input."""
    exact: bool = False
    """Refuse images of another size or colour than the network's, instead of converting them."""
    csv: bool = False
    """Print comma-separated values on standard output, one line per image."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda or cuda:N."""


def options(argv: Sequence[str]) -> type[Predict]:
    """The options of the command, which do not depend on `argv`."""
    return Predict


def run(chosen: Predict, screen: Screen) -> dict[str, Any]:
    """The folder of the run, for each image its class and every class's probability, and the files not read.

    `failures` could not be read, and `passed_over` says in sentences what of a folder is no image.
    """
    if chosen.csv and chosen.json:
        raise ValueError("choose one of --csv and --json")
    saved_run = open_run(chosen.run, chosen.device)
    files = [file for path in chosen.images for file in _files(path)]
    passed = [sentence for path in chosen.images if path.is_dir() for sentence in fo.data.passed_over(path)]
    if not files:
        raise ValueError("name at least one image file or a folder of them; see forwardonly predict --help")
    channels, height, width = saved_run.network.shape
    predictions, failures = [], []
    for start in range(0, len(files), BATCH):
        batch = files[start : start + BATCH]
        some, pixels, changes, unread = _read(batch, (channels, height, width), exact=chosen.exact)
        failures += unread
        if not some:
            continue
        rows = saved_run.network.probabilities(pixels).tolist()
        for file, change, shares in zip(some, changes, rows, strict=True):
            likeliest = max(range(len(shares)), key=shares.__getitem__)
            predictions.append(
                {
                    "image": str(file),
                    "class": saved_run.classes[likeliest],
                    "index": likeliest,
                    "probability": shares[likeliest],
                    "probabilities": dict(zip(saved_run.classes, shares, strict=True)),
                    "changes": change,
                }
            )
    if not predictions:
        raise ValueError(failures[0]["reason"])
    reasons = "; ".join(failure["reason"] for failure in failures)
    problem = {"problem": f"not done for {len(failures)}: {reasons}"} if failures else {}
    return {
        "run": str(chosen.run),
        "predictions": predictions,
        "failures": failures,
        "passed_over": passed,
        **problem,
        **({"csv": True} if chosen.csv else {}),  # for `show`; there is no --json beside it
    }


def _read(
    files: Sequence[Path | fo.data.InMemory], shape: tuple[int, int, int], *, exact: bool
) -> tuple[Sequence[Path | fo.data.InMemory], torch.Tensor, list[str], list[dict[str, str]]]:
    """(files that could be read, their pixels, how each was changed, {"image", "reason"} of the others)."""
    try:
        return files, *fo.data.read_adapted(files, shape, exact=exact), []
    except ValueError as problem:
        if len(files) == 1:
            return [], torch.empty(0), [], [{"image": str(files[0]), "reason": str(problem)}]
    parts = [_read([file], shape, exact=exact) for file in files]
    return (
        [file for some, *_ in parts for file in some],
        torch.cat([pixels for some, pixels, *_ in parts if some] or [torch.empty(0)]),
        [change for *_, changes, _ in parts for change in changes],
        [failure for *_, failures in parts for failure in failures],
    )


def show(result: dict[str, Any], screen: Screen) -> None:
    """One row per image: its class and the likeliest classes; then how images were changed to fit the network."""
    for sentence in result["passed_over"]:
        screen.say(sentence)
    if "csv" in result:
        _print_csv(result["predictions"])
        return
    rows = []
    for prediction in result["predictions"]:
        ranked = sorted(prediction["probabilities"].items(), key=lambda entry: -entry[1])[:SHOWN]
        rows.append([prediction["image"], prediction["class"], *(f"{name} {percent(share)}" for name, share in ranked)])
    places = min(SHOWN, len(result["predictions"][0]["probabilities"]))
    screen.table("predictions", ["image", "class", *(f"likeliest {k + 1}" for k in range(places))], rows, words=2)
    changed = [f"{each['image']} was {each['changes']}" for each in result["predictions"] if each["changes"]]
    for line in changed[:CHANGES]:
        screen.say(line)
    if len(changed) > CHANGES:
        screen.say(f"and {len(changed) - CHANGES} more were changed to fit the network")


def _print_csv(predictions: Sequence[dict[str, Any]]) -> None:
    """A header and one line per image, in UTF-8; the classes' probabilities are in the last columns."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a redirected one may have an encoding without the classes' letters
        sys.stdout.reconfigure(encoding="utf-8")
    writer = csv.writer(sys.stdout, lineterminator="\n")
    columns = ["image", "class", "probability", "changes"]
    writer.writerow([*columns, *predictions[0]["probabilities"]])
    for each in predictions:
        writer.writerow([*(each[name] for name in columns), *each["probabilities"].values()])


def _files(path: Path) -> Iterator[Path | fo.data.InMemory]:
    """The image itself, those in a folder, those that match a pattern, or that of standard input for `-`."""
    if str(path) == "-":
        content = sys.stdin.buffer.read(MAX_INPUT + 1)
        if len(content) > MAX_INPUT:
            raise ValueError(f"standard input: more than {MAX_INPUT:,} bytes are not taken for an image")
        yield fo.data.InMemory("standard input", content)
    elif path.is_dir():
        found = fo.data.list_images(path)
        if not found:
            raise ValueError("; ".join([f"{path}: there is no image in this folder", *fo.data.passed_over(path)]))
        yield from found
    elif not path.exists() and glob.has_magic(str(path)):
        matches = [match for name in sorted(glob.glob(str(path), recursive=True)) if (match := Path(name)).is_file()]
        if not matches:
            raise ValueError(f"{path}: no file fits this pattern")
        yield from matches
    else:
        yield path
