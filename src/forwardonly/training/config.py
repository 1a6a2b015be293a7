"""The training config: every option that is not the rule's or the body's own, and how it gets its value."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral
from typing import Any, Literal, Self

from forwardonly.data import Augment, Images, augmentation
from forwardonly.names import check_choices, nearest
from forwardonly.rules import Preset, Rule, training_defaults
from forwardonly.system.memory import parse_bytes
from forwardonly.training import compatibility

LEAST_STEPS, SMALLEST = 16, 8
"""A default batch leaves at least so many steps an epoch, unless it would be smaller than so many images."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Training options. `resolve` gives each its value: the caller's, else the data set's, the rule's, or the default.

    Raises:
        ValueError: a value that makes no sense, or two that do not go together.
    """

    epochs: int = 30
    """Passes over the training images (for each block, if blocks train one after another)."""
    batch_size: int = 128
    """Images in a step; by default at most a sixteenth of the training images. The last images of an epoch that do not
    fill a batch wait for the next epoch."""
    optimiser: str = "adamw"
    """Optimiser of each block: muon, or the name of a class in torch.optim, in any case."""
    learning_rate: float = 1e-3
    """Highest learning rate of the run."""
    weight_decay: float = 0.0
    """Weight decay of the optimiser; muon keeps the length of weights, so there it acts on read-outs alone."""
    momentum: float | None = None
    """Momentum, for optimisers that take one; by default 0.6 for muon, 0.9 for others."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """How the learning rate falls from its highest value."""
    final_rate: float = 0.0
    """Share of the highest learning rate that is left at the end of a linear or cosine schedule."""
    warmup: float = 0.0
    """Share of the run in which the learning rate rises to its highest value."""
    delay: float = 0.0
    """Share of the run after which the last block starts to learn, at the rate that the others have by then; those
    before it start at even distances, the first at once. A block that has not started costs nothing."""
    clip: float | None = None
    """Largest norm of a block's gradient; none leaves it as it is."""
    schedule: Literal["simultaneous", "greedy"] = "simultaneous"
    """Train all blocks on every batch, or one block after another, each to its end."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the blocks; auto takes bf16 where the processor computes it natively."""
    memory_budget: str | None = None
    """Memory to train within, such as 2GiB; blocks then compute micro-batches where they must, and idle ones are
    offloaded: to the host's memory, or on a CPU to files. Batch norm and rules that compare images see a micro-batch.
    """
    workers: int = 1
    """Batches under way at once, each at another block and with its share of the processor's threads: quicker where
    feature maps are small, with the same result as one worker on so few threads."""
    checkpoint_every: int | None = None
    """Steps between checkpoints within an epoch; there is one after each epoch in any case."""
    compile: bool = False
    """Compile each block's forward and backward pass; takes up to a minute at the start, so for long runs on a GPU."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda or cuda:N."""
    validate_every: int = 1
    """Measure accuracy on the validation images after every so many epochs."""
    diagnose: bool = False
    """Measure free-riding too, whenever accuracy is measured on the validation images."""
    crop: int = 0
    """Augmentation: pad by this many pixels and cut out the old size at random."""
    flip: Literal["none", "random", "alternating"] = "none"
    """Augmentation: mirror images at random, or each one in every other epoch."""
    cutout: int = 0
    """Augmentation: side in pixels of a square that is blanked at random."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "validate_every", "workers", "checkpoint_every"):
            value = getattr(self, name)
            if name == "checkpoint_every" and value is None:
                continue
            if not isinstance(value, Integral):  # an epoch and a half would never come to its end
                raise ValueError(f"{name} must be a whole number, not {value!r}.")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}.")
            object.__setattr__(self, name, int(value))  # JSON knows no numpy
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}.")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be 0 or more, not {self.weight_decay}.")
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is a share from 0 to below 1, not {self.momentum}.")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is a share of the run, from 0 to below 1, not {self.warmup}.")
        if not 0 <= self.delay < 1:
            raise ValueError(f"delay is a share of the run, from 0 to below 1, not {self.delay}.")
        if not 0 <= self.final_rate <= 1:
            raise ValueError(f"final_rate is a share of the highest rate, from 0 to 1, not {self.final_rate}.")
        if self.memory_budget is not None:
            parse_bytes(self.memory_budget)
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip must be positive, not {self.clip}.")
        check_choices(self)
        compatibility.check(compatibility.Setting(self))

    @classmethod
    def resolve(cls, rule: Rule, data: Images | None = None, given: Mapping[str, Any] | None = None) -> Self:
        """The config of a run: what is given, over what suits the data set, over what suits the rule, over defaults.

        Args:
            rule: its `training_defaults` are taken; those that greedy training cannot have are left away under it.
            data: the training images: their set's augmentation is taken, and a default batch is no larger than a
                sixteenth of them.
            given: options by name. None gives nothing, but to an option such as `clip` for which it is a value.

        Raises:
            ValueError: an unknown option, or a value that makes no sense.
        """
        known = {field.name: field for field in fields(cls)}
        chosen = {}
        for name, value in (given or {}).items():
            if name not in known:
                raise ValueError(f"Unknown training option {name!r}: {nearest(name, known)}")
            if value is not None or known[name].default is None:
                chosen[name] = value
        own = suited(rule, chosen.get("schedule", cls.schedule))
        if data is not None:
            own.update(asdict(augmentation(data.name)))
            own["batch_size"] = min(own.get("batch_size", cls.batch_size), max(SMALLEST, len(data) // LEAST_STEPS))
        return replace(cls(), **{**own, **chosen})

    @property
    def augment(self) -> Augment | None:
        """What happens to a batch of training images, or None if nothing does."""
        chosen = Augment(crop=self.crop, flip=self.flip, cutout=self.cutout)
        return None if chosen == Augment() else chosen


def suited(rule: Rule | type[Rule] | Preset, schedule: str) -> dict[str, Any]:
    """The training options that suit a rule or preset, but a delay where blocks train one after another."""
    own = training_defaults(rule)
    return {name: value for name, value in own.items() if name != "delay" or schedule != "greedy"}
