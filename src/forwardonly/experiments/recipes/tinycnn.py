"""Recipe for the channel rules on their authors' small net, with the ablations of the learnable one.

Static rule: DeeperForward, ICLR 2025, whose figures are the published ones. Learnable rule: arXiv 2606.09928, which has
no figures of this net. Its parts are left out one by one: the entropy term, the orthogonality term, and the readout
that weighs blocks by their loss, beside which stands the plain sum of blocks 2 to 4 by the same trained networks.
"""

from forwardonly.experiments.recipes.convolutional import (
    AUGMENTED,
    HELD_OUT,
    LCCA_MNIST,
    PLAIN,
    SHORT,
    STEEP,
    VOTES,
    WITHOUT,
    Line,
    Options,
    runs_of,
)
from forwardonly.experiments.recipes.table import Row, Scale, Table, reread, test_accuracy

PUBLISHED = {"cifar-10": 79.49, "mnist": 99.50, "fashion-mnist": 91.83}
"""The static rule's test accuracies in %."""
PAPERS: Options = {
    "epochs": 150,
    "batch-size": 128,
    "learning-rate": 0.03,
    "final-rate": 0.1,
    "weight-decay": 5e-4,
    "clip": 1.0,
    "rule.label-smoothing": 0.1,
}
LENGTH: dict[Scale, Options] = {
    "full": PAPERS,
    "cpu": {**SHORT, "epochs": 5},
    "quick": {**SHORT, "width": 0.1, "epochs": 1, "limit": 600, "batch-size": 50},
}


def lines(scale: Scale) -> list[Line]:
    """The runs of the table."""
    common = {**LENGTH[scale], **PLAIN, **HELD_OUT}
    short = scale != "full"
    own: dict[str, Options] = {
        "channel-static": {**common, "readout": "skip-first", **({"rule.scale": STEEP} if short else {})},
        "channel-learnable": {**common, "readout": "validation", **(VOTES if short else {})},
        "backprop": common,
    }
    found = []
    for data, paper in PUBLISHED.items():
        for rule, options in own.items():
            learnable = rule == "channel-learnable"
            options = {**options, **(LCCA_MNIST if learnable and data == "mnist" else {})}
            published = paper if rule == "channel-static" else None
            found.append(Line(f"{rule}, {data}", published, data, rule, "tinycnn", options))
    changes = [("channel-learnable", name, change) for name, change in WITHOUT.items()]
    changes += [(rule, "augmented", AUGMENTED) for rule in own]
    for rule, name, change in changes:
        options = {**own[rule], **change}
        found.append(Line(f"{rule}, cifar-10, {name}", None, "cifar-10", rule, "tinycnn", options))
    return found


def table(scale: Scale) -> Table:
    """The whole table: three data sets."""
    runs = lines(scale)
    rows = []
    for run in runs:
        rows.append(Row(run.name, run.paper, test_accuracy(run.name)))
        if run.rule == "channel-learnable":
            rows.append(Row(f"{run.name}, uniform readout", None, reread(run.name, "skip-first")))
    compared = tuple(
        tuple(run.name for run in runs if run.data == data and run.rule != "backprop" and "augmented" not in run.name)
        for data in PUBLISHED
    )
    return Table(
        title="Channel rules on TinyCNN",
        source="DeeperForward, ICLR 2025; Ghader et al. 2026, arXiv 2606.09928",
        unit="test accuracy (%)",
        **runs_of(runs),
        rows=tuple(rows),
        seeds=1 if scale == "quick" else 3,
        compared=compared,
        says=(
            "A uniform readout is the sum of blocks 2 to 4, which is the static rule's too; the learnable rule's own "
            "weighs all blocks by their loss on held-out images. The first block does not predict in the papers.",
            SAYS[scale],
        ),
    )


SAYS: dict[Scale, str] = {
    "full": "Scale full: the papers' training; the last epoch counts, and 5,000 training images are held out.",
    "cpu": "Scale cpu: 5 epochs of Muon without dropout in place of 150 of AdamW; 5,000 training images are held out.",
    "quick": "Scale quick: a net a tenth as wide and one epoch of 600 images: it shows that everything runs.",
}
