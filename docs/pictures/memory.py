"""Draws docs/pictures/memory.svg from benchmarks/results/memory-conv.json: python docs/pictures/memory.py

Peak memory of a fresh process above what the code of a step takes, and the time of a step, against depth.
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

ROOT = Path(__file__).parents[2]
INK = "#8a8f98"  # grey that reads on white and on black
ARMS = {
    "ours": ("forward-only", "#c4500a", "-"),
    "backprop": ("backprop", "#1f78b4", "-"),
    "backprop-checkpointed": ("backprop, checkpoints", "#1f78b4", "--"),
    "backprop-accumulated": ("backprop, 4 micro-batches", "#1f78b4", ":"),
}


def main() -> None:
    """Two panels that share their depth axis and their key."""
    content = json.loads((ROOT / "benchmarks" / "results" / "memory-conv.json").read_text(encoding="utf-8"))
    idle = content["idle_bytes"]
    above = {arm: {d: (size - idle) / 2**20 for d, size in own.items()} for arm, own in content["peak_bytes"].items()}
    figure, panels = plt.subplots(1, 2, figsize=(7.5, 3.2), layout="constrained")
    draw(panels[0], above, "MiB above the code")
    draw(panels[1], content["step_ms"], "ms a step")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False, labelcolor=INK
    )
    figure.savefig(Path(__file__).with_name("memory.svg"), transparent=True)


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
