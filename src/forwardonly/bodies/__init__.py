"""Bodies: the layers without their rules, and the table of them."""

from forwardonly.bodies.layers import Body, Chain, Layer
from forwardonly.bodies.mlp import MLP

TABLE: dict[str, type[Body]] = {"mlp": MLP}
"""Every body by the name that the command line and config files use."""

__all__ = ["MLP", "TABLE", "Body", "Chain", "Layer"]
