"""Preparation of what the first block is given, and of the numbers that a network learns.

Pictures become floats and are standardised if the rule wants it; a stem may follow. What is not pictures goes as it is,
standardised if the network was built so.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from forwardonly.bodies import Stem
from forwardonly.data.inputs import Inputs, require_finite, require_vocabulary
from forwardonly.data.ranges import is_unit, require_unit
from forwardonly.network.signal import Signal, tensors_in

Input = Literal["pixels", "features", "tokens"]
PIECE = 1 << 24  # pixels that are counted at a time
CONSTANT = 1e-6  # of its mean: a float feature that deviates by no more is a constant with rounding errors
STEM_SAMPLE = 5_000  # images that a stem is fitted to: enough for a covariance, few enough to hold as floats


class Prepare(nn.Module):
    """Pictures, uint8 (0..255) or float (0..1), (B, C, H, W) -> float32: per channel (x - mean) / std, then the stem.

    With `channels_last` the result has the memory format that convolutions prefer. Inputs whose `shape` has another
    number of axes are no pictures: they become float32 (B, *shape), of which with `standardise` each feature, or
    channel, has zero mean and unit deviation; with `tokens` they are int64 token ids, below `vocabulary` where that is
    known. Several inputs, in a tuple or a dict, go as they are.

    `mean` and `std` (C, 1, ...) are saved with the model; they are 0 and 1 until `fit` has seen training data, and
    always if `standardise` is false. `input` is what `fit` was last given: "pixels" (uint8 pictures), "features"
    (floats, of any range), "tokens", or None before.

    Raises:
        ValueError: inputs of another shape, of another type, or with NaN or infinite values; floats outside 0 to 1
            where the network was fitted to pixels.
    """

    mean: Tensor
    std: Tensor
    fitted: Tensor
    checks = True
    """Whether values are looked at, for NaN and for their range: not in an exported graph, which has no errors."""

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        standardise: bool,
        stem: Stem | None = None,
        channels_last: bool = False,
        tokens: bool = False,
        vocabulary: int | None = None,
    ):
        super().__init__()
        self.shape = tuple(shape)
        self.standardise = standardise
        self.tokens = tokens
        self.vocabulary = vocabulary
        self.input: Input | None = None
        self.range: tuple[float, float] | None = None  # of features that lie as pictures do
        channels = (*self.shape[:1], *[1] * (len(self.shape) - 1))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        self.register_buffer("fitted", torch.tensor(not standardise and stem is None))
        self.stem = stem
        self.channels_last = channels_last

    @property
    def pictures(self) -> bool:
        """Whether the network takes pictures, (channels, height, width)."""
        return len(self.shape) == 3

    def blank(self, count: int) -> Tensor:
        """`count` inputs of zeros, of the type that the network takes."""
        pixels = self.pictures and self.input != "features"
        dtype = torch.int64 if self.tokens else torch.uint8 if pixels else torch.float32
        return torch.zeros(count, *self.shape, dtype=dtype, device=self.mean.device)

    @property
    def high(self) -> float:
        """The largest value a pixel can have after preparation."""
        return float(((1 - self.mean) / self.std).max()) if self.standardise else 1.0

    def fit(self, images: Inputs) -> None:
        """Fits mean and deviation to training images or other inputs (N, ...), and the stem to a sample, once."""
        if not isinstance(images, Tensor):
            return
        if self.tokens:
            self.input = "tokens"
        else:
            self.input = "features" if images.is_floating_point() or not self.pictures else "pixels"
            self.range = None
            if self.pictures and self.input == "features":
                low, high = images.aminmax()
                self.range = float(low), float(high)
        if self.fitted or self.tokens:
            return
        if self.standardise:
            self._fit_deviation(images)
        if self.stem is not None:
            every = max(1, len(images) // STEM_SAMPLE)  # images from a folder are sorted by class
            self.stem.fit(self._pixels(images[::every][:STEM_SAMPLE]))
        self.fitted.fill_(True)

    def take(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Takes the statistics that a pretrained model's weights were trained with, instead of those of new images.

        Raises:
            ValueError: they are not one number, or one for each channel, or a deviation is not above 0.
        """
        for name, given in (("mean", mean), ("std", std)):
            own = torch.as_tensor(given, dtype=torch.float32).flatten()
            if (
                len(own) not in (1, self.shape[0])
                or not torch.isfinite(own).all()
                or (name == "std" and own.min() <= 0)
            ):
                raise ValueError(
                    f"{name} is one number or one for each of {self.shape[0]} channels, for pixels from 0 to 1, "
                    f"not {given}."
                )
            getattr(self, name).copy_(own.view(-1, 1, 1))
        self.fitted.fill_(True)

    def _fit_deviation(self, images: Tensor) -> None:
        if images.is_floating_point() or not self.pictures:
            over = (0, *range(2, images.dim()))
            std, mean = torch.std_mean(images.float(), dim=over, correction=0, keepdim=True)
            self.mean.copy_(mean[0])
            steady = std[0] <= CONSTANT * mean[0].abs()
            self.std.copy_(torch.where(steady, std[0].clamp_min(1e-3), std[0]))
            return
        levels = torch.arange(256, dtype=torch.float64, device=images.device) / 255
        for channel in range(self.shape[0]):  # a histogram is exact and needs no float copy of the whole set
            counts = [
                torch.bincount(part[:, channel].flatten(), minlength=256)
                for part in images.split(max(1, PIECE // images[0, 0].numel()))
            ]
            share = torch.stack(counts).sum(0).double()
            share /= share.sum()
            mean = (share * levels).sum()
            std = (share * (levels - mean).square()).sum().sqrt()
            self.mean[channel] = mean.float()
            self.std[channel] = std.float().clamp_min(1e-3)

    def forward(self, images: Inputs) -> Any:
        if not isinstance(images, Tensor):
            return images
        if not self.pictures:
            return self._values(images)
        pixels = self._pixels(images)
        if self.stem is not None:
            pixels = self.stem(pixels)
        # A step of the "six" body takes 1.23 s this way, 1.63 s with channels first (batch 250, a CPU core, bf16).
        return pixels.contiguous(memory_format=torch.channels_last) if self.channels_last else pixels

    def _values(self, inputs: Tensor) -> Tensor:
        """Inputs that are no pictures."""
        own = tuple(inputs.shape[1:])
        if self.tokens:
            if len(own) != len(self.shape) or inputs.is_floating_point():
                raise ValueError(f"The network takes token ids (B, {', '.join('T' * len(self.shape))}), not {own}.")
            if self.checks:
                require_vocabulary(inputs, self.vocabulary, "The batch")
            return inputs.long()
        if self.shape and own != self.shape:
            raise ValueError(f"The network takes examples of {self.shape}, not {own}.")
        values = inputs.float()
        if self.checks:
            require_finite(values, "The batch")
        return (values - self.mean) / self.std if self.standardise else values

    def _pixels(self, images: Tensor) -> Tensor:
        if images.dim() != 4 or tuple(images.shape[1:]) != self.shape:
            got = " x ".join(map(str, images.shape[1:]))
            want = " x ".join(map(str, self.shape))
            raise ValueError(f"The network takes images of {want} (channels, height, width), not {got}.")
        if images.dtype == torch.uint8:
            if self.range is not None and not is_unit(*self.range):
                low, high = self.range
                raise ValueError(
                    f"The network was trained on floats from {low:g} to {high:g}, and bytes stand for 0 to 1: give it "
                    "floats of that range."
                )
            values = images.float() / 255
        elif images.is_floating_point():
            values = images.float()
            if self.checks:
                self._require_pixels(values)
        else:
            raise ValueError(f"Images must be uint8 or float, not {images.dtype}.")
        return (values - self.mean) / self.std if self.standardise else values

    def _require_pixels(self, values: Tensor) -> None:
        if not torch.isfinite(values).all():
            raise ValueError("The images hold NaN or infinite values; pixels must be finite.")
        if self.input == "pixels" and values.numel():
            low, high = values.aminmax()
            require_unit(float(low), float(high), "The network was trained on pixels and the images hold")


class Units(nn.Module):
    """The units of the numbers that a network learns: it learns (y - mean) / std, and says y.

    `mean` and `std` (C,) are saved with the model; they are 0 and 1 until `fit` has seen training targets.
    """

    mean: Tensor
    std: Tensor
    fitted: Tensor

    def __init__(self, outputs: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(outputs))
        self.register_buffer("std", torch.ones(outputs))
        self.register_buffer("fitted", torch.tensor(False))

    def fit(self, numbers: Tensor) -> None:
        """Fits mean and deviation to training targets (N, C), once; of a constant the deviation is 1."""
        if self.fitted:
            return
        std, mean = torch.std_mean(numbers.double(), dim=0, correction=0)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 0, std, 1.0))
        self.fitted.fill_(True)

    def require_fitted(self) -> None:
        """Raises ValueError before `fit`."""
        if not self.fitted:
            raise ValueError("The network does not know its numbers' units: call network.units.fit(numbers) first.")

    def standardised(self, numbers: Tensor) -> Tensor:
        """Numbers (..., C) in the units of the loss."""
        return (numbers - self.mean) / self.std

    def forward(self, scores: Tensor) -> Tensor:
        """Scores (..., C) in the units of the targets."""
        return scores * self.std + self.mean


Form = dict[str, Any]
"""The form of a network's input: of a tensor its sizes without the batch and its type, of a tuple or dict its parts."""


def form_of(example: Signal) -> Form:
    """The form of an example, as JSON represents it.

    Raises:
        ValueError: the example is neither a tensor with a batch on axis 0, nor a tuple or dict of such.
    """
    if isinstance(example, Tensor):
        if example.dim() == 0 or len(example) == 0:
            raise ValueError("The example must hold inputs, with the batch on axis 0.")
        return {"sizes": list(example.shape[1:]), "type": str(example.dtype).removeprefix("torch.")}
    if isinstance(example, Mapping):
        return {"parts": {str(name): form_of(part) for name, part in example.items()}}
    if isinstance(example, tuple | list):
        return {"parts": [form_of(part) for part in example]}
    raise ValueError(f"The example must be a tensor, or a tuple or dict of tensors, not {type(example).__name__}.")


def blank_of(form: Form, count: int, device: torch.device | None = None) -> Signal:
    """`count` inputs of a form, all zeros."""
    if "parts" not in form:
        return torch.zeros(count, *form["sizes"], dtype=getattr(torch, form["type"]), device=device)
    parts = form["parts"]
    if isinstance(parts, Mapping):
        return {name: blank_of(part, count, device) for name, part in parts.items()}
    return tuple(blank_of(part, count, device) for part in parts)


class AsGiven(Prepare):
    """Inputs that are no images: they go to the model as they are, once their form has been checked.

    Sizes may differ from the example's, as the lengths of texts do; the number of axes and the kind of numbers may not.

    Raises:
        ValueError: inputs of another form, with NaN or infinite values, or with token ids that the model does not have.
    """

    def __init__(self, form: Form):
        whole = "parts" not in form and not getattr(torch, form["type"]).is_floating_point
        super().__init__((1,), standardise=False, tokens=whole, vocabulary=form.get("vocabulary"))
        self.form = form
        self.input = "features"

    def blank(self, count: int) -> Any:
        return blank_of(self.form, count, self.mean.device)

    def fit(self, inputs: Signal) -> None:
        """Nothing."""

    def sized_as_the_example(self, inputs: Signal) -> bool:
        """Whether inputs have the example's sizes, but for their number."""
        own, others = (sorted(tensor.shape[1:] for tensor in tensors_in(each)) for each in (self.blank(1), inputs))
        return own == others

    def forward(self, inputs: Signal) -> Signal:
        _require_form(inputs, self.form, "The network")
        if self.checks:
            _require_ids(inputs, self.form, "The input")
        for tensor in tensors_in(inputs) if self.checks else ():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise ValueError("The inputs hold NaN or infinite values; they must be finite.")
        return inputs


def _require_ids(inputs: Signal, form: Form, what: str) -> None:
    """Raises ValueError for token ids that the model's embeddings do not have."""
    if "parts" not in form:
        require_vocabulary(inputs, form.get("vocabulary"), what)
        return
    parts = form["parts"]
    for name, part in parts.items() if isinstance(parts, Mapping) else enumerate(parts):
        _require_ids(inputs[name], part, f"The input {name!r}")


def _require_form(inputs: Signal, form: Form, who: str) -> None:
    """Raises ValueError unless inputs are of a form."""
    if "parts" not in form:
        kind = "whole numbers" if not getattr(torch, form["type"]).is_floating_point else "floats"
        if not isinstance(inputs, Tensor):
            raise ValueError(f"{who} takes a tensor of {kind}, not {type(inputs).__name__}.")
        given = "floats" if inputs.is_floating_point() else "whole numbers"
        if inputs.dim() != len(form["sizes"]) + 1 or given != kind:
            like = " x ".join(map(str, ("batch", *form["sizes"])))
            got = " x ".join(map(str, inputs.shape))
            raise ValueError(f"{who} takes {kind} of {like}, not {given} of {got}.")
        return
    parts = form["parts"]
    if isinstance(parts, Mapping):
        if not isinstance(inputs, Mapping) or set(inputs) != set(parts):
            got = ", ".join(map(str, inputs)) if isinstance(inputs, Mapping) else type(inputs).__name__
            raise ValueError(f"{who} takes a dict with {', '.join(parts)}, not {got}.")
        for name, part in parts.items():
            _require_form(inputs[name], part, f"{who}'s input {name!r}")
        return
    if not isinstance(inputs, tuple | list) or len(inputs) != len(parts):
        raise ValueError(f"{who} takes a tuple of {len(parts)} tensors.")
    for number, (own, part) in enumerate(zip(inputs, parts, strict=True)):
        _require_form(own, part, f"{who}'s input {number}")
