"""What a network is given: one tensor, or several in a tuple or a dict, with the examples along the first axis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from forwardonly.data.ranges import to_bytes
from forwardonly.data.seeing import as_seen
from forwardonly.targets import Kind

Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
"""One tensor, or what a model's `forward` takes besides: positional arguments in a tuple, named ones in a dict."""

CHUNK = 1 << 14  # rows that are looked through at a time


class Expected(NamedTuple):
    """What a network takes and learns, by which data of any origin are read; `Network.expected` gives it."""

    shape: tuple[int, ...]
    """Of one example; (channels, height, width) are pictures. Of several tensors it says nothing."""
    kind: Kind
    outputs: int
    """Classes, labels, numbers, or words of the vocabulary."""
    names: tuple[str, ...] | None = None
    """Class names that the network has learned."""
    tokens: bool = False
    """Whether whole numbers are token ids, which an embedding takes, and not values of a table."""
    labelled: bool = True
    """Whether it learns from targets; else they may be missing, and are not looked at."""
    features: tuple[str, ...] | None = None
    """Names of the columns that the network has learned, in their order."""
    vocabulary: int | None = None
    """Of token ids: how many the network's embedding has, where that is known."""


def parts(inputs: Inputs) -> list[Tensor]:
    """The tensors of an input."""
    if isinstance(inputs, Tensor):
        return [inputs]
    return list(inputs.values() if isinstance(inputs, dict) else inputs)


def each(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """The input with every tensor changed."""
    if isinstance(inputs, Tensor):
        return change(inputs)
    if isinstance(inputs, dict):
        return {name: change(tensor) for name, tensor in inputs.items()}
    return tuple(change(tensor) for tensor in inputs)


def is_picture(raw: Any) -> bool:
    """Whether it is an image of Pillow's."""
    return type(raw).__module__.partition(".")[0] == "PIL" and hasattr(raw, "getbands")


def is_pandas(raw: Any) -> bool:
    """Whether it is a table or a column of pandas; which is not imported to find out."""
    return type(raw).__module__.partition(".")[0] == "pandas"


def is_array(raw: Any) -> bool:
    """Whether it holds numbers or words along a first axis: a tensor, an array, a column or table, a plain list."""
    if isinstance(raw, Tensor | np.ndarray) or is_pandas(raw):
        return True
    if isinstance(raw, list):
        return not raw or isinstance(raw[0], int | float | str | bool | np.generic | list) or is_picture(raw[0])
    return hasattr(raw, "__array__") and not is_picture(raw)


def read_inputs(raw: Any, expected: Expected, what: str) -> Inputs:
    """Inputs of many examples as tensors: floats as float32, token ids as int64, pictures as uint8 (N, C, H, W).

    `what` is their name in errors. The columns of a table are put in the order in which the network learned them, by
    their names. Raises ValueError for what is no number, for NaN or infinite values, for parts of different lengths,
    for another shape than the network's, and for other columns.
    """
    if isinstance(raw, Mapping) and not is_pandas(raw):
        inputs: Inputs = {str(name): _as_is(part, f"{what}[{name!r}]") for name, part in raw.items()}
    elif isinstance(raw, tuple):
        inputs = tuple(_as_is(part, f"{what}[{number}]") for number, part in enumerate(raw))
    else:
        raw = raw if expected.features is None else in_order_of(raw, expected.features, what)
        return _shaped(_numbers(raw, expected, what), expected, what)
    counts = {len(part) for part in parts(inputs)}
    if len(counts) != 1:
        raise ValueError(f"{what}: its parts have {', '.join(map(str, sorted(counts)))} examples, all need as many.")
    return inputs


def tensor_of(raw: Any, what: str) -> Tensor:
    """Numbers from a tensor, an array, a table of pandas or nested lists; as few copies as that takes.

    Raises ValueError for words, objects, lists of different lengths and columns that are no numbers.
    """
    if isinstance(raw, Tensor):
        return raw.detach()
    if is_pandas(raw):
        return tensor_of(table_of(raw, what), what)
    if isinstance(raw, list | tuple) and raw and isinstance(raw[0], Tensor):
        shapes = {tuple(part.shape) for part in raw}
        if len(shapes) > 1:
            some = " and ".join(map(str, sorted(shapes)[:2]))
            raise ValueError(f"{what}: examples of one batch have the shapes {some}: resize, crop or pad them to one.")
        return torch.stack([part.detach() for part in raw])
    array = array_of(raw, what)
    if array.dtype.kind not in "biuf" or not array.dtype.isnative:
        shown = repr(array.flat[0])[:40] if array.size else str(array.dtype)
        raise ValueError(f"{what} must be numbers, not {array.dtype} such as {shown}.")
    if array.dtype.kind == "f":
        array = array.astype(np.float32, copy=False)
    elif array.dtype.kind in "iu" and array.dtype != np.uint8:
        array = array.astype(np.int64, copy=False)
    plain = array.flags.writeable and min(array.strides, default=0) >= 0
    return torch.from_numpy(array if plain else array.copy())


def array_of(raw: Any, what: str) -> np.ndarray:
    """A numpy array of anything that numpy takes; ValueError for lists of different lengths."""
    try:
        return np.asarray(raw)
    except (ValueError, TypeError) as problem:
        if "inhomogeneous" in str(problem):
            raise ValueError(f"{what}: its examples have different lengths: pad or cut them to one.") from None
        raise ValueError(f"{what} must be numbers, not {type(raw).__name__} ({problem}).") from None


def names_in(raw: Any) -> tuple[str, ...] | None:
    """The names of a table's columns; None where it has none, as an array, or a table that only counts its columns."""
    if not is_pandas(raw) or not hasattr(raw, "columns") or list(raw.columns) == list(range(len(raw.columns))):
        return None
    return tuple(map(str, raw.columns))


def in_order_of(raw: Any, names: tuple[str, ...], what: str) -> Any:
    """A table with its columns in the order of `names`; what has no names stays as it is.

    Raises:
        ValueError: a column that is not among them, one that is missing, or two of one name.
    """
    own = names_in(raw)
    if own is None or own == names:
        return raw
    return raw.iloc[:, order_of(own, names, what)]


def order_of(own: tuple[str, ...], names: tuple[str, ...], what: str) -> list[int]:
    """Where among its `own` columns a table has each of `names`.

    Raises:
        ValueError: as `in_order_of`.
    """
    require_own_names(own, what)
    missing, strange = (sorted(set(one) - set(two)) for one, two in ((names, own), (own, names)))
    if missing or strange:
        lacks = [f"the column {missing[0]!r} is missing"] if missing else []
        has = [f"the column {strange[0]!r} is not one that was learned"] if strange else []
        some = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        raise ValueError(f"{what}: {' and '.join(lacks + has)}: the columns must be {some}.")
    return [own.index(name) for name in names]


def require_own_names(names: Sequence[Any], what: str) -> None:
    """ValueError for two columns of one name."""
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise ValueError(f"{what}: two columns are named {twice!r}: give each its own name.")


def require_vocabulary(tokens: Tensor, vocabulary: int | None, what: str) -> None:
    """ValueError for a token id that is not below `vocabulary`, which may be unknown."""
    if vocabulary is None or tokens.numel() == 0:
        return
    low, high = (int(bound) for bound in tokens.aminmax())
    if low < 0 or high >= vocabulary:
        raise ValueError(
            f"{what} has the token id {low if low < 0 else high}, but the network's embedding has the ids 0 to "
            f"{vocabulary - 1}."
        )


def require_finite(values: Tensor, what: str) -> None:
    """ValueError, naming the first bad example, for NaN or infinite values."""
    if not values.is_floating_point():
        return
    for start in range(0, len(values), CHUNK):
        good = torch.isfinite(values[start : start + CHUNK]).flatten(1 if values.dim() > 1 else 0)
        if not bool(good.all()):
            row = start + int((~good).nonzero()[0, 0])
            raise ValueError(f"{what} holds NaN or infinite values, first in example {row}: fill or drop them.")


def table_of(raw: Any, what: str) -> np.ndarray:
    """The values of a DataFrame or Series of pandas, whose columns are numbers."""
    columns = [(None, raw)]
    if hasattr(raw, "columns"):
        require_own_names(list(raw.columns), what)
        columns = [(name, raw[name]) for name in raw.columns]
    for name, column in columns:
        kind = getattr(column.dtype, "kind", "O")
        if kind not in "biuf":
            where = f"its column {name!r}" if name is not None else "it"
            raise ValueError(f"{what}: {where} holds {column.dtype}, not numbers: encode it as numbers, or drop it.")
    values: np.ndarray = raw.to_numpy()
    if values.dtype.kind in "biuf":
        return values
    nullable: np.ndarray = raw.to_numpy(dtype=np.float64, na_value=np.nan)  # `require_finite` says which row has none
    return nullable


def _as_is(raw: Any, what: str) -> Tensor:
    """One of several parts: its numbers, as the model's own `forward` takes them."""
    values = tensor_of(raw, what)
    if values.dim() == 0:
        raise ValueError(f"{what} is a single number: its first axis must be the examples.")
    values = values.float() if values.dtype == torch.float64 else values
    require_finite(values, what)
    return values


def _numbers(raw: Any, expected: Expected, what: str) -> Tensor:
    """A single input tensor in the type that networks take."""
    if isinstance(raw, list) and raw and is_picture(raw[0]):
        return _pictures(raw, expected.shape, what)
    values = tensor_of(raw, what)
    if values.dim() == 0 or (values.dim() == 1 and expected.shape != ()):
        raise ValueError(
            f"{what} has the shape {tuple(values.shape)}: its first axis must be the examples, and each of them "
            f"{expected.shape}."
        )
    whole = not values.is_floating_point()
    if expected.tokens:
        if not whole or values.dtype == torch.bool:
            raise ValueError(f"{what}: the network takes token ids, which are whole numbers, not {values.dtype}.")
        return values.long()
    if len(expected.shape) == 3 and whole and values.dtype != torch.uint8:
        return torch.from_numpy(to_bytes(values.cpu().numpy(), what, top=255)[0])  # as uint8: by itself, not its batch
    values = values if values.dtype == torch.uint8 else values.float()
    require_finite(values, what)
    return values


def _pictures(images: list[Any], shape: tuple[int, ...], what: str) -> Tensor:
    """Pillow's images, as people see them, as uint8 (N, C, H, W)."""
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"{what}: the network takes {shape}, not pictures of 1 or 3 channels.")
    pixels = torch.empty(len(images), *shape, dtype=torch.uint8)
    for number, image in enumerate(images):
        seen = as_seen(image).image.convert("L" if shape[0] == 1 else "RGB")
        if seen.size != (shape[2], shape[1]):
            raise ValueError(
                f"{what}: a picture has {seen.width} x {seen.height} pixels, the network takes {shape[2]} x {shape[1]}"
                ": resize pictures in the data set's own transform."
            )
        pixels[number] = torch.from_numpy(np.array(seen)).view(*shape[1:], shape[0]).permute(2, 0, 1)
    return pixels


def _shaped(values: Tensor, expected: Expected, what: str) -> Tensor:
    """Values with the network's axes, where its shape leaves no doubt: grey, channels last, rows."""
    shape, own = expected.shape, tuple(values.shape[1:])
    if own == shape or not shape or (expected.tokens and len(own) == len(shape)):
        return values
    if len(shape) == 3:
        channels, height, width = shape
        if own == (height, width) and channels == 1:
            return values.unsqueeze(1)
        if own == (height, width, channels) and channels in (1, 3, 4):
            return values.permute(0, 3, 1, 2).contiguous()
        if own == (width,) and channels == height == 1:
            return values.view(-1, 1, 1, width)
    raise ValueError(f"{what}: the network takes examples of {shape}, not {own}.")
