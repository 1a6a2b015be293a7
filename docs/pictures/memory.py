"""Draws docs/pictures/memory.svg from the lines of results/: python docs/pictures/memory.py

Peak memory of a fresh process above what the code of a step takes, and the time of a step, against depth.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from lines import Results

plt.rcParams["svg.hashsalt"] = "memory"  # or the names in the file, and so the file, would be new each time
INK = "#8a8f98"  # grey that reads on white and on black
ARMS = {
    "ours": ("forward-only", "#c4500a", "-"),
    "backprop": ("backprop", "#1f78b4", "-"),
    "backprop-checkpointed": ("backprop, checkpoints", "#1f78b4", "--"),
    "backprop-accumulated": ("backprop, 4 micro-batches", "#1f78b4", ":"),
}


def main() -> None:
    """Two panels that share their depth axis and their key."""
    arms = Results().timing("memory/projection/conv-32")["arms"]
    code = arms["code"]["peak_bytes"]
    above = {arm: {d: (size - code) / 2**20 for d, size in arms[arm]["peak_bytes"].items()} for arm in ARMS}
    times = {arm: arms[arm]["step_ms"] for arm in ARMS if "step_ms" in arms[arm]}
    figure, panels = plt.subplots(1, 2, figsize=(7.5, 3.2), layout="constrained")
    draw(panels[0], above, "MiB above the code")
    draw(panels[1], times, "ms a step")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False, labelcolor=INK
    )
    figure.savefig(Path(__file__).with_name("memory.svg"), transparent=True, metadata={"Date": None})


def draw(axes: Axes, values: dict[str, dict[str, float]], label: str) -> None:
    """A line an arm."""
    for arm, own in values.items():
        name, colour, style = ARMS[arm]
        axes.plot([int(depth) for depth in own], list(own.values()), style, marker="o", ms=4, color=colour, label=name)
    axes.set_xlabel("convolutions", color=INK)
    axes.set_ylabel(label, color=INK)
    axes.set_ylim(0)
    axes.tick_params(colors=INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)


if __name__ == "__main__":
    main()
