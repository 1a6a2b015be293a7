"""A rule of one's own: each block pulls its images to fixed random directions. Run: python examples/own_rule.py"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import forwardonly as fo


@dataclass(kw_only=True, eq=False)
class FixedDirections(fo.rules.OnePassRule):
    """Cross-entropy of the cosines to one random direction a class, never trained."""

    scale: float = 10.0
    """Inverse temperature of the softmax."""

    normalises = True

    def setup(self, shape: tuple[int, ...], position: fo.rules.BlockPosition) -> None:
        self.directions = nn.Buffer(F.normalize(torch.randn(self.classes, shape[0]), dim=1))

    def scores(self, activation: Tensor) -> Tensor:
        return F.normalize(activation.float().flatten(1), dim=1) @ self.directions.T

    def loss(self, activation: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.scale * self.scores(activation), labels)

    def pass_on(self, activation: Tensor) -> Tensor:
        return F.layer_norm(activation, activation.shape[1:])


def main() -> dict[str, float]:
    """Accuracy on digits of the new rule beside two that are there."""
    train, _, test = fo.data.load("digits")
    found = {}
    for rule in (FixedDirections(classes=10), fo.rules.Projection(classes=10), fo.rules.Backprop(classes=10)):
        net = fo.mlp(train.shape, [100, 100], rule=rule)
        fo.fit(net, train, epochs=10, batch_size=64)
        found[type(rule).__name__] = fo.evaluate(net, test).accuracy
    return found


if __name__ == "__main__":
    for name, accuracy in main().items():
        print(f"{name:<18}{100 * accuracy:.1f} %")
