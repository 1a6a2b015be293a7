"""`forwardonly diagnose`: free-riding, channel assignments and locality of a run, block by block."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

import forwardonly as fo
from forwardonly.cli.held import OnData, test_images
from forwardonly.cli.runs import open_run
from forwardonly.cli.screen import Screen, percent
from forwardonly.experiments import diagnosis
from forwardonly.measure.free_riding import require_wrong_labels


@dataclass(frozen=True, kw_only=True)
class Diagnose(OnData):
    """Options of the command."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run; the figures are written there, as diagnosis.html."""
    seed: int = 0
    """Seed of the wrong label that each image is compared with."""
    locality: bool = False
    """Also audit whether any block's loss changes an earlier block's gradient."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda or cuda:N."""


def options(argv: Sequence[str]) -> type[Diagnose]:
    """The options of the command, which do not depend on `argv`."""
    return Diagnose


def run(chosen: Diagnose, screen: Screen) -> dict[str, Any]:
    """Measures free-riding on the run's test images, and draws it together with the run's history."""
    saved_run = open_run(chosen.run, chosen.device)
    require_wrong_labels(saved_run.network)  # before its data are looked for
    images, whole = test_images(chosen, saved_run)
    found = fo.measure.diagnose(
        saved_run.network, images, seed=chosen.seed, precision=saved_run.result.get("precision", "auto")
    ).as_json()
    found["assignments"] = [assignment.as_json() for assignment in fo.measure.assignments(saved_run.network)]
    page = diagnosis.write(chosen.run, found)
    if chosen.locality:
        found["leaks"] = [leak._asdict() for leak in fo.measure.leaks(saved_run.network, images)]
    return {
        **found,
        "data": chosen.data or saved_run.data["name"],
        "images": len(images),
        "whole": whole,
        "data_notes": list(images.notes),
        "report": str(page),
        "run": str(chosen.run),
    }


def show(result: dict[str, Any], screen: Screen) -> None:
    """A line a block."""
    names = ["margin", "prior_margin", "attenuation", "starvation", "separation"]
    rows = [
        [f"block {k + 1}", *(f"{block[name]:.3g}" for name in names), percent(block["accuracy"])]
        for k, block in enumerate(result["blocks"])
    ]
    columns = ["", "margin", "prior margin", "attenuation R", "starvation", "separation", "own accuracy"]
    for note in result["data_notes"]:
        screen.say(note)
    which = f"all {result['images']} images" if result["whole"] else f"{result['images']} test images"
    screen.table(f"free-riding, on {which} of {result['data']}", columns, rows)
    if result["law_slope"] is not None:
        screen.say(f"slope of log R on P: {result['law_slope']:.3f}; -beta gamma is {result['law_predicted']:.3f}")
    for leak in result.get("leaks", ()):
        later, earlier = leak["perturbed"] + 1, leak["moved"] + 1
        screen.say(f"LEAK: the loss of block {later} moves {leak['parameter']} of block {earlier}")
    if result.get("leaks") == []:
        screen.say("local: no block's loss moves a block before it; each was made larger in turn")
    screen.say(f"figures: {result['report']}")
