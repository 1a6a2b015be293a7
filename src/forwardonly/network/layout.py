"""Which axis of a tensor holds the channels: read off autograd's graph, never guessed from a shape.

The graph is walked back from the tensor to the layer that made its channels: behind a convolution or a batch norm
they lie on axis 1, behind a linear layer, a layer norm or an embedding on the last. On the way, each axis is followed
through permutations, reshapes and reductions. The method is ours.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

Axes = tuple[int | None, ...]
"""For each axis of a node's output, the axis of the tensor that it became; None where it has none of its own."""

SECOND = ("Convolution", "BatchNorm", "NativeGroupNorm", "InstanceNorm", "ThnnConv", "SlowConv", "ConvDepthwise")
LAST = ("Addmm", "MmBackward", "LinearBackward", "MkldnnLinear", "Embedding", "RnnLayer", "CudnnRnn", "Miopen")
DEEPEST = 4000  # nodes looked at: a layer is a few behind


def channel_axis(tensor: Tensor) -> int | None:
    """The axis of a tensor's channels; None where the graph does not show it."""
    if tensor.grad_fn is None:
        return None
    todo: list[tuple[Any, int, Axes]] = [(tensor.grad_fn, 0, tuple(range(tensor.dim())))]
    seen: set[Any] = set()
    while todo and len(seen) < DEEPEST:
        node, output, axes = todo.pop()
        if node in seen or hasattr(node, "variable"):
            continue
        seen.add(node)
        name = type(node).__name__
        if (own := _made_here(name, node, len(axes))) is not None:
            if axes[own] is not None:
                return axes[own]
            continue
        for following, number in reversed(_inputs(name, node)):
            if following is not None and not hasattr(following, "variable"):
                shape = _shape(following, number)
                if shape is not None and (inner := _through(name, node, axes, output, shape)) is not None:
                    todo.append((following, number, inner))
    return None


def _made_here(name: str, node: Any, dims: int) -> int | None:
    """The axis of the channels in the output of a node that makes or normalises channels."""
    if name.startswith("NativeLayerNorm"):
        return dims - 1 if len(node._saved_normalized_shape) == 1 else None
    if any(kind in name for kind in SECOND):
        return 1 if dims > 1 else 0
    return dims - 1 if any(kind in name for kind in LAST) else None


def _inputs(name: str, node: Any) -> Sequence[tuple[Any, int]]:
    """A node's inputs that carry its channels: of attention the values alone."""
    inputs = tuple(node.next_functions)
    if name.startswith(("Bmm", "Baddbmm")):
        return inputs[-1:]
    return inputs[2:3] if name.startswith("ScaledDotProduct") else inputs


def _shape(node: Any, output: int) -> tuple[int, ...] | None:
    try:
        return tuple(int(size) for size in node._input_metadata[output].shape)
    except (AttributeError, IndexError, TypeError, RuntimeError):
        return None


def _through(name: str, node: Any, axes: Axes, output: int, shape: tuple[int, ...]) -> Axes | None:
    """The axes of a node's input of `shape`, if its output has `axes`."""
    for start, rule in RULES:
        if name.startswith(start):
            own = _shape(node, output) or ()
            found = rule(node, axes, own, shape)
            return found if found is None or len(found) == len(shape) else None
    missing = len(axes) - len(shape)  # element by element, with broadcasting from the left
    return axes[missing:] if missing >= 0 else None


def _signed(index: Any, dims: int) -> int:
    """An axis that autograd saved as an unsigned number."""
    number = int(index)
    number = number - 2**64 if number >= 2**63 else number
    return number % dims if dims else 0


def _permute(node: Any, axes: Axes, own: tuple[int, ...], shape: tuple[int, ...]) -> Axes:
    inner: list[int | None] = [None] * len(shape)
    for position, source in enumerate(node._saved_dims):
        inner[_signed(source, len(shape))] = axes[position]
    return tuple(inner)


def _transpose(node: Any, axes: Axes, own: tuple[int, ...], shape: tuple[int, ...]) -> Axes:
    inner = list(axes)
    one, two = (_signed(getattr(node, name), len(axes)) for name in ("_saved_dim0", "_saved_dim1"))
    inner[one], inner[two] = inner[two], inner[one]
    return tuple(inner)


def _turned(node: Any, axes: Axes, own: tuple[int, ...], shape: tuple[int, ...]) -> Axes:
    return axes[::-1]


def _reshape(node: Any, axes: Axes, own: tuple[int, ...], shape: tuple[int, ...]) -> Axes:
    """Axes are matched in runs of equal products; of a run, only axes that stay whole or are split keep their place."""
    inner: list[int | None] = [None] * len(shape)
    outside, inside = 0, 0
    while outside < len(own) and inside < len(shape):
        first_out, first_in = outside, inside
        left, right = own[outside], shape[inside]
        while left != right:
            if left < right:
                outside += 1
                left *= own[outside] if outside < len(own) else right + 1
            else:
                inside += 1
                right *= shape[inside] if inside < len(shape) else left + 1
            if outside >= len(own) or inside >= len(shape):
                return tuple(inner)
        outer = [axis for axis in range(first_out, outside + 1) if own[axis] != 1]
        if len(outer) == 1 or first_out == outside:
            whole = outer[0] if outer else first_out
            for position in range(first_in, inside + 1):
                inner[position] = axes[whole]
        outside, inside = outside + 1, inside + 1
        while outside < len(own) and own[outside] == 1 and (inside >= len(shape) or shape[inside] != 1):
            outside += 1
        while inside < len(shape) and shape[inside] == 1 and (outside >= len(own) or own[outside] != 1):
            inside += 1
    return tuple(inner)


def _select(node: Any, axes: Axes, own: tuple[int, ...], shape: tuple[int, ...]) -> Axes:
    place = _signed(node._saved_dim, len(shape))
    return (*axes[:place], None, *axes[place:])


def _reduced(node: Any, axes: Axes, own: tuple[int, ...], shape: tuple[int, ...]) -> Axes | None:
    """A mean or a sum over some axes, which the output keeps with size 1 or has lost."""
    if len(axes) == len(shape):
        return axes
    saved = getattr(node, "_saved_dim", None)
    if saved is None:
        return None
    gone = {_signed(each, len(shape)) for each in (saved if isinstance(saved, tuple | list) else (saved,))}
    if len(axes) + len(gone) != len(shape):
        return None
    kept = iter(axes)
    return tuple(None if axis in gone else next(kept) for axis in range(len(shape)))


def _unsqueezed(node: Any, axes: Axes, own: tuple[int, ...], shape: tuple[int, ...]) -> Axes:
    place = _signed(node._saved_dim, len(axes))
    return (*axes[:place], *axes[place + 1 :])


def _stopped(node: Any, axes: Axes, own: tuple[int, ...], shape: tuple[int, ...]) -> Axes | None:
    return None


def _values(node: Any, axes: Axes, own: tuple[int, ...], shape: tuple[int, ...]) -> Axes:
    """Attention: the values' last axis is the output's."""
    return (*axes[:-2], None, axes[-1])


RULES: tuple[tuple[str, Callable[[Any, Axes, tuple[int, ...], tuple[int, ...]], Axes | None]], ...] = (
    ("Permute", _permute),
    ("Transpose", _transpose),
    ("TBackward", _turned),
    ("View", _reshape),
    ("UnsafeView", _reshape),
    ("Reshape", _reshape),
    ("Squeeze", _reshape),
    ("Unsqueeze", _unsqueezed),
    ("Stack", _unsqueezed),
    ("Select", _select),
    ("Unbind", _select),
    ("Mean", _reduced),
    ("Sum", _reduced),
    ("Amax", _reduced),
    ("Max", _reduced),
    ("Bmm", _values),
    ("Baddbmm", _values),
    ("ScaledDotProduct", _values),
    ("Im2Col", _stopped),
    ("Fft", _stopped),
)
"""How axes go through the nodes that move them; all others work element by element, or keep the order of axes."""
