"""How a network is trained: every option that is not the rule's or the body's own."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

from forwardonly.data import Augment
from forwardonly.names import check_choices, nearest
from forwardonly.rules import Preset, Rule, training_defaults
from forwardonly.system.memory import parse_bytes


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Training options. A rule's `config` overrides the defaults here, and what a caller gives overrides both."""

    epochs: int = 30
    """Passes over the training images (for each block, if blocks train one after another)."""
    batch_size: int = 128
    """Images in a step; the last images of an epoch that do not fill a batch wait for the next epoch."""
    optimiser: str = "adamw"
    """Optimiser that each block has: muon, or the name of any class in torch.optim, in any case."""
    learning_rate: float = 1e-3
    """Highest learning rate of the run."""
    weight_decay: float = 0.0
    """Weight decay of the optimiser."""
    momentum: float = 0.9
    """Momentum, for optimisers that take one."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """How the learning rate falls from its highest value."""
    final_rate: float = 0.0
    """Share of the highest learning rate that is left at the end of a linear or cosine schedule."""
    warmup: float = 0.0
    """Share of the run in which the learning rate rises to its highest value."""
    delay: float = 0.0
    """Share of the run that the last block waits before it begins to learn, at the rate that the others have by then;
    those before it begin at even distances, the first at once. A waiting block costs nothing."""
    settle: float = 1.0
    """Share of the run after which the first block has learned and stays as it is; those behind it follow at even
    distances, the last at the end. Each goes through the whole schedule of the learning rate in its own time."""
    clip: float | None = None
    """Largest norm of a block's gradient; none leaves it as it is."""
    schedule: Literal["simultaneous", "greedy"] = "simultaneous"
    """Train all blocks on every batch, or one block after another, each to its end."""
    redraw: Literal["each-epoch", "once"] = "each-epoch"
    """Draw the wrong labels that contrastive rules learn from anew in each epoch, or once for the whole run."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the blocks; auto takes bf16 where the processor computes it natively."""
    memory_budget: str | None = None
    """Memory to train within, such as 2GiB; blocks then compute parts of a batch where they must, and idle ones wait
    outside the device: in the host's memory, or on a CPU in files. Batch norm and rules that compare images see a part.
    """
    workers: int = 1
    """Batches under way at once, each at another block and with its share of the processor's threads: quicker where
    maps are small, with the same result as one worker on so few threads. Not for GPUs, dropout or several processes."""
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
        for name in ("epochs", "batch_size", "validate_every", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}.")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is a share of the run, from 0 to below 1, not {self.warmup}.")
        if not 0 < self.settle <= 1:
            raise ValueError(f"settle is a share of the run, above 0 and up to 1, not {self.settle}.")
        if not 0 <= self.delay < 1:
            raise ValueError(f"delay is a share of the run, from 0 to below 1, not {self.delay}.")
        if self.staggered and self.schedule == "greedy":
            raise ValueError("Blocks that train one after another do so as a whole: delay must be 0, settle must be 1.")
        if self.checkpoint_every is not None and self.checkpoint_every < 1:
            raise ValueError(f"checkpoint_every must be at least 1 step, not {self.checkpoint_every}.")
        if not 0 <= self.final_rate <= 1:
            raise ValueError(f"final_rate is a share of the highest rate, from 0 to 1, not {self.final_rate}.")
        if self.memory_budget is not None:
            parse_bytes(self.memory_budget)
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip must be positive, not {self.clip}.")
        check_choices(self)

    @classmethod
    def for_rule(cls, rule: Rule, **given: Any) -> Self:
        """Defaults, overridden by the rule's config, overridden by what is given.

        None gives nothing, but to an option such as `clip` for which it is a value: there it overrides too.

        Raises:
            ValueError: an unknown option, or a value that makes no sense.
        """
        known = {field.name: field for field in fields(cls)}
        for name in given:
            if name not in known:
                raise ValueError(f"Unknown training option {name!r}: {nearest(name, known)}")
        chosen = {name: value for name, value in given.items() if value is not None or known[name].default is None}
        own = defaults_of(rule, chosen.get("schedule", cls.schedule))
        return replace(cls(), **{**own, **chosen})

    @property
    def staggered(self) -> bool:
        """Whether some blocks begin to learn, or stop, before others do."""
        return self.delay > 0 or self.settle < 1

    @property
    def augment(self) -> Augment | None:
        """What happens to a batch of training images, or None if nothing does."""
        chosen = Augment(crop=self.crop, flip=self.flip, cutout=self.cutout)
        return None if chosen == Augment() else chosen


def defaults_of(rule: Rule | type[Rule] | Preset, schedule: str) -> dict[str, Any]:
    """The training options that suit a rule, but for those that blocks which train one after another cannot have."""
    staggering = ("delay", "settle") if schedule == "greedy" else ()
    return {name: value for name, value in training_defaults(rule).items() if name not in staggering}
