"""The convolution of bodies and auxiliary heads."""

from torch import nn


def conv3x3(
    fan_in: int, fan_out: int, *, stride: int = 1, padding: tuple[int, int] = (1, 1), bias: bool = False
) -> nn.Conv2d:
    """A 3x3 convolution with He initialisation, which keeps the scale of the signal through ReLU."""
    conv = nn.Conv2d(fan_in, fan_out, 3, stride, padding, bias=bias)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
