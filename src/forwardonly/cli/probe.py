"""`forwardonly probe`: what a classifier of a run's activations reaches, with all labels or a share of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import forwardonly as fo
from forwardonly.cli.held import OnData, source_of
from forwardonly.cli.parsing import UNSET
from forwardonly.cli.runs import SavedRun, open_run
from forwardonly.cli.screen import Screen, percent
from forwardonly.measure.probe import Blocks, Method
from forwardonly.network.storage import from_config

PROBES = "probes.jsonl"
"""File in the run's folder to which each probe adds a line."""


@dataclass(frozen=True, kw_only=True)
class ProbeRun(OnData):
    """Options of the command."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    data: Annotated[str | None, UNSET, tyro.conf.DisallowNone] = None
    """Data whose training images are learned from and whose test images are measured on; by default the run's."""
    method: Method = "ridge"
    """Ridge regression in closed form, logistic regression, or nearest neighbours by cosine (knn)."""
    labels_share: float = 1.0
    """Share of the labelled training images that is used, the same of every class."""
    blocks: Blocks = "all-but-first"
    """Blocks whose activations are read."""
    grid: int = 2
    """Maps are averaged over a grid of this many cells a side."""
    untrained: bool = False
    """Also probe the same network with random weights."""
    seed: int = 0
    """Seed of the draw of labelled images, and of those that are held out to choose the classifier's strength."""
    precision: Annotated[Literal["auto", "fp32", "bf16"] | None, UNSET, tyro.conf.DisallowNone] = None
    """Arithmetic of the blocks: auto, fp32 or bf16; by default the run's own."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda or cuda:N."""


def options(argv: Sequence[str]) -> type[ProbeRun]:
    """The options of the command, which do not depend on `argv`."""
    return ProbeRun


def run(chosen: ProbeRun, screen: Screen) -> dict[str, Any]:
    """The probe's accuracies and settings, which become a line of `probes.jsonl` in the run's folder, and the folder.

    Raises:
        ValueError: no such run, images that do not fit its network, or options out of range.
    """
    saved_run = open_run(chosen.run, chosen.device, classes=False)
    name, train, test = _labelled(chosen, saved_run)
    how: dict[str, Any] = {
        "method": chosen.method,
        "blocks": chosen.blocks,
        "grid": chosen.grid,
        "labels_share": chosen.labels_share,
        "seed": chosen.seed,
        "precision": chosen.precision or saved_run.result.get("precision", "auto"),
    }
    read = fo.probe(saved_run.network, train, test, **how)
    line = {
        "data": name,
        **how,
        "accuracy": read.accuracy,
        "validation_accuracy": read.validation_accuracy,
        "strength": read.strength,
        "features": read.features,
        "images": read.images,
        "test_images": len(test),
    }
    if chosen.untrained:
        line["untrained_accuracy"] = fo.probe(_untrained(saved_run), train, test, **how).accuracy
    result = {**line, "data_notes": list(train.notes), "run": str(chosen.run)}
    try:
        with (chosen.run / PROBES).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as problem:  # what was measured is shown all the same
        result["data_notes"].append(f"{chosen.run / PROBES} cannot be written: {problem.strerror or problem}")
    return result


def show(result: dict[str, Any], screen: Screen) -> None:
    """A table of accuracies, and what was read."""
    for note in result["data_notes"]:
        screen.say(note)
    rows = [["trained", percent(result["accuracy"])]]
    if "untrained_accuracy" in result:
        rows.append(["random weights", percent(result["untrained_accuracy"])])
    screen.table(f"probe on {result['test_images']} test images of {result['data']}", ["network", "test"], rows)
    screen.say(
        f"{result['method']} on {result['features']:,} features of {result['images']:,} labelled images, "
        f"strength {result['strength']:g}"
    )


def _labelled(chosen: ProbeRun, saved_run: SavedRun) -> tuple[str, fo.data.Images, fo.data.Images]:
    """The name of the data, their training and their test images.

    Raises:
        ValueError: it is not known on what data the run was trained, and none are named; or they cannot be read.
    """
    name, options = source_of(chosen, saved_run)
    train, _, test = fo.data.load(name, **options)
    return name, train, test


def _untrained(saved_run: SavedRun) -> fo.Network:
    """The run's network with fresh weights, and the preparation of images that the run fitted."""
    network = from_config(saved_run.network.config)
    network.prepare.load_state_dict(saved_run.network.prepare.state_dict())
    return network.to(saved_run.network.device)
