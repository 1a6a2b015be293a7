"""Rules, one file a method, and the table of them."""

from forwardonly.rules.auxiliary import Auxiliary
from forwardonly.rules.backprop import Backprop
from forwardonly.rules.base import BlockPosition, ContrastiveRule, OnePassRule, PeerGoodness, Rule
from forwardonly.rules.best import Best
from forwardonly.rules.bilinear import Bilinear
from forwardonly.rules.channel_learnable import ChannelLearnable
from forwardonly.rules.channel_static import ChannelStatic
from forwardonly.rules.collaborative import CollaborativeAdaptive, CollaborativeFixed
from forwardonly.rules.cumulative import Cumulative
from forwardonly.rules.ff import ForwardForward
from forwardonly.rules.hyperspherical import Hyperspherical
from forwardonly.rules.layer_collaboration import LayerCollaboration
from forwardonly.rules.projection import Projection
from forwardonly.rules.similarity import Similarity
from forwardonly.rules.spatial import Spatial

TABLE: dict[str, type[Rule]] = {
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
    "best": Best,
    "backprop": Backprop,
}
"""Every rule by the name that the command line and result tables use."""


__all__ = [
    "TABLE",
    "Auxiliary",
    "Backprop",
    "Best",
    "Bilinear",
    "BlockPosition",
    "ChannelLearnable",
    "ChannelStatic",
    "CollaborativeAdaptive",
    "CollaborativeFixed",
    "ContrastiveRule",
    "Cumulative",
    "ForwardForward",
    "Hyperspherical",
    "LayerCollaboration",
    "OnePassRule",
    "PeerGoodness",
    "Projection",
    "Rule",
    "Similarity",
    "Spatial",
]
