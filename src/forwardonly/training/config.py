"""The training config: all options but those of the rule and the body, and how each gets its value."""

from collections.abc import Mapping, Sized
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Self

from forwardonly.data import Augment, Features, augmentation
from forwardonly.data.taking import Data
from forwardonly.names import check_options, nearest
from forwardonly.rules import Preset, Rule, training_defaults
from forwardonly.system.memory import parse_bytes
from forwardonly.training import compatibility, optim

LEAST_STEPS, SMALLEST = 16, 8
"""A default batch leaves at least LEAST_STEPS steps in an epoch, unless it would have fewer than SMALLEST images."""

RESUMABLE = frozenset(
    {"device", "threads", "checkpoint_every", "validate_every", "diagnose", "memory_budget", "workers", "compile"}
    | {"precision", "epochs", "steps"}  # the trainer compares what they mean
)
"""Options that a resumed run may have other values of, because they do not decide what it learns."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Training options. `resolve` gives each its value: the caller's, else the data set's, the rule's, or the default.

    Raises:
        ValueError: a value out of range or of another type, or two options that cannot be combined.
    """

    epochs: int = 30
    """Passes over the training images (for each block, if blocks train one after another)."""
    steps: int | None = None
    """Steps of the run, for data without a length; `epochs`, then 1 by default, says in how many equal parts the run
    measures, reports and saves. Data that end sooner begin again.
    """
    batch_size: int = 128
    """Images in a step; by default at most a sixteenth of the training images. The incomplete last batch is dropped."""
    optimiser: str = "adamw"
    """Optimiser of each block: muon, or one of torch.optim, by its name in any case; lbfgs and sparseadam cannot."""
    learning_rate: float = 1e-3
    """Highest learning rate of the run."""
    weight_decay: float = 0.0
    """Weight decay of the optimiser; muon keeps the norm of weights, so under muon it acts on read-outs alone."""
    momentum: float | None = None
    """Momentum, for optimisers that take one; by default 0.6 for muon, 0.9 for others."""
    lr_schedule: Literal["constant", "linear", "cosine", "step"] = "cosine"
    """Decay of the learning rate from its highest value; step is one fall, half-way between warm-up and end."""
    final_rate: float = 0.0
    """Learning rate at the end of a schedule that falls, as a share of the highest; step wants one above 0."""
    warmup: float = 0.0
    """Share of the run in which the learning rate rises linearly to its highest value, n steps from 1/n of it on."""
    delay: float = 0.0
    """Share of the run after which the last block starts to learn, at the current learning rate; the blocks before it
    start at equal intervals, the first at once. A block that has not started costs nothing.
    """
    heads_first: float = 0.0
    """Share of the run in which bodies are frozen and only the rules' own weights learn: for pretrained models."""
    body_rate: float = 1.0
    """Learning rate of the bodies as a share of that of the rules' own weights: below 1 for pretrained models."""
    layer_decay: float = 1.0
    """Factor on the learning rate of each block's body per block behind it, so that early layers change less."""
    clip: float | None = None
    """Largest norm of a block's gradient; none does not clip it."""
    schedule: Literal["simultaneous", "greedy"] = "simultaneous"
    """Train all blocks on every batch (simultaneous), or one block after another, each to its end (greedy)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the blocks; auto takes bf16 where the processor is faster in it."""
    memory_budget: str | None = None
    """Memory to train within, such as 2GiB: as needed, blocks compute micro-batches and idle blocks are offloaded, to
    host memory or on a CPU to files. Batch norm and rules that compare images see a micro-batch.
    """
    workers: int = 1
    """Batches in flight at once, each at another block with its share of the processor's threads: faster where feature
    maps are small, with the same result as one worker on that many threads.
    """
    checkpoint_every: int | None = None
    """Steps between checkpoints within an epoch; there is always one after each epoch."""
    compile: bool = False
    """Compile each block's forward and backward pass. It takes up to a minute at the start: for long runs on a GPU."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda or cuda:N."""
    threads: int | None = None
    """Threads of a CPU that share each operation; by default PyTorch's number, at most the cores that the process may
    use. The order of sums, and so the last bits, depend on it: a resumed run keeps its number.
    """
    validate_every: int = 1
    """Epochs between measurements of accuracy on the validation images."""
    diagnose: bool = False
    """Also measure free-riding whenever accuracy is measured on the validation images."""
    crop: int = 0
    """Augmentation: pad by this many pixels and cut out the old size at random."""
    flip: Literal["none", "random", "alternating"] = "none"
    """Augmentation: mirror images at random, or each image in every other epoch (alternating)."""
    cutout: int = 0
    """Augmentation: side in pixels of a square that is blanked at random."""

    def __post_init__(self) -> None:
        check_options(self)
        optim.require_known(self.optimiser)
        for name in ("epochs", "batch_size", "validate_every", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.steps is not None and (self.steps < 1 or self.steps % self.epochs):
            raise ValueError(f"steps must be a multiple of the {self.epochs} epochs, not {self.steps}.")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}.")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be 0 or more, not {self.weight_decay}.")
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is a share from 0 to below 1, not {self.momentum}.")
        for name in ("warmup", "delay", "heads_first"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a share of the run, from 0 to below 1, not {getattr(self, name)}.")
        for name in ("body_rate", "layer_decay"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is a factor above 0, at most 1, not {getattr(self, name)}.")
        if self.checkpoint_every is not None and self.checkpoint_every < 1:
            raise ValueError(f"checkpoint_every must be at least 1 step, not {self.checkpoint_every}.")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, not {self.threads}.")
        if not 0 <= self.final_rate <= 1:
            raise ValueError(f"final_rate is a share of the highest rate, from 0 to 1, not {self.final_rate}.")
        if self.lr_schedule == "step" and self.final_rate == 0:
            raise ValueError("Nothing is learned after a step to 0: choose a final_rate above 0, such as 0.1.")
        if self.memory_budget is not None:
            parse_bytes(self.memory_budget)
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip must be positive, not {self.clip}.")
        compatibility.check(compatibility.Setting(self))

    @classmethod
    def resolve(cls, rule: Rule, data: Data | None = None, given: Mapping[str, Any] | None = None) -> Self:
        """The config of a run: of each option the given value, else the data set's, else the rule's, else the default.

        Args:
            rule: its `training_defaults` are taken, without a delay under the greedy schedule.
            data: the training images; the augmentation of their data set is taken, unless they are features, and a
                default batch is at most a sixteenth of them. A stream has no number.
            given: options by name. None means not given, except for options such as `clip`, which may be None.

        Raises:
            ValueError: an unknown option, or a value out of range.
        """
        known = {field.name: field for field in fields(cls)}
        chosen = {}
        for name, value in (given or {}).items():
            if name not in known:
                raise ValueError(f"Unknown training option {name!r}: {nearest(name, known)}")
            if value is not None or known[name].default is None:
                chosen[name] = value
        own = suited(rule, chosen.get("schedule", cls.schedule))
        if data is not None and not isinstance(data, Features):  # which keep the name of the images that they are of
            own.update(asdict(augmentation(data.name)))
        if isinstance(data, Sized):
            own["batch_size"] = min(own.get("batch_size", cls.batch_size), max(SMALLEST, len(data) // LEAST_STEPS))
        if chosen.get("steps") is not None and "epochs" not in chosen:
            chosen["epochs"] = 1
        return replace(cls(), **{**own, **chosen})

    def body_rates(self, blocks: int) -> list[float]:
        """The learning rate of each block's body, as a share of that of the rules' own weights."""
        return [self.body_rate * self.layer_decay ** (blocks - 1 - index) for index in range(blocks)]

    @property
    def augment(self) -> Augment | None:
        """The augmentation of training batches, or None if there is none."""
        chosen = Augment(crop=self.crop, flip=self.flip, cutout=self.cutout)
        return None if chosen == Augment() else chosen


def suited(rule: Rule | type[Rule] | Preset, schedule: str) -> dict[str, Any]:
    """The training options that suit a rule or preset, without a delay under the greedy schedule."""
    own = training_defaults(rule)
    return {name: value for name, value in own.items() if name != "delay" or schedule != "greedy"}
