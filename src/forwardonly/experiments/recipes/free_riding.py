"""Recipe for the numbers of free-riding: starvation, its law, and the remedies. Yousefiramandi 2026, arXiv 2605.06240.

Every number but accuracy is measured on the validation images, with the last epoch's weights.
"""

from collections.abc import Mapping
from typing import NamedTuple

from forwardonly.experiments.batch import Finished
from forwardonly.experiments.compare import Arm
from forwardonly.experiments.recipes.table import Figure, Row, Scale, Table, test_accuracy

REMEDIES = ("none", "per-block", "gated", "depth-scaled", "mgc")

PLAIN = (
    *("--rule", "cumulative", "--rule.normalise-input", "--validation", "5000"),
    *("--diagnose", "--crop", "0", "--flip", "none", "--cutout", "0", "--batch-size", "100"),
)


class Setting(NamedTuple):
    """A data set, and a body with a given number of blocks: fully connected layers or convolutions."""

    data: str
    convolutional: bool = False

    def options(self, depth: int) -> tuple[str, ...]:
        """The options of `forwardonly train` for the body, and for labels that it can see."""
        if self.convolutional:
            label = ("--rule.label-placement", "everywhere", "--rule.label-value", "1")
            return ("--body", "conv", "--depth", str(depth), "--channels", "32", *label)
        return ("--hidden", *["500"] * depth, "--rule.label-value", "8")

    def arm(self, remedy: str, depth: int) -> str:
        """The arm's name."""
        return f"{remedy}, {depth} {'convolutions' if self.convolutional else 'layers'}, {self.data}"


FASHION = Setting("fashion-mnist")
CIFAR = Setting("cifar-10", convolutional=True)

SETTINGS = {"full": ((FASHION, 4), (FASHION, 8), (CIFAR, 4), (CIFAR, 8)), "quick": ((FASHION, 4), (FASHION, 8))}

LENGTH = {"full": ("--epochs", "30", "--validate-every", "5"), "quick": ("--epochs", "2")}

SEEDS = {"full": 5, "quick": 1}

STARVATION = {1: 0.929, 2: 0.950, 3: 0.952}  # published, by block

SEPARATION = {"gated": 1.71 / 0.96, "per-block": 4.78 / 0.96, "mgc": 5.61 / 0.96}  # CIFAR-100, four blocks


def table(scale: Scale) -> Table:
    """Starvation, law and separation in networks of 4 and 8 blocks."""
    arms, rows, data, compared = [], [], {}, []
    for setting, depth in SETTINGS[scale]:
        names = [setting.arm(remedy, depth) for remedy in REMEDIES]
        for remedy, name in zip(REMEDIES, names, strict=True):
            arms.append(Arm(name, (*PLAIN, "--rule.remedy", remedy, *setting.options(depth), *LENGTH[scale])))
            data[name] = setting.data
        rows += _rows(setting, depth)
        compared.append(tuple(names))
    left_out = "" if scale == "full" else "; CIFAR-10 left out"
    return Table(
        title="Free-riding",
        source="Yousefiramandi 2026, arXiv 2605.06240",
        unit="as named",
        arms=tuple(arms),
        data=data,
        rows=tuple(rows),
        seeds=SEEDS[scale],
        says=(
            "Published numbers are of other networks (CIFAR); the law, starvation and the ratios can be compared.",
            "The ratio of separations is left out where the network without a remedy separates nothing at its end.",
            "Two controls stand beside every remedy: none is the cumulative loss without what the remedy adds, and "
            "per-block merely leaves out what the cumulative loss adds, the earlier blocks' margin.",
            f"Scale {scale}: layers of 500 units, {LENGTH[scale][1]} epochs{left_out}.",
        ),
        compared=tuple(compared),
    )


def _rows(setting: Setting, depth: int) -> list[Row]:
    plain, control = setting.arm("none", depth), setting.arm("per-block", depth)
    published = SEPARATION if depth == 4 else {}
    starvation = STARVATION if depth == 4 else {}
    return [
        Row(f"slope of log R on P, {plain}", -2.8, _law(plain)),
        *(
            Row(f"starvation of block {d + 1}, {plain}", starvation.get(d), _last(plain, "starvation", d))
            for d in range(1, depth)
        ),
        Row(f"starvation of block {depth}, {control}", 0.0, _last(control, "starvation", -1)),
        *(
            Row(f"deepest separation, {name}", None, _last(name, "separation", -1))
            for name in (setting.arm(remedy, depth) for remedy in REMEDIES)
        ),
        *(
            Row(f"deepest separation over none's, {setting.arm(remedy, depth)}", published.get(remedy), ratio)
            for remedy in REMEDIES[1:]
            for ratio in [_ratio(setting.arm(remedy, depth), plain)]
        ),
        *(
            Row(f"test accuracy (%), {name}", None, test_accuracy(name))
            for name in (setting.arm(remedy, depth) for remedy in REMEDIES)
        ),
    ]


def _law(arm: str) -> Figure:
    def figure(runs: Mapping[str, Finished]) -> float:
        slope = runs[arm].history[-1]["free_riding"]["law_slope"]
        return float("nan") if slope is None else float(slope)

    return Figure((arm,), figure)


def _last(arm: str, quantity: str, block: int) -> Figure:
    """A block's quantity after the last epoch."""

    return Figure((arm,), lambda runs: float(runs[arm].history[-1]["free_riding"]["blocks"][block][quantity]))


def _ratio(arm: str, plain: str) -> Figure:
    """The deepest block's separation over that of another arm; NaN where the latter separates nothing."""
    ours, others = (_last(name, "separation", -1) for name in (arm, plain))

    def figure(runs: Mapping[str, Finished]) -> float:
        return ours.of(runs) / others.of(runs) if others.of(runs) > 0 else float("nan")

    return Figure((arm, plain), figure)
