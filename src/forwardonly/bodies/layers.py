"""The parts of every body: a row of layers, each trained on its own, behind an untrained stem."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from forwardonly.names import check_options


class Layer(NamedTuple):
    """The part of a body that becomes one block.

    `join`, in residual bodies alone, combines the block's output with its input into the next signal. `norm` is what
    the body needs between this layer and the next, unless the rule normalises its output. Neither has parameters.
    """

    body: nn.Module
    join: Callable[[Tensor, Any], Any] | None = None
    norm: Callable[[Tensor], Tensor] | None = None

    def behind(self, normalised: bool) -> Callable[[Tensor, Any], Any] | None:
        """What turns an activation, `normalised` by the rule or not, into the next signal; None if nothing does."""
        if normalised or self.norm is None:
            return self.join
        return partial(_normalise_and_join, self.norm, self.join)


def _normalise_and_join(
    norm: Callable[[Tensor], Tensor], join: Callable[[Tensor, Any], Any] | None, activation: Tensor, incoming: Any
) -> Any:
    return norm(activation) if join is None else join(norm(activation), incoming)


class Stem(nn.Module):
    """An untrained module before the first layer; `fit` may use training images, once."""

    def fit(self, images: Tensor) -> None:
        """Fits the stem to prepared training images (N, channels, height, width)."""

    def forward(self, images: Tensor) -> Tensor:
        raise NotImplementedError


class Body:
    """Base of the bodies: frozen dataclasses whose fields are their options.

    Raises:
        ValueError: an option of another type than its field.
    """

    def __post_init__(self) -> None:
        if hasattr(self, "__dataclass_fields__"):
            check_options(self)

    def stem(self, shape: Sequence[int]) -> Stem | None:
        """The untrained stem for images of `shape` (channels, height, width), if the body has one."""
        return None

    def layers(self, shape: Sequence[int]) -> list[Layer]:
        """Layers for images of `shape` (channels, height, width), behind the stem.

        Raises:
            ValueError: the options do not fit such images.
        """
        raise NotImplementedError


class Chain(nn.Module):
    """All layers as one module without walls: the body of the backprop baseline."""

    def __init__(self, layers: Sequence[Layer]):
        super().__init__()
        self.bodies = nn.ModuleList(layer.body for layer in layers)
        self.between = [layer.behind(normalised=False) for layer in layers]

    def forward(self, signal: Tensor) -> Tensor:
        activation = signal
        for body, behind in zip(self.bodies, self.between, strict=True):
            incoming = signal
            activation = body(incoming if isinstance(incoming, Tensor) else incoming[0])
            signal = activation if behind is None else behind(activation, incoming)
        return activation


class LayerNormStem(Stem):
    """Standardises each image to zero mean and unit deviation over all its pixels."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.layer_norm(images, images.shape[1:])


class Whitening(Stem):
    """A convolution that decorrelates 2 x 2 patches, then GELU: (B, c, H, W) -> (B, 8 c, H-1, W-1) at a stride of 1.

    At a stride of 2, maps are half as large as even images. Its filters are the eigenvectors of the patches' covariance
    divided by the root of their eigenvalues, each with both signs, so that GELU loses nothing. The idea is from Keller
    Jordan's airbench, arXiv 2404.00498, section 3.2.
    """

    EPSILON = 5e-4
    WINDOW = 2  # pixels a side
    filters: Tensor

    def __init__(self, channels: int, stride: int = 1):
        super().__init__()
        self.stride = stride
        self.channels = 8 * channels
        self.register_buffer("filters", torch.zeros(self.channels, channels, self.WINDOW, self.WINDOW))

    def fit(self, images: Tensor) -> None:
        patches = nn.functional.unfold(images, self.WINDOW).transpose(1, 2).flatten(0, 1).double()
        patches = patches - patches.mean(0)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        rows = (vectors / (values.clamp_min(0) + self.EPSILON).sqrt()).T.view(-1, *self.filters.shape[1:])
        self.filters.copy_(torch.cat([rows, -rows]))

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.gelu(nn.functional.conv2d(images, self.filters, stride=self.stride))
