"""The strongest local rule we know, with the recipe that makes it so: `--rule best`.

The rule is `auxiliary` (Belilovsky, Eickenberg & Oyallon 2020, arXiv 1901.08164); the size of its head and the recipe
are ours. At equal epochs a block trained locally learns its training images less well than backprop's network does, so
it gains from a head that asks less of its features, from steps of equal strength in all directions (Muon), and from
little label smoothing and small shifts. `docs/notes/gap.md` has the trials.
"""

from dataclasses import dataclass
from types import MappingProxyType

from forwardonly.rules.auxiliary import Auxiliary


@dataclass(kw_only=True, eq=False)
class Best(Auxiliary):
    """`auxiliary` for convolutional networks with batch norm, with a recipe found on CIFAR-10's held-out images."""

    label_smoothing: float = 0.05
    """Share of the target spread evenly over all classes."""

    recipe = MappingProxyType(
        {
            "optimiser": "muon",
            "learning_rate": 0.15,
            "batch_size": 250,
            "weight_decay": 2e-4,
            "lr_schedule": "linear",
            "warmup": 0.2,
        }
    )
