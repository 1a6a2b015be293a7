"""An ordinary residual network, trained block by block. Run: python examples/localize_resnet.py"""

import torch
from torch import Tensor, nn

import forwardonly as fo


class Residual(nn.Module):
    """Two convolutions and a shortcut, as everywhere."""

    def __init__(self, fan_in: int, fan_out: int, stride: int):
        super().__init__()
        self.first = nn.Conv2d(fan_in, fan_out, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(fan_out, fan_out, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(fan_out), nn.BatchNorm2d(fan_out)])
        self.shortcut = nn.Conv2d(fan_in, fan_out, 1, stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        inner = torch.relu(self.norms[0](self.first(maps)))
        return torch.relu(self.norms[1](self.second(inner)) + self.shortcut(maps))


def resnet(classes: int) -> nn.Module:
    """Three stages under a classifier."""
    return nn.Sequential(
        Residual(1, 16, 1),
        Residual(16, 32, 2),
        Residual(32, 64, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, classes),
    )


def main() -> tuple[float, int, int]:
    """Test accuracy, the number of blocks, and how many ways in which they leak into each other."""
    train, _, test = fo.data.load("digits")
    torch.manual_seed(0)
    net = fo.localize(resnet(10), fo.rules.Projection(classes=10), train.images[:2])
    fo.fit(net, train, epochs=5, batch_size=64, learning_rate=3e-3)
    return fo.evaluate(net, test).accuracy, len(net.row), len(fo.measure.leaks(net, train))


if __name__ == "__main__":
    accuracy, blocks, leaks = main()
    print(f"{blocks} blocks, {leaks} leaks, test accuracy {100 * accuracy:.1f} %")
