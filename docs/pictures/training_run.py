"""Draws docs/pictures/training-run.svg from a run folder: python docs/pictures/training_run.py RUN"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

INK = "#8a8f98"  # grey that reads on white and on black, for the README is shown on both


def main(folder: Path) -> None:
    """Validation accuracy of each block and of the network, epoch by epoch."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    config = json.loads((folder / "config.json").read_text())
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    epochs = [row["epoch"] + 1 for row in rows]
    for index in range(len(rows[0]["block_accuracy"])):
        axes.plot(epochs, [100 * row["block_accuracy"][index] for row in rows], label=f"block {index + 1}", lw=1.4)
    axes.plot(epochs, [100 * row["validation_accuracy"] for row in rows], label="network", lw=2.2)
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation accuracy, %")
    axes.set_title(f"{config['network']['rule']['name']} on {config['data']['name']}", color=INK)
    axes.tick_params(colors=INK)
    for text in (axes.xaxis.label, axes.yaxis.label):
        text.set_color(INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    axes.legend(frameon=False, labelcolor=INK)
    figure.savefig(Path(__file__).with_name("training-run.svg"), transparent=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
