"""The convolutions of bodies and auxiliary heads."""

from torch import nn


def conv(
    fan_in: int,
    fan_out: int,
    side: int,
    *,
    stride: int = 1,
    padding: int | tuple[int, int] | None = None,
    bias: bool = False,
) -> nn.Conv2d:
    """A convolution of side x side weights with He initialisation, which keeps the scale of the signal through ReLU.

    By default the padding keeps the size of maps, of which a stride of 2 leaves half, rounded up; `side` is odd.
    """
    made = nn.Conv2d(fan_in, fan_out, side, stride, side // 2 if padding is None else padding, bias=bias)
    nn.init.kaiming_normal_(made.weight, nonlinearity="relu")
    if made.bias is not None:
        nn.init.zeros_(made.bias)
    return made


def conv3x3(
    fan_in: int, fan_out: int, *, stride: int = 1, padding: tuple[int, int] = (1, 1), bias: bool = False
) -> nn.Conv2d:
    """The same with 3 x 3 weights."""
    return conv(fan_in, fan_out, 3, stride=stride, padding=padding, bias=bias)
