"""Weight counts: the weights of a network, and those that only its losses use."""

from typing import NamedTuple

from forwardonly.network.network import Network


class Weights(NamedTuple):
    """Numbers of trained weights of a network."""

    bodies: int
    """In the bodies, which compute the signal."""
    rules: int
    """In the rules: read-outs, prototypes, assignments, auxiliary heads. A strictly local head is counted here."""

    @property
    def share(self) -> float:
        """The rules' share of all weights."""
        return self.rules / max(self.bodies + self.rules, 1)


def weights(network: Network) -> Weights:
    """The trained weights of all blocks, in bodies and in rules."""
    return Weights(
        *(
            sum(own.numel() for block in network.row for own in part(block).parameters() if own.requires_grad)
            for part in (lambda block: block.body, lambda block: block.rule)
        )
    )
