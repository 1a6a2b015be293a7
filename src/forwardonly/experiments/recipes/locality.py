"""Recipe for "The Price of Locality", arXiv 2609.33240: residual networks cut by walls, beside backprop.

Published: with a linear read-out and five walls local cross-entropy loses six points to backprop. Its local side was
trained by Adam at one rate, without the recipe of backprop. Here all arms of a net have one recipe, that of `best`:
the paper's local cross-entropy, which is `projection` with a classifier of the channels' means, `best` and `bilinear`,
at five walls and at one behind every residual block. At scale full the paper's own training stands beside it.

The paper's ResNet-24 is left out: we do not know its stages.
"""

from collections.abc import Mapping

from forwardonly.experiments.recipes.convolutional import Line, Options, runs_of
from forwardonly.experiments.recipes.table import Row, Scale, Table, option_names, reread, test_accuracy
from forwardonly.rules import PRESETS
from forwardonly.rules.defaults import MUON

PUBLISHED: dict[str, Mapping[str, float]] = {
    "resnet18": {"backprop": 95.15, "local cross-entropy": 89.06},
    "resnet56": {"backprop": 95.68, "local cross-entropy": 89.59},
}
"""Test accuracies in % of each net, the local one at five walls."""
WALLS: dict[str, Options] = {"five walls": {"walls": 5}, "all walls": {}}
MEANS: Options = {"rule.features": 1}
"""A linear classifier of the means of channels."""
RULES: dict[str, tuple[str, Options]] = {
    "best": ("best", {}),
    "bilinear": ("bilinear", {}),
    "local cross-entropy": ("projection", MEANS),
}
NARROW: dict[str, Options] = {"resnet18": {}, "resnet56": {"rule.channels": 32}}
"""Channels of `best`'s heads: ResNet-56 has 16 to 64 of its own."""

RECIPE: Options = {
    **option_names(MUON),
    "rule.label-smoothing": PRESETS["best"].options["label_smoothing"],
    "flip": "alternating",
}
EPOCHS = {"resnet18": 16, "resnet56": 10}
"""Unless a scale has its own: on a core with native bf16 a row takes three to four hours, and one."""
LENGTH: dict[Scale, Options] = {
    "full": {"epochs": 200, "batch-size": 128, "crop": 4},
    "cpu": {"crop": 2},
    "quick": {"epochs": 1, "crop": 2, "width": 0.25, "limit": 300, "batch-size": 30},
}
PAPERS: dict[str, Options] = {  # the paper's facts that we have name no schedule of backprop: a cosine is our choice
    "local cross-entropy": {
        "optimiser": "adam",
        "learning-rate": 1e-3,
        "lr-schedule": "step",
        "final-rate": 0.1,
    },
    "backprop": {"optimiser": "sgd", "learning-rate": 0.1, "weight-decay": 5e-4},
}


def lines(scale: Scale) -> list[Line]:
    """The runs of the table; all training images are learned from, so that nothing is chosen by held-out ones."""
    found = []
    for net, papers in PUBLISHED.items():
        common = {**RECIPE, "epochs": EPOCHS[net], **LENGTH[scale]}
        found.append(Line(f"backprop, {net}", papers["backprop"], "cifar-10", "backprop", net, common))
        for walls, cut in WALLS.items():
            for name, (rule, own) in RULES.items():
                options = {**common, **cut, **own, "readout": "skip-first", **(NARROW[net] if rule == "best" else {})}
                paper = papers.get(name) if walls == "five walls" else None
                found.append(Line(f"{name}, {net}, {walls}", paper, "cifar-10", rule, net, options))
        if scale == "full":
            theirs = {"epochs": 200, "batch-size": 128, "crop": 4, "flip": "random"}
            local = {**theirs, **PAPERS["local cross-entropy"], **MEANS, **WALLS["five walls"], "readout": "last"}
            arms = (
                ("backprop", "backprop", {**theirs, **PAPERS["backprop"]}),
                ("local cross-entropy", "projection", local),
            )
            for name, rule, options in arms:
                row = f"{name}, {net}, the paper's training"
                found.append(Line(row, papers[name], "cifar-10", rule, net, options))
    return found


def table(scale: Scale) -> Table:
    """The whole table: two nets."""
    runs = lines(scale)
    rows = []
    for run in runs:
        rows.append(Row(run.name, run.paper, test_accuracy(run.name)))
        if run.options.get("readout") == "skip-first":
            rows.append(Row(f"{run.name}, last block alone", None, reread(run.name, "last")))
    return Table(
        title="The Price of Locality",
        source="arXiv 2609.33240",
        unit="test accuracy (%)",
        **runs_of(runs),
        rows=tuple(rows),
        seeds=1 if scale == "quick" else 3,
        compared=tuple(tuple(run.name for run in runs if run.body == net) for net in PUBLISHED),
        says=(
            "Five walls are behind the first convolution and each stage of ResNet-18, and behind as nearly equal parts "
            "of ResNet-56. All walls are one behind every residual block. The scores of all blocks but the first are "
            "added up, or the last block is read alone.",
            SAYS[scale],
        ),
    )


SAYS: dict[Scale, str] = {
    "full": "Scale full: 200 epochs as in the paper, whose local side is trained by Adam without weight decay, "
    "at a tenth of the rate in the second half.",
    "cpu": "Scale cpu: 16 epochs of ResNet-18 and 10 of ResNet-56 in place of 200, for local rules and backprop alike.",
    "quick": "Scale quick: nets a quarter as wide and one epoch of 300 images: it shows that everything runs.",
}
