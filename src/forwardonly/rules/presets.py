"""Presets: a rule's options and a training config under one name, and the table of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from forwardonly.rules.auxiliary import Auxiliary
from forwardonly.rules.base import Rule
from forwardonly.rules.defaults import MUON


@dataclass(frozen=True)
class Preset:
    """A named choice of a rule, its options and its training config. Calling it makes the rule."""

    name: str
    """Name in tables, on the command line and in saved configs."""
    rule: type[Rule]
    """Class of the rule."""
    options: Mapping[str, Any]
    """Values of the rule's options that differ from the defaults of its class."""
    training: Mapping[str, Any]
    """Training options that replace the `training_defaults` of its class."""
    says: str
    """One sentence on what the preset is for."""

    def __call__(self, *, classes: int, **options: Any) -> Rule:
        """The rule with the preset's options, overridden by `options`. Its `preset` is the name of this preset."""
        rule = self.rule(classes=classes, **{**self.options, **options})
        vars(rule)["preset"] = self.name
        return rule


PRESETS: dict[str, Preset] = {
    "best": Preset(
        name="best",
        rule=Auxiliary,
        options=MappingProxyType(
            {
                "head": "tapered",
                "convolutions": 3,
                "channels": 128,
                "features": 64,
                "depth": 0,
                "label_smoothing": 0.05,
            }
        ),
        training=MappingProxyType({**MUON, "delay": 0.3}),
        says="Auxiliary heads and a training config for convolutional networks with batch norm, chosen for accuracy "
        "and time on CIFAR-10.",
    )
}
"""Every preset by its name."""
