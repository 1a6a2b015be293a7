"""`forwardonly predict`: what a run says of image files: the class, the labels that are present, or numbers."""

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
from forwardonly.network.answers import answers

BATCH = 256
SHOWN = 3  # the likeliest classes in the table; `--json` and `--csv` have them all
NUMBERS = 6  # of a network that learns numbers, likewise
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
    """The folder of the run, for each image what the network says (`answers`), and the files not read.

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
        with torch.no_grad(), saved_run.network.evaluating():
            said = answers(saved_run.network, saved_run.network.scores(pixels), saved_run.classes)
        predictions += [
            {"image": str(file), **own, "changes": change}
            for file, own, change in zip(some, said, changes, strict=True)
        ]
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
    """One row per image: its class and the likeliest, the labels present, or numbers; then what was changed in it."""
    for sentence in result["passed_over"]:
        screen.say(sentence)
    if "csv" in result:
        _print_csv(result["predictions"])
        return
    predictions = result["predictions"]
    if "numbers" in predictions[0]:
        _show_numbers(predictions, screen)
    else:
        _show_likeliest(predictions, screen)
    changed = [f"{each['image']} was {each['changes']}" for each in predictions if each["changes"]]
    for line in changed[:CHANGES]:
        screen.say(line)
    if len(changed) > CHANGES:
        screen.say(f"and {len(changed) - CHANGES} more were changed to fit the network")


def _show_likeliest(predictions: Sequence[dict[str, Any]], screen: Screen) -> None:
    """A row per image: its class, or its labels with their probabilities, and the likeliest with theirs."""
    rows, several = [], "labels" in predictions[0]
    for prediction in predictions:
        shares = prediction["probabilities"]
        ranked = sorted(shares.items(), key=lambda entry: -entry[1])[:SHOWN]
        said = (
            prediction["class"]
            if not several
            else ", ".join(f"{name} {percent(shares[name])}" for name in prediction["labels"])
            or f"none of the {len(shares)}"
        )
        rows.append([prediction["image"], said, *(f"{name} {percent(share)}" for name, share in ranked)])
    places = min(SHOWN, len(predictions[0]["probabilities"]))
    columns = ["image", "labels present" if several else "class", *(f"likeliest {k + 1}" for k in range(places))]
    screen.table("predictions", columns, rows, words=2)


def _show_numbers(predictions: Sequence[dict[str, Any]], screen: Screen) -> None:
    """A row per image: its numbers, of many the first."""
    names = list(predictions[0]["numbers"])
    rows = [[each["image"], *(f"{each['numbers'][name]:.6g}" for name in names[:NUMBERS])] for each in predictions]
    screen.table("predictions", ["image", *(f"number {name}" for name in names[:NUMBERS])], rows)
    if len(names) > NUMBERS:
        screen.say(f"these are the first {NUMBERS} of {len(names)} numbers; --json and --csv have them all")


def _print_csv(predictions: Sequence[dict[str, Any]]) -> None:
    """A header and one line per image, in UTF-8; the classes' probabilities, or numbers, are in the last columns."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a redirected one may have an encoding without the classes' letters
        sys.stdout.reconfigure(encoding="utf-8")
    writer = csv.writer(sys.stdout, lineterminator="\n")
    first = predictions[0]
    values = "numbers" if "numbers" in first else "probabilities"
    columns = [name for name in ("image", "class", "labels", "probability", "changes") if name in first]
    writer.writerow([*columns, *first[values]])
    for each in predictions:
        row = {**each, "labels": "; ".join(each.get("labels", ()))}
        writer.writerow([*(row[name] for name in columns), *each[values].values()])


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
