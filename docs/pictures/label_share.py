"""Draws docs/pictures/label-share.svg from the lines of results/: python docs/pictures/label_share.py

What a probe reads from networks that learned without labels, against the share of the labels that it sees.
"""

import matplotlib.pyplot as plt
from drawing import BACKPROP, INK, LOCAL, dress, save
from lines import Results

RULES = {
    "ff-unsupervised": (LOCAL, "-"),
    "self-contrastive": (LOCAL, "--"),
    "simclr": (BACKPROP, "-"),
}


def main() -> None:
    """A line a rule, and one of the same network with random weights."""
    figure, axes = plt.subplots(figsize=(7.5, 3.2), layout="constrained")
    results = Results()
    random: dict[float, float] = {}
    for rule, (colour, style) in RULES.items():
        learned = {}
        for line in results.group(f"{rule}/mnist/mlp-2x1000/short"):
            for probe in line["probes"]:
                if probe["method"] == "ridge":
                    learned[probe["labels_share"]] = 100 * probe["accuracy"]
                    random.setdefault(probe["labels_share"], 100 * probe["untrained_accuracy"])
        axes.plot(list(learned), list(learned.values()), style, marker="o", ms=4, color=colour, label=rule)
    axes.plot(list(random), list(random.values()), ":", marker="o", ms=4, color=INK, label="random weights")
    axes.set_xscale("log")
    axes.set_xticks(list(random), [f"{100 * share:g}" for share in random])
    axes.set_xticks([], minor=True)
    dress(axes, "% of the labels", "test accuracy, %")
    figure.legend(loc="outside upper center", ncols=4, frameon=False, labelcolor=INK)
    save(figure, __file__)


if __name__ == "__main__":
    main()
