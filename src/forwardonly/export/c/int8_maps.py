"""Convolutions, poolings and their gradients in whole numbers, on maps (K, H, W)."""

from typing import Any

import numpy as np

from forwardonly.export.c.plan import BlockPlan, Stage

Array = np.ndarray


def windowed(block: BlockPlan, maps: Array) -> Array:
    """The sums of maps (K, H, W) over the windows of a block's pooling."""
    high, wide = block.windows
    rows, columns = range(0, maps.shape[1], high), range(0, maps.shape[2], wide)
    return np.add.reduceat(np.add.reduceat(maps, rows, 1), columns, 2)


def _patches(stage: Stage, shape: tuple[int, ...]) -> list[tuple[int, int, tuple[slice, slice]]]:
    """Of each place of the kernel the rows and columns of the padded map that it meets."""
    assert stage.convolution is not None
    (height, width), (down, right) = stage.convolution.kernel_size, stage.convolution.stride
    found = []
    for y in range(height):
        for x in range(width):
            rows = slice(y, y + down * (shape[1] - 1) + 1, down)
            found.append((y, x, (rows, slice(x, x + right * (shape[2] - 1) + 1, right))))
    return found


def _unpooled_shape(stage: Stage) -> tuple[int, int, int]:
    convolution: Any = stage.convolution
    sides = [
        (size + 2 * int(padding) - kernel) // stride + 1
        for size, padding, kernel, stride in zip(
            stage.incoming[1:], convolution.padding, convolution.kernel_size, convolution.stride, strict=True
        )
    ]
    return stage.outgoing.channels, sides[0], sides[1]


def _padded(stage: Stage, maps: Array) -> Array:
    assert stage.convolution is not None
    down, right = (int(side) for side in stage.convolution.padding)
    return np.pad(maps.reshape(stage.incoming), ((0, 0), (down, down), (right, right)))


def convolved(stage: Stage, weight: Array, maps: Array) -> Array:
    """The convolution of maps, before its pooling."""
    assert stage.convolution is not None
    shape, padded = _unpooled_shape(stage), _padded(stage, maps)
    sums = np.zeros(shape, np.int64)
    for y, x, (rows, columns) in _patches(stage, shape):
        part = padded[:, rows, columns]
        own = weight[:, :, y, x]
        sums += own[:, :, None] * part if stage.convolution.groups > 1 else _mixed(own, part)
    return sums


def _mixed(own: Array, part: Array) -> Array:
    """Weights (O, I) applied to maps (I, H, W)."""
    return (own @ part.reshape(len(part), -1)).reshape(len(own), *part.shape[1:])


def pooled(stage: Stage, maps: Array) -> tuple[Array, Array]:
    """Max-pooling: the largest of each window, and which of its values that is (the first of equals)."""
    channels, height, width = stage.outgoing
    high, wide = stage.pool
    windows = maps[:, : height * high, : width * wide].reshape(channels, height, high, width, wide)
    flat = windows.transpose(0, 1, 3, 2, 4).reshape(channels, height, width, high * wide)
    places = flat.argmax(3)
    return np.take_along_axis(flat, places[..., None], 3)[..., 0], places


def unpooled(stage: Stage, gradient: Array, places: Array) -> Array:
    """A gradient (K, h, w) at the places of the maxima of the map before the pooling."""
    high, wide = stage.pool
    spread = np.zeros(_unpooled_shape(stage), np.int64)
    c, y, x = np.indices(gradient.shape)
    spread[c, y * high + places // wide, x * wide + places % wide] = gradient
    return spread


def correlated(stage: Stage, given: Array, gradient: Array) -> Array:
    """The gradient of a weight from its input and the gradient of its output."""
    if stage.convolution is None:
        return gradient.reshape(-1)[:, None] * given.reshape(-1)[None]
    shape, padded = _unpooled_shape(stage), _padded(stage, given)
    weight = np.zeros(tuple(stage.convolution.weight.shape), np.int64)
    for y, x, (rows, columns) in _patches(stage, shape):
        part = padded[:, rows, columns]
        if stage.convolution.groups > 1:
            weight[:, 0, y, x] = (gradient * part).sum((1, 2))
        else:
            weight[:, :, y, x] = gradient.reshape(len(gradient), -1) @ part.reshape(len(part), -1).T
    return weight


def backward(stage: Stage, weight: Array, gradient: Array) -> Array:
    """The gradient of a stage's input."""
    if stage.convolution is None:
        return (weight.T @ gradient.reshape(-1)).reshape(stage.incoming)
    shape = _unpooled_shape(stage)
    down, right = (int(side) for side in stage.convolution.padding)
    channels, height, width = stage.incoming
    padded = np.zeros((channels, height + 2 * down, width + 2 * right), np.int64)
    for y, x, (rows, columns) in _patches(stage, shape):
        own = weight[:, :, y, x]
        depthwise = stage.convolution.groups > 1
        padded[:, rows, columns] += own[:, :, None] * gradient if depthwise else _mixed(own.T, gradient)
    return padded[:, down : down + height, right : right + width]
