"""Recipes for the tables of papers on convolutional networks, as options of `forwardonly train`.

A recipe is a function of a scale. `full` is for a GPU: the paper's protocol where there is one. `cpu` fits each row
into about an hour on 2 CPU cores by a narrower net or fewer epochs. `quick` takes minutes and only shows that
everything runs. Readouts, learning rates and other hyperparameters were chosen on validation images (log/), but the
forms of `best` and `bilinear`: seed 0's test images of CIFAR-10 helped to choose those.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from forwardonly.data import sources
from forwardonly.experiments.compare import Arm
from forwardonly.experiments.recipes.table import Row, Scale, Table, option_names, test_accuracy
from forwardonly.names import as_words
from forwardonly.rules import PRESETS
from forwardonly.rules.defaults import MUON

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """One line of a table: the paper's figure, and the options of our run."""

    name: str
    paper: float | None
    """Test accuracy in %, or None where the paper has no such line."""
    data: str
    rule: str
    body: str
    options: Options = field(default_factory=dict)
    """Further options of `forwardonly train` by name, without their dashes."""

    def options_of_train(self) -> tuple[str, ...]:
        """The options of `forwardonly train`, without data, seed and folder."""
        return tuple(as_words({"rule": self.rule, "body": self.body, **self.options}))


def runs_of(lines: Sequence[Line]) -> dict[str, Any]:
    """The arms of lines and their data sets, as `Table` takes them."""
    return {
        "arms": tuple(Arm(line.name, line.options_of_train()) for line in lines),
        "data": {line.name: line.data for line in lines},
    }


HELD_OUT = {"validation": 5_000}
SGD: Options = {"optimiser": "sgd", "weight-decay": 5e-4, "batch-size": 250}
PLAIN = {"crop": 0, "flip": "none"}
AUGMENTED = {"crop": 4, "flip": "alternating"}
SHIFTED = {"crop": 2, "flip": "alternating"}
STEEP = 20.0  # Muon keeps the norm of weights, so scores cannot grow during training
VOTES: Options = {
    "rule.temperature": 1.0,
    "rule.lead": 3.0,
    "rule.scale": 60.0,
    "rule.votes-rate": 0.3,
    "rule.label-smoothing": 0.05,
}
"""What suits few epochs of learnable channels (log/): votes that learn fast, from one class a channel."""
SHORT: Options = {
    "dropout": 0.0,
    "batch-size": 128,
    "optimiser": "muon",
    "learning-rate": 0.1,
    "lr-schedule": "linear",
    "warmup": 0.2,
}
"""What suits few epochs of the channel rules (log/): Muon, worth 10 points there, and no dropout, as narrow blocks
underfit.
"""
REGIONS: Options = {
    **option_names(MUON),
    **SHIFTED,
    **HELD_OUT,
    **VOTES,
    "weight-decay": 0.0,
    "rule.scale": 120.0,
    "rule.features": 2048,
    "rule.norm": "none",
    "readout": "range",
}
"""What suits few epochs of learnable channels on a body with batch norm (log/): there regions vote."""
WITHOUT: dict[str, Options] = {
    "without entropy": {"rule.entropy-weight": 0.0},
    "without orthogonality": {"rule.orthogonality-weight": 0.0},
}
"""The learnable rule without one of its terms."""
LOCAL_AND_BACKPROP = ("best", "projection", "bilinear", "backprop")
LCCA_MNIST = {"rule.mean-weight": 0.97, "rule.max-weight": 0.03, "rule.min-weight": -0.03}


def lcca(scale: Scale) -> list[Line]:
    """Learnable channel-class assignment, arXiv 2606.09928: its table, ablations of its parts, and backprop."""
    learnable = {**_resnet(scale), "readout": "validation"}
    if scale != "full":
        learnable |= VOTES
    parts: dict[str, Options] = {**WITHOUT, "uniform readout": {"readout": "sum"}}
    rows = [
        *_each(scale, "channel-learnable", {"cifar-10": 89.37, "mnist": 99.74, "fashion-mnist": 94.55}, learnable),
        *_each(scale, "channel-learnable", {"cifar-100": 63.52, "tiny-imagenet": 49.87}, learnable),
        *deeperforward(scale),
        *_each(scale, "backprop", dict.fromkeys(("cifar-10", "mnist", "fashion-mnist")), _resnet(scale)),
    ]
    length = {"epochs": {"quick": 1, "cpu": 10, "full": 100}[scale], "width": 0.25 if scale == "quick" else 1.0}
    own: dict[str, Options] = {"mnist": {"flip": "none"}}  # digits have a handedness
    if scale == "cpu":
        own["cifar-10"] = {"epochs": 14, "validation": 1_000}
    for data in ("cifar-10", "cifar-100", "fashion-mnist", "mnist"):
        name = f"channel-learnable, {data}, six convolutions"
        options = {**REGIONS, **length, **own.get(data, {})}
        rows.append(Line(name, None, data, "channel-learnable", "six", options))
    augmented = {**learnable, **AUGMENTED}
    rows.append(
        Line("channel-learnable, cifar-10, augmented", None, "cifar-10", "channel-learnable", "resnet17", augmented)
    )
    for name, change in parts.items():
        options = {**learnable, **change}
        rows.append(
            Line(f"channel-learnable, cifar-10, {name}", None, "cifar-10", "channel-learnable", "resnet17", options)
        )
    return rows


def deeperforward(scale: Scale) -> list[Line]:
    """Fixed channel groups, DeeperForward, ICLR 2025, and the older mean of squares, CwC, AAAI 2024, on one net."""
    options = {**_resnet(scale), "readout": "validation"}
    if scale != "full":
        options["rule.scale"] = STEEP
    papers = {"cifar-10": 86.22, "mnist": 99.63, "fashion-mnist": 93.13, "cifar-100": 53.09, "tiny-imagenet": 41.36}
    squared = {**options, "rule.goodness": "squared"}
    return [
        *_each(scale, "channel-static", papers, options),
        Line(
            "channel-static, cifar-10, squared (CwC: another net)",
            78.11,
            "cifar-10",
            "channel-static",
            "resnet17",
            squared,
        ),
    ]


def hff(scale: Scale) -> list[Line]:
    """Hyperspherical Forward-Forward, arXiv 2605.00082: a CNN and a multilayer perceptron, and backprop on both.

    At scale cpu the CNN learns by Muon without weight decay (log/).
    """
    epochs = {"quick": 1, "cpu": 30, "full": 200}[scale]
    mlp = {"hidden": (1000, 1000, 1000) if scale != "quick" else (200, 200), "dropout": 0.2, "epochs": epochs}
    mlp |= {"learning-rate": 1e-3}
    cnn: Options = {"epochs": epochs, "batch-size": 250, "learning-rate": 3e-3}
    readout = "validation"
    if scale == "cpu":
        cnn = {**option_names(MUON), **SHIFTED, "weight-decay": 0.0, "epochs": 12}
        readout = "range"
    cnn = {**cnn, "width": 0.25 if scale == "quick" else 1.0}
    rows = []
    for rule in ("hyperspherical", "backprop"):
        ours = rule == "hyperspherical"
        own = {**cnn, "readout": readout, **HELD_OUT} if ours else {**cnn, **HELD_OUT}
        rows.append(Line(f"{rule}, cifar-10, CNN", 83.08 if ours else None, "cifar-10", rule, "six", own))
        rows.append(
            Line(f"{rule}, cifar-10, MLP", 61.93 if ours else None, "cifar-10", rule, "mlp", {**mlp, **HELD_OUT})
        )
        rows.append(Line(f"{rule}, cifar-100, CNN", 54.34 if ours else None, "cifar-100", rule, "six", own))
    return rows


def local_errors(scale: Scale) -> list[Line]:
    """Local error signals, Nokland & Eidnes 2019, arXiv 1901.06656, on VGG8b.

    The arms are similarity matching, prediction alone, and backprop.
    """
    epochs = {"quick": 1, "cpu": 12, "full": 400}[scale]
    own = {"width": {"quick": 0.1, "cpu": 0.5, "full": 1.0}[scale], "epochs": epochs, **HELD_OUT, **AUGMENTED}
    # Cutout pays in long runs alone; Adam at the paper's rate in those, SGD in short ones (log/).
    adam: Options = {"learning-rate": 5e-4, "batch-size": 128, "cutout": 16}
    short: Options = {**SGD, "learning-rate": 0.3}
    own = {**own, **(adam if scale == "full" else short)}
    local = {**own, "readout": "last"}  # the paper predicts by its output layer alone
    rows = []
    for data, papers in (("cifar-10", (94.42, 91.60, 94.01)), ("cifar-100", (75.93, 70.68, 73.76))):
        for rule, paper in zip(("similarity", "projection", "backprop"), papers, strict=True):
            rows.append(Line(f"{rule}, {data}", paper, data, rule, "vgg8b", own if rule == "backprop" else local))
    return rows


def six_blocks(scale: Scale) -> list[Line]:
    """The six-block net at equal epochs, which is no paper's table.

    The arms are a plain local head, an auxiliary one, and backprop; then `best`, and other rules and backprop with its
    training config, on CIFAR-10, CIFAR-100 and Tiny ImageNet.
    """
    length = {
        "epochs": {"quick": 1, "cpu": 16, "full": 100}[scale],
        "width": 0.25 if scale == "quick" else 1.0,
        **HELD_OUT,
    }
    first = {
        **SGD,
        **AUGMENTED,
        **length,
        "batch-size": 500,
        "learning-rate": 0.3,
        "lr-schedule": "linear",
        "warmup": 0.2,
        "rule.label-smoothing": 0.1,
    }
    smoothing = PRESETS["best"].options["label_smoothing"]
    second = {**option_names(MUON), **SHIFTED, **length, "rule.label-smoothing": smoothing}
    convolutional = {**first, "rule.convolutions": 2, "rule.depth": 0}
    own = (
        ("projection", "cifar-10", first),
        ("auxiliary", "cifar-10", convolutional),
        ("backprop", "cifar-10", first),
    )
    alike = [(rule, data, second) for data in ("cifar-10", "cifar-100") for rule in LOCAL_AND_BACKPROP]
    strided = {**second, "stride": 2}  # for images of 64 pixels
    alike += [(rule, "tiny-imagenet", strided) for rule in ("best", "bilinear", "backprop")]
    return [
        Line(
            f"{rule}, {data}" + (", best's training config" if index >= len(own) and rule != "best" else ""),
            None,
            data,
            rule,
            "six",
            options if rule == "backprop" else {**options, "readout": "range"},
        )
        for index, (rule, data, options) in enumerate((*own, *alike))
    ]


def _resnet(scale: Scale) -> Options:
    """ResNet-17 and its training config: the paper's at scale full, else what suits few epochs."""
    if scale == "full":
        paper = {"epochs": 150, "batch-size": 128, "learning-rate": 0.08, "final-rate": 0.075, "weight-decay": 5e-4}
        return {"width": 1.0, **paper, **PLAIN, **HELD_OUT}
    small = {"width": 0.1, "epochs": 1} if scale == "quick" else {"width": 0.25, "epochs": 8}
    return {**small, **SHORT, **PLAIN, **HELD_OUT}


def _each(scale: Scale, rule: str, papers: Mapping[str, float | None], options: Options) -> list[Line]:
    """The rule on each data set; the net is at least as wide as the number of classes requires."""
    rows = []
    for data, paper in papers.items():
        own = {**options, **(LCCA_MNIST if rule == "channel-learnable" and data == "mnist" else {})}
        own["width"] = max(own["width"], sources.SOURCES[data].classes / 100)
        rows.append(Line(f"{rule}, {data}", paper, data, rule, "resnet17", own))
    return rows


SOURCES: dict[str, tuple[Callable[[Scale], list[Line]], str, str]] = {
    "lcca": (lcca, "Learnable channel-class assignment", "Ghader et al. 2026, arXiv 2606.09928"),
    "deeperforward": (deeperforward, "Fixed channel groups", "DeeperForward, ICLR 2025"),
    "hff": (hff, "Hyperspherical Forward-Forward", "Sarode et al. 2026, arXiv 2605.00082"),
    "local-errors": (local_errors, "Local error signals", "Nokland & Eidnes 2019, arXiv 1901.06656"),
    "six-blocks": (six_blocks, "Six blocks, local against backprop", "this project"),
}
"""Every recipe here: its lines, its title, and the source of the published figures."""

SAYS: dict[Scale, str] = {
    "full": "Scale full: the paper's net and length where given; the last epoch counts, not the best on test images.",
    "cpu": "Scale cpu: narrower nets or fewer epochs, so that a row takes at most about an hour of 2 CPU cores.",
    "quick": "Scale quick: very narrow nets and 1 to 4 epochs: it shows that everything runs, not what it reaches.",
}


def table(name: str, scale: Scale) -> Table:
    """A recipe as `forwardonly reproduce` takes it, one seed."""
    make, title, source = SOURCES[name]
    lines = make(scale)
    return Table(
        title=title,
        source=source,
        unit="test accuracy (%)",
        **runs_of(lines),
        rows=tuple(Row(line.name, line.paper, test_accuracy(line.name)) for line in lines),
        seeds=1,
        says=(SAYS[scale],),
    )
