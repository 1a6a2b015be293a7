"""How many weights a network has, and how many of them only its losses use."""

from typing import NamedTuple

from forwardonly.network.network import Network


class Weights(NamedTuple):
    """Trained numbers of a network."""

    bodies: int
    """In what carries the signal on."""
    rules: int
    """In what judges it: read-outs, prototypes, assignments, auxiliary heads. A strictly local head is counted here."""

    @property
    def share(self) -> float:
        """The rules' share of all weights."""
        return self.rules / max(self.bodies + self.rules, 1)


def weights(network: Network) -> Weights:
    """The trained weights of all blocks, bodies and rules apart."""
    return Weights(
        *(
            sum(own.numel() for block in network.row for own in part(block).parameters() if own.requires_grad)
            for part in (lambda block: block.body, lambda block: block.rule)
        )
    )
