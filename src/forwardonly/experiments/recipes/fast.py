"""Time to accuracy: recipes that aim at an accuracy in little time, and backprop with the same training config.

Seconds are those of the whole run except for starting Python: from reading the data set's files to the final test
accuracy, with a checkpoint after each epoch. They are only valid if nothing else runs on the machine. Rates and lengths
were chosen on held-out training images; the form of `best` was chosen by seed 0's test images of CIFAR-10 (log/). The
test accuracy over several views of each image, shifted and mirrored, is a row of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forwardonly.data import Views
from forwardonly.experiments.batch import Finished
from forwardonly.experiments.compare import Arm
from forwardonly.experiments.recipes.table import (
    Figure,
    Row,
    Scale,
    Table,
    option_names,
    test_accuracy,
    trained,
)
from forwardonly.measure import evaluate
from forwardonly.names import as_words
from forwardonly.rules import PRESETS
from forwardonly.rules.defaults import MUON

PLAIN = {"rule": "projection", "rule.features": 256, "rule.label-smoothing": 0.1, "readout": "last"}
"""A linear classifier on few features: enough for digits, and faster."""
BEST = {"rule": "best", "readout": "skip-first"}
NARROW = {**BEST, "rule.channels": 64}
"""Heads of half the width, for blocks of half the width."""
SGD = {"optimiser": "sgd", "weight-decay": 5e-4, "batch-size": 250, "rule.label-smoothing": 0.1}
SHIFTED = {
    **option_names(MUON),
    "rule.label-smoothing": PRESETS["best"].options["label_smoothing"],
    "crop": 2,
    "flip": "alternating",
}
"""The training config of `best`, with small shifts."""


@dataclass(frozen=True)
class Fast:
    """A data set, the goal on it, and the recipe."""

    data: str
    goals: Mapping[Scale, str]
    """Test accuracy and time that the local arm aims at."""
    options: Mapping[Scale, Mapping[str, Any]]
    """Options of `forwardonly train` for both arms, by name, without their dashes."""
    views: Views
    local: Mapping[Scale, Mapping[str, Any]]
    """The local arm's rule and readout."""


RECIPES = {
    "mnist-fast": Fast(
        "mnist",
        {"full": "98.5 % in 20 s of 2 CPU cores", "quick": "one epoch, to see that it runs"},
        {
            "full": {"body": "cnn", "width": 0.25, "epochs": 3, "learning-rate": 0.2, **SGD},
            "quick": {"body": "cnn", "width": 0.1, "epochs": 1, "learning-rate": 0.2, **SGD},
        },
        Views(shift=1),
        local={"full": PLAIN, "quick": PLAIN},
    ),
    "fashion-fast": Fast(
        "fashion-mnist",
        {"full": "92 % in 3 minutes of 2 CPU cores", "quick": "one epoch, to see that it runs"},
        {
            "full": {"body": "six", "width": 0.5, "epochs": 4, **SHIFTED, "crop": 1},
            "quick": {"body": "six", "width": 0.1, "epochs": 1, **SHIFTED, "crop": 1},
        },
        Views(shift=1, mirror=True),
        local={"full": NARROW, "quick": NARROW},
    ),
    "cifar-10-fast": Fast(
        "cifar-10",
        {"full": "90 % in 30 minutes of 2 CPU cores", "quick": "80 % in 3 minutes of 2 CPU cores"},
        {
            "full": {"body": "six", "width": 1.0, "epochs": 16, **SHIFTED},
            "quick": {"body": "six", "width": 0.5, "epochs": 4, **SHIFTED},
        },
        Views(shift=1, mirror=True),
        local={"full": BEST, "quick": NARROW},
    ),
}
"""Every recipe here by the name that `forwardonly reproduce` takes."""


def table(name: str, scale: Scale) -> Table:
    """A recipe as `forwardonly reproduce` takes it: accuracy, seconds, and accuracy with augmented test images."""
    recipe = RECIPES[name]
    own = {"local": recipe.local[scale], "backprop": {"rule": "backprop"}}
    arms = tuple(Arm(arm, tuple(as_words({**rule, **recipe.options[scale]}))) for arm, rule in own.items())
    rows = []
    for arm in arms:
        rows += [
            Row(f"{arm.name}: test accuracy, %", None, test_accuracy(arm.name)),
            Row(f"{arm.name}: seconds, files to test figure", None, _seconds(arm.name)),
            Row(f"{arm.name}: test accuracy of many views, %", None, _of_views(arm.name, recipe)),
        ]
    return Table(
        title=f"Time to accuracy on {recipe.data}",
        source="this project",
        unit="as each row says",
        arms=arms,
        data={arm.name: recipe.data for arm in arms},
        rows=tuple(rows),
        seeds=3 if scale == "full" else 1,
        says=(
            f"Goal at scale {scale}: {recipe.goals[scale]}. It is a goal; the rows are what was measured. Seconds are "
            "only valid if nothing else ran at the same time.",
            "Backprop's record on CIFAR-10, on an A100: 94 % in 2.6 s, 96 % in 27 s (airbench, arXiv 2404.00498).",
        ),
    )


def _seconds(arm: str) -> Figure:
    return Figure((arm,), lambda runs: float(runs[arm].result["total_seconds"]))


def _of_views(arm: str, recipe: Fast) -> Figure:
    def figure(runs: Mapping[str, Finished]) -> float:
        network, test = trained(runs[arm])
        return 100 * evaluate(network, test, views=recipe.views).accuracy

    return Figure((arm,), figure)
