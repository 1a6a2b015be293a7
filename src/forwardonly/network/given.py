"""What a network is given to score or predict, read as `fo.fit` and `fo.evaluate` read their inputs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forwardonly.data.inputs import Expected, is_array, read_inputs, tensor_of
from forwardonly.network.prepare import AsGiven, Prepare

WHAT = "the data to predict"


def is_inputs(given: Any, expected: Expected, prepare: Prepare) -> bool:
    """Whether it is inputs as such, and not data that have them beside targets or batch by batch."""
    if isinstance(given, list):
        return _holds_numbers(given)
    if not isinstance(given, tuple):
        return isinstance(given, Mapping) or is_array(given)
    if len(given) == 2 and isinstance(given[0], tuple | Mapping):
        return _is_nested(prepare)  # else the first is the inputs, and the second the targets
    return not expected.shape


def read_given(given: Any, expected: Expected, prepare: Prepare) -> Any:
    """Inputs as tensors, on the device where they are.

    Raises:
        ValueError: what `read_inputs` refuses.
    """
    if not prepare.checks:  # an exported graph takes tensors of its own form, and has no errors
        return given
    if isinstance(prepare, AsGiven):  # which looks at their form: sizes may differ, as the lengths of texts do
        if _is_nested(prepare):
            return given
        several = tuple(given) if isinstance(given, list) and "parts" in prepare.form else given
        return read_inputs(several, expected._replace(shape=()), WHAT)
    if len(expected.shape) == 3 and isinstance(given, Tensor | np.ndarray):
        given = tensor_of(given, WHAT)
        if _refused_by_prepare(given, expected, prepare):
            return given
    return read_inputs(given, expected, WHAT)


def _refused_by_prepare(given: Tensor, expected: Expected, prepare: Prepare) -> bool:
    """Whether `prepare` is to refuse pictures in its own words, which say more.

    They have other sizes in whatever order; or they are whole numbers other than bytes, of which only a network that
    has learned knows what they stand for.
    """
    if prepare.input is None and not given.is_floating_point() and given.dtype != torch.uint8:
        return True
    return given.dim() == 4 and sorted(given.shape[1:]) != sorted(expected.shape)


def _is_nested(prepare: Prepare) -> bool:
    """Whether parts of the inputs have parts; these go to the model as they are, for no data set has such."""
    parts = prepare.form.get("parts", ()) if isinstance(prepare, AsGiven) else ()
    return any("parts" in part for part in (parts.values() if isinstance(parts, Mapping) else parts))


def _holds_numbers(given: Any) -> bool:
    """Whether nested lists are an array."""
    while isinstance(given, list) and given:
        given = given[0]
    return isinstance(given, int | float | np.generic)
