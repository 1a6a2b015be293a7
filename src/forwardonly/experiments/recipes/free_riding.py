"""Free-riding's numbers: starvation, its law, what the remedies do. Yousefiramandi 2026, arXiv 2605.06240.

Every number but accuracy is measured on the validation images, by the weights of the last epoch.
"""

from collections.abc import Mapping

from forwardonly.experiments.batch import Finished
from forwardonly.experiments.compare import Arm
from forwardonly.experiments.recipes.table import Figure, Row, Scale, Table, test_accuracy

REMEDIES = ("none", "per-block", "gated", "depth-scaled", "mgc")

PLAIN = (
    *(
        "--rule",
        "cumulative",
        "--rule.normalise-input",
        "--rule.label-value",
        "8",
        "--validation",
        "5000",
        "--diagnose",
    ),
    *("--crop", "0", "--flip", "none", "--cutout", "0", "--batch-size", "100"),
)

LENGTH = {"full": ("--epochs", "30", "--validate-every", "5"), "quick": ("--epochs", "2")}

STARVATION = {1: 0.929, 2: 0.950, 3: 0.952}  # published, by block

SEPARATION = {"gated": 1.71 / 0.96, "per-block": 4.78 / 0.96, "mgc": 5.61 / 0.96}  # CIFAR-100, four blocks


def table(scale: Scale) -> Table:
    """Starvation, law and separation in networks of 4 and 8 blocks (quick: 4) on Fashion-MNIST."""
    depths = (4, 8) if scale == "full" else (4,)
    arms, rows = [], []
    for depth in depths:
        for remedy in REMEDIES:
            hidden = ("--hidden", *["500"] * depth)
            arms.append(Arm(_name(remedy, depth), (*PLAIN, "--rule.remedy", remedy, *hidden, *LENGTH[scale])))
        rows += _rows(depth)
    runs = "5 seeds" if scale == "full" else "1 seed; networks of 8 blocks left out"
    return Table(
        title="Free-riding on Fashion-MNIST",
        source="Yousefiramandi 2026, arXiv 2605.06240",
        unit="as named",
        arms=tuple(arms),
        data={arm.name: "fashion-mnist" for arm in arms},
        rows=tuple(rows),
        seeds=5 if scale == "full" else 1,
        says=(
            "Published numbers are of other networks (CIFAR); the law, starvation and the ratios can be compared.",
            "Per-block is the control beside every remedy: it merely leaves out the earlier blocks' margin.",
            f"Scale {scale}: layers of 500 units, {LENGTH[scale][1]} epochs, {runs}.",
        ),
        compared=tuple(_name(remedy, depths[0]) for remedy in REMEDIES),
    )


def _rows(depth: int) -> list[Row]:
    plain, control = _name("none", depth), _name("per-block", depth)
    published = SEPARATION if depth == 4 else {}
    return [
        Row(f"slope of log R on P, {plain}", -2.8, _law(plain)),
        *(
            Row(f"starvation of block {d + 1}, {plain}", STARVATION.get(d), _last(plain, "starvation", d))
            for d in range(1, depth)
        ),
        Row(f"starvation of block {depth}, {control}", 0.0, _last(control, "starvation", -1)),
        *(
            Row(
                f"deepest separation, {_name(remedy, depth)}, over none's", published.get(remedy), _ratio(remedy, depth)
            )
            for remedy in REMEDIES[1:]
        ),
        *(Row(f"test accuracy (%), {_name(r, depth)}", None, test_accuracy(_name(r, depth))) for r in REMEDIES),
    ]


def _name(remedy: str, depth: int) -> str:
    return f"{remedy}, {depth} blocks"


def _law(arm: str) -> Figure:
    def figure(runs: Mapping[str, Finished]) -> float:
        slope = runs[arm].history[-1]["free_riding"]["law_slope"]
        return float("nan") if slope is None else float(slope)

    return figure


def _last(arm: str, quantity: str, block: int) -> Figure:
    """A block's quantity after the last epoch."""

    def figure(runs: Mapping[str, Finished]) -> float:
        return float(runs[arm].history[-1]["free_riding"]["blocks"][block][quantity])

    return figure


def _ratio(remedy: str, depth: int) -> Figure:
    """The deepest block's separation over that without a remedy."""
    ours, plain = (_last(_name(each, depth), "separation", -1) for each in (remedy, "none"))

    def figure(runs: Mapping[str, Finished]) -> float:
        return ours(runs) / plain(runs)

    return figure
