"""Draws docs/pictures/memory.svg from the lines of results/: python docs/pictures/memory.py

Peak memory of a fresh process above what the code of a step takes, and the time of a step, against depth.
"""

import matplotlib.pyplot as plt
from drawing import BACKPROP, INK, LOCAL, dress, save
from lines import Results
from matplotlib.axes import Axes

ARMS = {
    "ours": ("forward-only", LOCAL, "-"),
    "backprop": ("backprop", BACKPROP, "-"),
    "backprop-checkpointed": ("backprop, checkpoints", BACKPROP, "--"),
    "backprop-accumulated": ("backprop, 4 micro-batches", BACKPROP, ":"),
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
    save(figure, __file__)


def draw(axes: Axes, values: dict[str, dict[str, float]], label: str) -> None:
    """A line an arm."""
    for arm, own in values.items():
        name, colour, style = ARMS[arm]
        axes.plot([int(depth) for depth in own], list(own.values()), style, marker="o", ms=4, color=colour, label=name)
    axes.set_ylim(0)
    dress(axes, "convolutions", label)


if __name__ == "__main__":
    main()
