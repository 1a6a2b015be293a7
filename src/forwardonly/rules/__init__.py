"""Learning rules, one file a method, and the table of rules and presets."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from forwardonly.names import nearest, refuse_unknown
from forwardonly.rules.auxiliary import Auxiliary
from forwardonly.rules.backprop import Backprop
from forwardonly.rules.base import BlockPosition, OnePassRule, PeerGoodness, Rule
from forwardonly.rules.bilinear import Bilinear
from forwardonly.rules.channel_learnable import ChannelLearnable
from forwardonly.rules.channel_static import ChannelStatic
from forwardonly.rules.collaborative import CollaborativeAdaptive, CollaborativeFixed
from forwardonly.rules.contrastive import ContrastiveRule, TwoStreamRule
from forwardonly.rules.cumulative import Cumulative
from forwardonly.rules.ff import ForwardForward
from forwardonly.rules.ff_unsupervised import ForwardForwardUnsupervised
from forwardonly.rules.hyperspherical import Hyperspherical
from forwardonly.rules.layer_collaboration import LayerCollaboration
from forwardonly.rules.presets import PRESETS, Preset
from forwardonly.rules.projection import Projection
from forwardonly.rules.self_contrastive import SelfContrastive
from forwardonly.rules.simclr import SimCLR
from forwardonly.rules.similarity import Similarity
from forwardonly.rules.spatial import Spatial
from forwardonly.rules.unlabelled import UnlabelledRule

TABLE: dict[str, type[Rule] | Preset] = {
    "ff": ForwardForward,
    "cff-fixed": CollaborativeFixed,
    "cff-adaptive": CollaborativeAdaptive,
    "layer-collaboration": LayerCollaboration,
    "cumulative": Cumulative,
    "hyperspherical": Hyperspherical,
    "channel-static": ChannelStatic,
    "channel-learnable": ChannelLearnable,
    "projection": Projection,
    "bilinear": Bilinear,
    "similarity": Similarity,
    "auxiliary": Auxiliary,
    "spatial": Spatial,
    **PRESETS,
    "backprop": Backprop,
    "ff-unsupervised": ForwardForwardUnsupervised,
    "self-contrastive": SelfContrastive,
    "simclr": SimCLR,
}
"""Every rule and preset by the name that the command line, saved configs and result tables use."""


def make(name: str, *, classes: int = 0, **options: Any) -> Rule:
    """The rule or preset of that name in `TABLE`, with the given options and the defaults for all others.

    A rule without labels does not use `classes`.

    Raises:
        ValueError: an unknown name or option, or a value out of range.
    """
    if name not in TABLE:
        raise ValueError(f"Unknown rule {name!r}: {nearest(name, TABLE)}")
    known = [field.name for field in fields(rule_class(TABLE[name])) if field.name != "classes"]
    refuse_unknown("rule", name, options, known)
    return TABLE[name](classes=classes, **options)


def rule_class(entry: type[Rule] | Preset) -> type[Rule]:
    """The class of the rules that an entry of `TABLE` makes; its fields are their options."""
    return entry.rule if isinstance(entry, Preset) else entry


def preset_options(entry: type[Rule] | Preset) -> Mapping[str, Any]:
    """The options in which an entry of `TABLE` differs from the defaults of its class: none unless it is a preset."""
    return entry.options if isinstance(entry, Preset) else {}


def training_defaults(rule: Rule | type[Rule] | Preset) -> Mapping[str, Any]:
    """Training options that suit a rule, or the entry of `TABLE` that makes it; a preset's where one made the rule."""
    if isinstance(rule, Preset):
        return rule.training
    preset = None if rule.preset is None else TABLE.get(rule.preset)
    return preset.training if isinstance(preset, Preset) else rule.training_defaults


__all__ = [
    "PRESETS",
    "TABLE",
    "Auxiliary",
    "Backprop",
    "Bilinear",
    "BlockPosition",
    "ChannelLearnable",
    "ChannelStatic",
    "CollaborativeAdaptive",
    "CollaborativeFixed",
    "ContrastiveRule",
    "Cumulative",
    "ForwardForward",
    "ForwardForwardUnsupervised",
    "Hyperspherical",
    "LayerCollaboration",
    "OnePassRule",
    "PeerGoodness",
    "Preset",
    "Projection",
    "Rule",
    "SelfContrastive",
    "SimCLR",
    "Similarity",
    "Spatial",
    "TwoStreamRule",
    "UnlabelledRule",
    "make",
    "preset_options",
    "rule_class",
    "training_defaults",
]
