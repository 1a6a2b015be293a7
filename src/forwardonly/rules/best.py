"""The strongest plain local rule we know, with the recipe that makes it so: `--rule best`.

The rule is `projection` (Nokland & Eidnes 2019, arXiv 1901.06656); the recipe is ours, and is where its strength lies.
At equal epochs a block trained locally learns its training images less well than backprop's network does, so it gains
from more steps and easier ones: small batches, little weight decay, little label smoothing, small shifts.
`docs/notes/gap.md` has the trials.
"""

from dataclasses import dataclass
from types import MappingProxyType

from forwardonly.rules.projection import Projection


@dataclass(kw_only=True, eq=False)
class Best(Projection):
    """`projection` for convolutional networks with batch norm, with a recipe found on CIFAR-10's held-out images."""

    label_smoothing: float = 0.05
    """Share of the target spread evenly over all classes."""

    recipe = MappingProxyType(
        {
            "optimiser": "sgd",
            "learning_rate": 0.15,
            "batch_size": 125,
            "weight_decay": 2e-4,
            "lr_schedule": "linear",
            "warmup": 0.2,
        }
    )
