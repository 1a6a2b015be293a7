"""Draws docs/pictures/training-run.svg from the lines of results/: python docs/pictures/training_run.py"""

import matplotlib.pyplot as plt
from drawing import INK, dress, save
from lines import Results

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
    axes.set_title(f"{line['config']['rule']['name']} on {line['config']['data']['name']}", color=INK)
    dress(axes, "epoch", "validation accuracy, %")
    axes.legend(frameon=False, labelcolor=INK)
    save(figure, __file__)


if __name__ == "__main__":
    main()
