"""What every body is made of: a row of layers, each trained by itself."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn


class Layer(NamedTuple):
    """One block's worth of a body.

    `join`, in residual bodies alone, makes the next signal from what the block passes on and what it received.
    """

    body: nn.Module
    join: Callable[[Tensor, Any], Any] | None = None


class Body(Protocol):
    """A frozen dataclass whose fields are the body's options."""

    def layers(self, shape: Sequence[int]) -> list[Layer]:
        """Layers for images of `shape` (channels, height, width).

        Raises:
            ValueError: the options make no network for such images.
        """
        ...


class Chain(nn.Module):
    """All layers as one module with no wall between them: the body of the backprop baseline."""

    def __init__(self, layers: Sequence[Layer]):
        super().__init__()
        self.bodies = nn.ModuleList(layer.body for layer in layers)
        self.joins = [layer.join for layer in layers]

    def forward(self, signal: Tensor) -> Tensor:
        activation = signal
        for body, join in zip(self.bodies, self.joins, strict=True):
            incoming = signal
            activation = body(incoming if isinstance(incoming, Tensor) else incoming[0])
            signal = activation if join is None else join(activation, incoming)
        return activation
