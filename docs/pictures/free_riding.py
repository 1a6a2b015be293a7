"""Draws docs/pictures/free-riding.svg from the lines of results/: python docs/pictures/free_riding.py

Starvation and separation of each block of four, Fashion-MNIST, without a remedy and with each that was run; means over
seeds.
"""

import matplotlib.pyplot as plt
from drawing import INK, dress, save
from lines import Results

REMEDIES = {
    "none": ("#c4500a", "o"),
    "gated": ("#a67c00", "v"),
    "per-block": ("#1f78b4", "s"),
    "depth-scaled": ("#2a9d6f", "^"),
    "mgc": ("#a8538f", "D"),
}
PANELS = {"starvation": "starvation", "separation": "separation from the hardest wrong label"}


def main() -> None:
    """Two panels, a line a remedy."""
    results = Results()
    figure, panels = plt.subplots(1, 2, figsize=(7.5, 3.2), layout="constrained")
    for axes, (quantity, label) in zip(panels, PANELS.items(), strict=True):
        for remedy, (colour, marker) in REMEDIES.items():
            name = f"free-riding/quick/4-layers/{remedy}"
            means = [results.free_riding(name, quantity, block) for block in range(1, 5)]
            axes.plot(range(1, 5), means, color=colour, marker=marker, ms=5, lw=1.4, label=remedy)
        axes.set_xticks(range(1, 5))
        axes.set_title(label, color=INK, fontsize=10)
        dress(axes, "block")
    panels[1].axhline(0, color=INK, lw=0.6)
    panels[0].legend(frameon=False, labelcolor=INK, fontsize=9)
    save(figure, __file__)


if __name__ == "__main__":
    main()
