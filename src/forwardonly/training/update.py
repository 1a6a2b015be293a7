"""What happens to one block once it has its loss: gradient, optimiser step, nothing kept."""

import inspect
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from forwardonly.names import nearest
from forwardonly.rules import Rule
from forwardonly.training.recipe import Recipe


class Update:
    """One block's optimiser.

    Raises:
        ValueError: torch.optim has no optimiser of the recipe's name.
    """

    def __init__(self, module: nn.Module, recipe: Recipe):
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.clip = recipe.clip
        self.optimiser = make_optimiser(parameter_groups(module), recipe)
        self.rates = [group["lr"] for group in self.optimiser.param_groups]

    def __call__(self, loss: Tensor) -> None:
        """One step down the gradient of the block's own loss."""
        loss.backward()
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def set_rate(self, factor: float) -> None:
        """Learning rate for the next steps, as a share of the highest one."""
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state, for a checkpoint."""
        return self.optimiser.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the state from a checkpoint."""
        self.optimiser.load_state_dict(dict(state))


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """All trained parameters in one group, but each that a rule has options for in a group of its own."""
    rule = getattr(module, "rule", None)
    special = rule.optimiser_options() if isinstance(rule, Rule) else {}
    groups: list[dict[str, Any]] = [{"params": []}]
    for name, parameter in module.named_parameters():
        options = special.get(name.removeprefix("rule."))
        if not parameter.requires_grad:
            continue
        if options is None:
            groups[0]["params"].append(parameter)
        else:
            groups.append({"params": [parameter], **options})
    return [group for group in groups if group["params"]]


def make_optimiser(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    """The torch optimiser that the recipe names, its fused form where there is one."""
    known = {
        name.lower(): cls
        for name, cls in vars(torch.optim).items()
        if inspect.isclass(cls) and issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer
    }
    if recipe.optimiser.lower() not in known:
        hint = nearest(recipe.optimiser.lower(), known)
        raise ValueError(f"Unknown optimiser {recipe.optimiser!r}: {hint}.")
    cls = known[recipe.optimiser.lower()]
    takes = inspect.signature(cls).parameters
    options: dict[str, Any] = {"lr": recipe.learning_rate}
    if "weight_decay" in takes:
        options["weight_decay"] = recipe.weight_decay
    if "momentum" in takes:
        options["momentum"] = recipe.momentum
    if "fused" in takes:  # an Adam step over 3 M weights takes 1.4 ms instead of 22 on two CPU cores
        options["fused"] = True
    return cls(groups, **options)


def rate_factor(schedule: Literal["constant", "linear", "cosine"], warmup: float, progress: float) -> float:
    """Learning rate at `progress` (0..1 of the run) as a share of the highest one."""
    if progress < warmup:
        return progress / warmup
    left = 1 - (progress - warmup) / (1 - warmup)
    if schedule == "constant":
        return 1.0
    return left if schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)
