"""Training options that several rules have as their defaults."""

from types import MappingProxyType

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
"""Muon for convolutional networks with batch norm; suits local rules and backprop alike. Found on CIFAR-10."""
