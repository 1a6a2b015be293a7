"""`take` makes one of two things of whatever data people have: examples in memory, or a stream of batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from forwardonly.data.examples import read_arrays
from forwardonly.data.images import Images, Splits
from forwardonly.data.indexed import Indexed
from forwardonly.data.inputs import Expected, is_array, is_pandas, read_inputs
from forwardonly.data.matching import featured_as
from forwardonly.data.pairs import Raw, is_single
from forwardonly.data.resolution import require_columns_told_apart
from forwardonly.data.streams import Passing, as_it_is
from forwardonly.data.targets import Names, read_targets, some
from forwardonly.targets import OBJECTIVES

Data = Images | Indexed | Passing
Columns = tuple[str | Sequence[str], str]
"""The name of the input, or the names of several, and that of the target."""

TARGETS = ("label", "labels", "target", "targets", "y", "class", "cls")
"""Names by which the target is known among named columns."""


def take(
    data: Any,
    expected: Expected,
    *,
    classes: Sequence[Any] | None = None,
    columns: Columns | None = None,
    name: str = "data",
    learning: bool = False,
) -> Data:
    """Data of any kind as examples in memory or as a stream; what is either already stays as it is.

    Taken are our own sets; (X, y) of tensors, numpy arrays or pandas tables; a torch `Dataset` or `DataLoader`; Hugging
    Face `datasets`, mapped or streaming; lists of examples; any iterable of batches or examples, or a function that
    makes one.

    Args:
        data: a batch or an example of it is (inputs, target), or a dict.
        expected: what the network takes and learns; of one without labels, inputs alone will do.
        classes: names of the classes in the order of their indices, where the data do not say them.
        columns: of named columns, which are the inputs and the target.
        name: in messages.
        learning: whether scales are learned from the data: then columns of (X, y) whose values float32 does not tell
            apart are refused. Of a few rows to measure on, such a column may be right.

    Raises:
        ValueError: something else, or what `read_inputs` and `read_targets` refuse.
    """
    if isinstance(data, Data):
        if expected.labelled and data.kind != expected.kind:
            raise ValueError(
                f"{data.name} has {OBJECTIVES[data.kind].words} for targets, the network learns "
                f"{OBJECTIVES[expected.kind].words}: make its rule with targets={data.kind!r}."
            )
        return featured_as(data, expected.features)
    names = Names(classes) if classes is not None else Names(_own_names(data, columns), indices=True)
    split = partial(split_item, expected=expected, columns=columns, name=name)
    if isinstance(data, TensorDataset):
        *x, y = data.tensors
        if not x and not expected.labelled:
            return read_arrays(y, None, expected, names, name)
        return (
            _arrays(tuple(x) if len(x) > 1 else x[0], y, expected, names, name, learning)
            if x
            else _no_target(name, data)
        )
    if isinstance(data, tuple) and len(data) == 2 and not isinstance(data, Splits) and _is_inputs(data[0]):
        if is_array(data[1]):
            return _arrays(data[0], data[1], expected, names, name, learning)
    elif (expected.kind == "token" or not expected.labelled) and is_array(data) and not isinstance(data, list):
        return read_arrays(data, None, expected, names, name)
    if isinstance(data, str | Path | bytes | Splits | Mapping) or (is_array(data) and not isinstance(data, list)):
        return _no_target(name, data)
    if isinstance(data, DataLoader):
        return Passing(data, expected, names, name, split)
    listed = isinstance(data, list | tuple)
    by_index = hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, IterableDataset)
    if by_index and (not listed or (len(data) and is_single(split(data[0]), expected))):
        return Indexed(data, expected, names, name, split, held=listed)
    if not hasattr(data, "__iter__") and not callable(data):
        return _no_target(name, data)
    return Passing(data, expected, names, name, split)


def split_item(item: Any, expected: Expected, columns: Columns | None, name: str) -> Raw:
    """(inputs, targets) of a batch or an example; targets are None where it has none.

    Raises:
        ValueError: named columns of which it is not clear which is what.
    """
    if isinstance(item, Mapping):
        return _by_name(item, expected, columns, name)
    if isinstance(item, list | tuple):
        if len(item) < 2 or (isinstance(item, list) and not _is_inputs(item[0]) and not hasattr(item[0], "getbands")):
            return (item[0] if len(item) == 1 else item), None
        *inputs, target = item
        return (inputs[0] if len(inputs) == 1 else tuple(inputs)), target
    return item, None


class Rows:
    """Several inputs in memory, (N, ...) each, with targets (N, ...), read by index; nothing is copied before."""

    def __init__(self, inputs: Any, targets: Tensor):
        self.inputs = inputs
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitems__(self, chosen: list[int]) -> Raw:
        if isinstance(self.inputs, dict):
            return {name: part[chosen] for name, part in self.inputs.items()}, self.targets[chosen]
        return tuple(part[chosen] for part in self.inputs), self.targets[chosen]


def _arrays(x: Any, y: Any, expected: Expected, names: Names, name: str, learning: bool) -> Data:
    if not isinstance(x, tuple | Mapping) or is_pandas(x):
        examples = read_arrays(x, y, expected, names, name)
        if learning and not expected.tokens:
            require_columns_told_apart(x, f"X of {name}")
        return examples
    inputs = read_inputs(x, expected, f"X of {name}")
    targets, classes = read_targets(y, expected, names, f"y of {name}")
    rows = Rows(inputs, targets)
    if (count := len(next(iter(inputs.values() if isinstance(inputs, dict) else inputs)))) != len(targets):
        raise ValueError(f"{name}: {count} inputs but {len(targets)} targets, all need one.")
    own = Names(classes or None, indices=True)
    return Indexed(rows, expected, own, name, as_it_is, whole=True, held=True)


def _is_inputs(x: Any) -> bool:
    """Whether it holds the inputs of many examples: an array, or several in a tuple or dict."""
    if isinstance(x, Mapping):
        return bool(x) and all(map(is_array, x.values()))
    return is_array(x) or (isinstance(x, tuple) and bool(x) and all(map(is_array, x)))


def _by_name(item: Mapping[str, Any], expected: Expected, columns: Columns | None, name: str) -> Raw:
    keys = [key for key in item if not str(key).startswith("__")]
    hint = "say by columns=('image', 'label') which is the input and which the target"
    if columns is not None:
        inputs, target = columns
        wanted = [inputs] if isinstance(inputs, str) else list(inputs)
        for key in (*wanted, target):
            if key not in item:
                raise ValueError(f"{name} has no column {key!r}, but {some([str(each) for each in keys])}.")
    else:
        found = [key for key in keys if key in TARGETS]
        if len(found) > 1:
            raise ValueError(f"{name} has the columns {some(keys)}, of which several may be the target: {hint}.")
        target = found[0] if found else ""
        wanted = [key for key in keys if key != target]
    if not wanted:
        raise ValueError(f"{name} has no input beside {target!r}: {hint}.")
    if len(wanted) > 1 and expected.shape:
        raise ValueError(f"{name} has the columns {some(keys)}, and the network takes one input: {hint}.")
    one = len(wanted) == 1 and bool(expected.shape)
    return (item[wanted[0]] if one else {key: item[key] for key in wanted}), item.get(target)


def _own_names(data: Any, columns: Columns | None) -> Sequence[str] | None:
    """The class names that a data set says by itself, as torchvision's and Hugging Face's do."""
    features = getattr(data, "features", None)
    if isinstance(features, Mapping):
        lists = {key: each.names for key, each in features.items() if type(each).__name__ == "ClassLabel"}
        key = columns[1] if columns is not None else next((key for key in lists if key in TARGETS), None)
        if columns is None and key is None and len(lists) == 1:
            key = next(iter(lists))
        return lists.get(key) if key is not None else None
    for own in (data, getattr(data, "dataset", None), getattr(getattr(data, "dataset", None), "dataset", None)):
        names = getattr(own, "classes", None)
        if isinstance(names, list | tuple) and names and all(isinstance(each, str) for each in names):
            return names
        if own is not data and isinstance(getattr(own, "features", None), Mapping):
            return _own_names(own, columns)
    return None


def _no_target(name: str, data: Any) -> Data:
    """Raises the sentence for what is no data."""
    found, instead = type(data).__name__, "(X, y), a Dataset, a DataLoader, or an iterable of batches (inputs, targets)"
    if isinstance(data, Splits):
        instead = "one of the splits, such as splits.train"
    elif isinstance(data, str | Path):
        found, instead = repr(str(data)), "what fo.data.load or fo.data.shards makes of it"
    elif is_pandas(data) or is_array(data):
        instead = "(X, y): the inputs and, beside them, the targets"
    elif isinstance(data, Mapping):
        instead = "one of its parts, such as data['train'], or (inputs, targets)"
    raise ValueError(f"{name} must be {instead}, not {found}.")
