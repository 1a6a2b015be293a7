"""Bodies: the layers of networks, without rules, and the table of them."""

from forwardonly.bodies.convolutional import CNN, Conv, Six, VGG8b
from forwardonly.bodies.layers import Body, Chain, Layer, Stem
from forwardonly.bodies.mlp import MLP
from forwardonly.bodies.residual import ResNet17
from forwardonly.bodies.resnet import ResNet18, ResNet56
from forwardonly.bodies.separable import Separable
from forwardonly.bodies.tinycnn import TinyCNN
from forwardonly.bodies.transformer import Transformer

TABLE: dict[str, type[Body]] = {
    "mlp": MLP,
    "cnn": CNN,
    "conv": Conv,
    "six": Six,
    "vgg8b": VGG8b,
    "tinycnn": TinyCNN,
    "resnet17": ResNet17,
    "resnet18": ResNet18,
    "resnet56": ResNet56,
    "transformer": Transformer,
    "separable": Separable,
}
"""Every body by the name that the command line and config files use."""

__all__ = [
    "CNN",
    "MLP",
    "TABLE",
    "Body",
    "Chain",
    "Conv",
    "Layer",
    "ResNet17",
    "ResNet18",
    "ResNet56",
    "Separable",
    "Six",
    "Stem",
    "TinyCNN",
    "Transformer",
    "VGG8b",
]
