"""Inputs and targets in memory, of any shape and kind, made of tensors, numpy arrays or pandas tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from forwardonly.data.images import Images
from forwardonly.data.inputs import Expected, names_in, read_inputs, require_vocabulary
from forwardonly.data.targets import Names, read_targets, some
from forwardonly.targets import Kind


@dataclass(frozen=True, eq=False)
class Examples(Images):
    """Inputs (N, ...) with targets (N, ...) of any kind; accepted wherever images are. Made by `read_arrays`.

    images: uint8, float32, or int64 token ids; labels: as `forwardonly.targets` says of the kind. Raises ValueError
    where there are not as many of both. features: names of the columns of a table, None without.
    """

    learned: Kind = "class"
    features: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(f"{self.name}: {len(self.images)} inputs but {len(self.labels)} targets, all need one.")

    @property
    def kind(self) -> Kind:
        return self.learned

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]  # of any number of axes
        """The shape of one input."""
        return tuple(self.images.shape[1:])


def read_arrays(x: Any, y: Any, expected: Expected, names: Names, name: str) -> Examples:
    """(X, y) as tensors, which are not copied where their type is right already.

    Raises:
        ValueError: what `read_inputs` and `read_targets` refuse, or not as many inputs as targets.
    """
    inputs = read_inputs(x, expected, f"X of {name}")
    assert isinstance(inputs, torch.Tensor)
    if y is None and expected.kind == "token":  # text that is its own target
        require_vocabulary(inputs[:, :-1], expected.vocabulary, f"X of {name}")
        return Examples(inputs[:, :-1], inputs[:, 1:], (), name, learned="token")
    if expected.tokens:
        require_vocabulary(inputs, expected.vocabulary, f"X of {name}")
    if y is None and not expected.labelled:
        y = inputs  # of which only the number counts
    targets, classes = read_targets(y, expected, names, f"y of {name}")
    own = names_in(x) and (expected.features or names_in(x))  # the order in which `read_inputs` has put them
    return Examples(inputs, targets, classes, name, learned=expected.kind, features=own)


def columns_as(examples: Images, names: Sequence[str], whose: str) -> Images:
    """Targets of several columns with the columns in the order of `names`.

    Raises:
        ValueError: a column that is not among them, or one that is missing.
    """
    names = tuple(names)
    if examples.classes == names:
        return examples
    if sorted(examples.classes) != sorted(names) or len(set(names)) < len(names):
        raise ValueError(f"{examples.name} has the columns {some(examples.classes)}, {whose} has {some(names)}.")
    order = torch.tensor([examples.classes.index(name) for name in names], device=examples.labels.device)
    return replace(examples, labels=examples.labels.index_select(1, order), classes=names)
