"""What the pictures of results share: colours, axes without a box, and files that change with results/ alone."""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # for the scripts that import this first

INK, LOCAL, BACKPROP = "#8a8f98", "#c4500a", "#1f78b4"  # grey that reads on white and on black


def dress(axes: Axes, x: str, y: str = "") -> None:
    """Labels, and axes in grey on the left and below alone."""
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.tick_params(colors=INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)


def save(figure: Figure, script: str) -> None:
    """The figure as an SVG file beside the script, by its name with dashes."""
    name = Path(script).stem.replace("_", "-")
    plt.rcParams["svg.hashsalt"] = name  # or the names in the file, and so the file, would be new each time
    figure.savefig(Path(script).with_name(f"{name}.svg"), transparent=True, metadata={"Date": None})
