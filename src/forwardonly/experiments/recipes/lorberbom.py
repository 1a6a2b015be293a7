"""Recipe for layer collaboration's table, errors there, accuracies here. Lorberbom et al. 2024, arXiv 2305.12393."""

from forwardonly.experiments.compare import Arm
from forwardonly.experiments.recipes.table import Row, Scale, Table, test_accuracy

PUBLISHED = {"mnist": (96.7, 97.9, 98.5), "fashion-mnist": (86.8, 88.4, 89.3), "cifar-10": (45.8, 48.4, 54.1)}

PAPERS_LOSS = (
    *("--rule.negatives", "uniform", "--rule.sharpness", "1", "--rule.reduction", "sum"),
    *("--rule.size", "length", "--rule.label-value", "1"),
)

ARMS = {
    "FF": ("--rule", "ff", *PAPERS_LOSS),
    "all layers": ("--rule", "layer-collaboration", "--rule.peers", "all", *PAPERS_LOSS),
    "earlier layers": ("--rule", "layer-collaboration", "--rule.peers", "earlier", *PAPERS_LOSS),
    "backprop": ("--rule", "backprop"),
}

PLAIN = (
    *("--hidden", "1000", "1000", "1000", "--batch-size", "100", "--validation", "5000"),
    *("--crop", "0", "--flip", "none", "--cutout", "0"),
)

LENGTH = {"full": ("--epochs", "60", "--validate-every", "10"), "quick": ("--epochs", "1")}


def table(scale: Scale) -> Table:
    """The whole table: three data sets."""
    arms, data, rows, compared = [], {}, [], []
    for name, (plain, collaborative, backprop) in PUBLISHED.items():
        papers = {"FF": plain, "all layers": collaborative, "backprop": backprop}
        for arm, rule in ARMS.items():
            label = f"{arm}, {name}"
            arms.append(Arm(label, (*rule, *PLAIN, *LENGTH[scale])))
            data[label] = name
            rows.append(Row(label, papers.get(arm), test_accuracy(label)))
        compared.append(tuple(f"{arm}, {name}" for arm in ARMS))
    return Table(
        title="Layer collaboration",
        source="Lorberbom et al. 2024, arXiv 2305.12393",
        unit="test accuracy (%)",
        arms=tuple(arms),
        data=data,
        rows=tuple(rows),
        seeds=5 if scale == "full" else 1,
        compared=tuple(compared),
        says=(
            "The paper's numbers are 100 minus its errors, and its collaborative one is the best of its variants; the "
            "nets, three layers of 1000 units, are ours. Images and activations are divided by their length, a label "
            "is as strong as an image.",
            "Scale full: 60 epochs." if scale == "full" else "Scale quick: 1 epoch.",
        ),
    )
