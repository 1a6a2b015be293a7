"""Draws docs/pictures/training-run.svg from the lines of results/: python docs/pictures/training_run.py"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from lines import Results

plt.rcParams["svg.hashsalt"] = "training-run"  # or the names in the file, and so the file, would be new each time
INK = "#8a8f98"  # grey that reads on white and on black, for the README is shown on both
RUN = "hyperspherical/fashion-mnist/mlp-2x1000/validated/seed1"


def main() -> None:
    """Validation accuracy of each block and of the network, epoch by epoch."""
    (line,) = Results().group(RUN)
    rows = line["history"]
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    epochs = [row["epoch"] + 1 for row in rows]
    for index in range(len(rows[0]["block_accuracy"])):
        axes.plot(epochs, [100 * row["block_accuracy"][index] for row in rows], label=f"block {index + 1}", lw=1.4)
    axes.plot(epochs, [100 * row["validation_accuracy"] for row in rows], label="network", lw=2.2)
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation accuracy, %")
    axes.set_title(f"{line['config']['rule']['name']} on {line['config']['data']['name']}", color=INK)
    axes.tick_params(colors=INK)
    for text in (axes.xaxis.label, axes.yaxis.label):
        text.set_color(INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    axes.legend(frameon=False, labelcolor=INK)
    figure.savefig(Path(__file__).with_name("training-run.svg"), transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    main()
