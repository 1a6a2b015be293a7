"""Rules, one file a method, and the table of them."""

from forwardonly.rules.backprop import Backprop
from forwardonly.rules.base import ContrastiveRule, Heard, OnePassRule, Place, Rule
from forwardonly.rules.ff import ForwardForward
from forwardonly.rules.hyperspherical import Hyperspherical

TABLE: dict[str, type[Rule]] = {
    "ff": ForwardForward,
    "hyperspherical": Hyperspherical,
    "backprop": Backprop,
}
"""Every rule by the name that the command line and result tables use."""


__all__ = [
    "TABLE",
    "Backprop",
    "ContrastiveRule",
    "ForwardForward",
    "Heard",
    "Hyperspherical",
    "OnePassRule",
    "Place",
    "Rule",
]
