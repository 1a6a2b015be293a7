"""Draws docs/pictures/accuracy.svg from the lines of results/: python docs/pictures/accuracy.py

Forward-only in one colour, backprop in another; filled marks are ours, hollow ones published. Published figures are
those of the papers that the method pages cite, on their own nets.
"""

from typing import NamedTuple

import matplotlib.pyplot as plt
from drawing import BACKPROP, INK, LOCAL, dress, save
from lines import Results, published
from tables_accuracy import PAIRS

results = Results()


class Published(NamedTuple):
    """A line of the figure that papers fill: the rows of a recipe that have its accuracies, or these in %."""

    net: str
    table: str | None
    local: str | float
    backprop: str | float | None = None

    def figures(self) -> tuple[float, float | None]:
        """The local rule's accuracy and backprop's, if there is one."""
        ours, theirs = (
            float(published(results, self.table, row)) if isinstance(row, str) and self.table else row
            for row in (self.local, self.backprop)
        )
        assert isinstance(ours, float) and not isinstance(theirs, str)
        return ours, theirs


PUBLISHED = [
    Published("MNIST, FF, 4 x 2000 (Hinton)", None, 98.64),
    Published("CIFAR-10, FF (Hinton)", None, 59.0, 62.0),
    Published("CIFAR-10, HFF, CNN", "hff", "hyperspherical, cifar-10, CNN"),
    Published("CIFAR-10, fixed groups, ResNet-17", "deeperforward", "channel-static, cifar-10"),
    Published("CIFAR-10, learnable assignment, ResNet-17", "lcca", "channel-learnable, cifar-10"),
    Published("CIFAR-10, prediction, VGG8b", "local-errors", "projection, cifar-10", "backprop, cifar-10"),
    Published("CIFAR-10, similarity, VGG8b", "local-errors", "similarity, cifar-10", "backprop, cifar-10"),
]


def main() -> None:
    """One row a net, best rule and backprop on it; logit scale, so that 99.0 and 99.5 stand apart."""
    rows = [(name, local, backprop, True) for name, local, backprop in ours()]
    rows += [(line.net, *line.figures(), False) for line in PUBLISHED]
    figure, axes = plt.subplots(figsize=(7.5, 0.34 * len(rows) + 1.2), layout="constrained")
    for height, (_, local, backprop, measured) in enumerate(reversed(rows)):
        apart = 0.0 if backprop is None else 0.16  # equal accuracies would hide each other
        for value, colour, place in ((local, LOCAL, height + apart), (backprop, BACKPROP, height - apart)):
            if value is not None:
                axes.plot(value / 100, place, "o", ms=7, mec=colour, mew=1.6, mfc=colour if measured else "none")
        if backprop is not None:
            axes.plot([local / 100, backprop / 100], [height + apart, height - apart], color=INK, lw=0.8, zorder=0)
    axes.set_xscale("logit")
    ticks = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998]
    axes.set_xticks(ticks, [f"{100 * tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    lowest = min(value for _, *values, _ in rows for value in values if value is not None)
    axes.set_xlim(lowest / 100 - 0.03, 0.999)
    axes.set_yticks(range(len(rows)), [name for name, *_ in reversed(rows)])
    dress(axes, "test accuracy, %")
    keys = [("forward-only", LOCAL, LOCAL), ("backprop", BACKPROP, BACKPROP), ("published", INK, "none")]
    marks = [plt.Line2D([], [], ls="", marker="o", ms=7, mec=edge, mfc=face) for _, edge, face in keys]
    axes.legend(
        marks,
        [name for name, *_ in keys],
        frameon=False,
        labelcolor=INK,
        ncols=3,
        loc="lower right",
        bbox_to_anchor=(1, 1),
    )
    save(figure, __file__)


def ours() -> list[tuple[str, float, float | None]]:
    """Each net of the results' table: its name, the best local rule's mean accuracy, backprop's if known; in %.

    Of a net that has a rule with backprop beside it only such rules are shown.
    """
    found: dict[str, tuple[float, float | None]] = {}
    for pair in sorted(PAIRS, key=lambda pair: (pair.backprop is not None, results.mean(pair.local))):
        theirs = None if pair.backprop is None else results.mean(pair.backprop)
        found[f"{pair.data}, {pair.net}"] = (results.mean(pair.local), theirs)
    return [(net, *accuracies) for net, accuracies in sorted(found.items())]


if __name__ == "__main__":
    main()
