"""The strongest local rule we know, with the recipe that makes it so: `--rule best`.

The rule is `auxiliary` (Belilovsky, Eickenberg & Oyallon 2020, arXiv 1901.08164); the size of its head and the recipe
are ours. What the network gains from, measured: a head that is deep, wide and reads nothing but a map's mean; steps of
equal strength in all directions (Muon), small enough that later blocks can follow the earlier ones; little label
smoothing and small shifts. What it can spare: fine maps for the heads behind the first two blocks, the last block's
head, and late blocks' first steps. `log/` has the trials.
"""

from dataclasses import dataclass
from types import MappingProxyType

from forwardonly.rules.auxiliary import Auxiliary

MUON = MappingProxyType(
    {
        "optimiser": "muon",
        "learning_rate": 0.06,
        "batch_size": 250,
        "weight_decay": 2e-4,
        "lr_schedule": "linear",
        "warmup": 0.2,
    }
)
"""The part of the recipe that suits other rules on the same nets, and backprop, too."""


@dataclass(kw_only=True, eq=False)
class Best(Auxiliary):
    """`auxiliary` for convolutional networks with batch norm, with a recipe found on CIFAR-10.

    On flat activations it is a linear map alone, unless it is given dense layers (`depth`).
    """

    convolutions: int = 3
    """Convolutions in front of the pooling, each with stride 2 until maps are small; none on flat activations."""
    coarse: bool = True
    fine: int = 2
    linear: int = 1
    channels: int = 128
    """Channels of each convolution; 64 take an eighth less time a step."""
    features: int = 64
    """Maps are averaged over windows, as many as bring them nearest to this many features."""
    depth: int = 0
    """Dense hidden layers."""
    label_smoothing: float = 0.05
    """Share of the target spread evenly over all classes."""

    training_defaults = MappingProxyType({**MUON, "delay": 0.3})
