"""Draws docs/pictures/label-share.svg from the lines of results/: python docs/pictures/label_share.py

What a probe reads from networks that learned without labels, against the share of the labels that it sees.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from lines import Results

plt.rcParams["svg.hashsalt"] = "label-share"  # or the names in the file, and so the file, would be new each time
INK = "#8a8f98"  # grey that reads on white and on black
RULES = {
    "ff-unsupervised": ("#c4500a", "-"),
    "self-contrastive": ("#c4500a", "--"),
    "simclr": ("#1f78b4", "-"),
}


def main() -> None:
    """A line a rule, and one of the same network with random weights."""
    figure, axes = plt.subplots(figsize=(7.5, 3.2), layout="constrained")
    random: dict[float, float] = {}
    for rule, (colour, style) in RULES.items():
        learned = {}
        for line in Results().group(f"{rule}/mnist/mlp-2x1000/short"):
            for probe in line["probes"]:
                if probe["method"] == "ridge":
                    learned[probe["labels_share"]] = 100 * probe["accuracy"]
                    random.setdefault(probe["labels_share"], 100 * probe["untrained_accuracy"])
        axes.plot(list(learned), list(learned.values()), style, marker="o", ms=4, color=colour, label=rule)
    axes.plot(list(random), list(random.values()), ":", marker="o", ms=4, color=INK, label="random weights")
    axes.set_xscale("log")
    axes.set_xticks(list(random), [f"{100 * share:g}" for share in random])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("% of the labels", color=INK)
    axes.set_ylabel("test accuracy, %", color=INK)
    axes.tick_params(colors=INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    figure.legend(loc="outside upper center", ncols=4, frameon=False, labelcolor=INK)
    figure.savefig(Path(__file__).with_name("label-share.svg"), transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    main()
