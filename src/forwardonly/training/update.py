"""What happens to one block once it has its loss: gradient, optimiser step, nothing kept."""

import inspect
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from forwardonly.names import nearest
from forwardonly.rules import Rule
from forwardonly.training.config import TrainingConfig
from forwardonly.training.optim.muon import Muon


class Update:
    """One block's optimiser, and another for each parameter whose rule wants one of its own.

    Raises:
        ValueError: torch.optim has no optimiser of the config's name.
    """

    waiting = False
    """Whether the block has not begun to learn, nor has any behind it."""
    settled = False
    """Whether the block has learned and stays as it is."""

    def __init__(self, module: nn.Module, config: TrainingConfig):
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.clip = config.clip
        groups = parameter_groups(module, config)
        self.optimisers = [make_optimiser(name, groups[name], config) for name in groups]
        self.rates = [[group["lr"] for group in optimiser.param_groups] for optimiser in self.optimisers]

    def allocate(self) -> None:
        """Makes the optimisers' state before the first step does, if they are of the usual kinds.

        State that is made amid a step's activations pins the heap between them: 100 MiB of 660 for 32 layers of 500.
        """
        for optimiser in self.optimisers:
            if isinstance(optimiser, Muon):
                optimiser.allocate()
                continue
            if optimiser.state or not isinstance(optimiser, torch.optim.SGD | torch.optim.Adam | torch.optim.AdamW):
                continue
            rates = [group["lr"] for group in optimiser.param_groups]
            for group in optimiser.param_groups:
                group["lr"] = 0.0
                for parameter in group["params"]:
                    parameter.grad = torch.zeros_like(parameter)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate
            for own in optimiser.state.values():  # as before any step: moments of zero, and no steps counted
                for slot in own.values():
                    if isinstance(slot, Tensor):
                        slot.zero_()

    def __call__(self, loss: Tensor) -> None:
        """One step down the gradient of the block's own loss."""
        loss.backward()
        self.step()

    def step(self) -> None:
        """One step down the gradient that the parameters hold; it is gone then."""
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def set_rate(self, factor: float) -> None:
        """Learning rate for the next steps, as a share of the highest one."""
        for optimiser, rates in zip(self.optimisers, self.rates, strict=True):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * factor

    def state_dict(self) -> dict[str, Any]:
        """The optimisers' state, for a checkpoint."""
        return {"optimisers": [optimiser.state_dict() for optimiser in self.optimisers]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the state from a checkpoint.

        Raises:
            ValueError: it is not of these optimisers. torch checks little, and its fused kernels nothing.
        """
        for optimiser, kept in zip(self.optimisers, state["optimisers"], strict=True):
            _check_state(optimiser, kept)
            optimiser.load_state_dict(kept)


def _check_state(optimiser: torch.optim.Optimizer, kept: Mapping[str, Any]) -> None:
    """Raises ValueError unless a state has the options and the shapes of an optimiser's parameters."""
    fresh = optimiser.state_dict()
    groups, wanted = kept["param_groups"], fresh["param_groups"]
    alike = len(groups) == len(wanted) and all(
        one.keys() == two.keys() and all(_alike(one[name], two[name]) for name in one)
        for one, two in zip(groups, wanted, strict=False)
    )
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for index, slots in kept["state"].items():
        shape = parameters[index].shape
        alike = alike and all(
            not isinstance(slot, Tensor) or (slot.is_floating_point() and slot.shape in (shape, torch.Size()))
            for slot in slots.values()
        )
    if not alike:
        raise ValueError("The state in the checkpoint is not of the run's optimisers.")


def _alike(one: Any, two: Any) -> bool:
    """Whether two options are the same but for the value of a number."""
    if isinstance(two, list | tuple):
        return isinstance(one, list | tuple) and len(one) == len(two) and all(map(_alike, one, two))
    if isinstance(two, float):
        return isinstance(one, float | int) and not isinstance(one, bool)
    return type(one) is type(two) and (not isinstance(two, int) or one == two)


def parameter_groups(module: nn.Module, config: TrainingConfig) -> dict[str, list[dict[str, Any]]]:
    """All trained parameters in one group, but each that a rule has options for in a group of its own.

    By name of the optimiser; `optimiser` among a rule's options names another than the config's, `relative_rate` is a
    multiple of the config's rate. Muon is for the weights of hidden layers, a rule's own among them: what has one
    dimension, and a rule's read-outs without options, goes to SGD.
    """
    rule = getattr(module, "rule", None)
    special, readouts = (rule.optimiser_options(), rule.readouts) if isinstance(rule, Rule) else ({}, frozenset[str]())
    plain: dict[str, list[nn.Parameter]] = {}
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, parameter in module.named_parameters():
        own = name.removeprefix("rule.")
        options = special.get(own)
        if not parameter.requires_grad:
            continue
        if options is None:
            hidden = parameter.dim() > 1 and name.startswith(("body.", "rule.")) and own not in readouts
            optimiser = "sgd" if config.optimiser.lower() == "muon" and not hidden else config.optimiser
            plain.setdefault(optimiser, []).append(parameter)
        else:
            other = {"params": [parameter], **options}
            if "relative_rate" in other:
                other["lr"] = config.learning_rate * other.pop("relative_rate")
            groups.setdefault(other.pop("optimiser", config.optimiser), []).append(other)
    together = {name: [{"params": parameters}] for name, parameters in plain.items()}
    return {name: together.get(name, []) + groups.get(name, []) for name in together | groups}


def make_optimiser(name: str, groups: list[dict[str, Any]], config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser of that name, our Muon or torch's; its fused form where there is one."""
    known: dict[str, type[torch.optim.Optimizer]] = {
        name.lower(): cls
        for name, cls in vars(torch.optim).items()
        if inspect.isclass(cls) and issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer
    }
    known["muon"] = Muon
    if name.lower() not in known:
        raise ValueError(f"Unknown optimiser {name!r}: {nearest(name.lower(), known)}")
    cls = known[name.lower()]
    takes = inspect.signature(cls).parameters
    options: dict[str, Any] = {"lr": config.learning_rate}
    if "weight_decay" in takes:
        options["weight_decay"] = config.weight_decay
    if "momentum" in takes and cls is not Muon:  # whose default is its own
        options["momentum"] = config.momentum
    if "fused" in takes:  # an Adam step over 3 M weights takes 1.4 ms instead of 22 on two CPU cores
        options["fused"] = True
    return cls(groups, **options)


class Span(NamedTuple):
    """The steps of a run in which a block learns, from the first to the one at which it has settled."""

    first: int
    end: int

    def rate_factor(self, config: TrainingConfig, step: int) -> float:
        """Learning rate at a step of the run as a share of the highest: the whole schedule until the block settles.

        One that began late joins where the others are, so that all come to rest at one time unless they are to settle.
        """
        return rate_factor(config.lr_schedule, config.warmup, step / self.end, config.final_rate)


def span_of_learning(config: TrainingConfig, steps: int, index: int, depth: int) -> Span:
    """When block `index` of `depth` learns in a run of so many steps: for one of them at least."""
    before, behind = (blocks / max(depth - 1, 1) for blocks in (index, depth - 1 - index))
    first = min(round(steps * config.delay * before), steps - 1)
    return Span(first, max(round(steps * (1 - (1 - config.settle) * behind)), first + 1))


def rate_factor(
    schedule: Literal["constant", "linear", "cosine"], warmup: float, progress: float, floor: float = 0.0
) -> float:
    """Learning rate at `progress` (0..1 of the run) as a share of the highest one; `floor` is the share at the end."""
    if progress < warmup:
        return progress / warmup
    left = 1 - (progress - warmup) / (1 - warmup)
    if schedule == "constant":
        return 1.0
    share = left if schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)
    return floor + (1 - floor) * share
