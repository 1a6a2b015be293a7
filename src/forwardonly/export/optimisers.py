"""Optimiser steps as plain arithmetic: state in, state out.

Adam: Kingma & Ba 2015, arXiv 1412.6980; decoupled weight decay: Loshchilov & Hutter 2019, arXiv 1711.05101; SGD with
momentum as PyTorch defines it. The learning rate is an input, so that the caller can schedule it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from forwardonly.training.config import TrainingConfig
from forwardonly.training.update import Update

State = dict[str, Tensor]
"""The tensors that a step takes and returns, by name."""

OptimiserSpecs = dict[str, tuple[str, dict[str, Any]]]
"""The kind of optimiser and its options for each trained parameter, by its name in the state."""


class PlainUpdate(Update):
    """One block's update as arithmetic: `step` writes the next tensors of `state` to `following`.

    Args:
        leaves: the block's parameters, which hold their gradients, by their names in the state.
        specs: optimiser and options of each parameter.
        clip: largest norm of the block's gradient.
        state: parameters and moments before the step, by name.
        rate: the learning rate, a scalar.
    """

    def __init__(self, leaves: State, specs: OptimiserSpecs, clip: float | None, state: State, rate: Tensor):
        self.leaves = leaves
        self.specs = specs
        self.clip = clip
        self.state = state
        self.rate = rate
        self.following: State = {}

    def step(self) -> None:
        """Computes the next tensors of the state; those that the loss does not depend on do not change."""
        gradients = {name: leaf.grad for name, leaf in self.leaves.items() if leaf.grad is not None}
        if self.clip is not None and gradients:
            norm = torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt()
            share = (self.clip / (norm + 1e-6)).clamp(max=1.0)
            gradients = {name: gradient * share for name, gradient in gradients.items()}
        for name, gradient in gradients.items():
            kind, options = self.specs[name]
            rate = self.rate * options["rate_share"]
            move = sgd if kind == "SGD" else adam
            self.following.update(move(name, gradient, self.state, rate, options))


def sgd(name: str, gradient: Tensor, state: Mapping[str, Tensor], rate: Tensor, options: Mapping[str, Any]) -> State:
    """One step of gradient descent with momentum."""
    weight = state[name]
    gradient = gradient + options["weight_decay"] * weight
    if not options["momentum"]:
        return {name: weight - rate * gradient}
    velocity = options["momentum"] * state[f"{name}.momentum"] + gradient
    return {name: weight - rate * velocity, f"{name}.momentum": velocity}


def adam(name: str, gradient: Tensor, state: Mapping[str, Tensor], rate: Tensor, options: Mapping[str, Any]) -> State:
    """One step of Adam, with decoupled weight decay if it is AdamW."""
    weight = state[name]
    first, second = options["betas"]
    if options["decoupled"]:
        weight = weight * (1 - rate * options["weight_decay"])
    else:
        gradient = gradient + options["weight_decay"] * weight
    mean = first * state[f"{name}.mean"] + (1 - first) * gradient
    square = second * state[f"{name}.square"] + (1 - second) * gradient.square()
    # 1 - beta^t by its recursion c <- beta c + (1 - beta): exact from the first step, and needs no power function.
    bias = first * state[f"{name}.mean_share"] + (1 - first)
    square_bias = second * state[f"{name}.square_share"] + (1 - second)
    change = (mean / bias) / ((square / square_bias).sqrt() + options["eps"])
    return {
        name: weight - rate * change,
        f"{name}.mean": mean,
        f"{name}.square": square,
        f"{name}.mean_share": bias,
        f"{name}.square_share": square_bias,
    }


def first_state(specs: OptimiserSpecs, parameters: Mapping[str, Tensor]) -> State:
    """The initial state: the parameters, and zero moments."""
    state: State = {}
    for name, (kind, options) in specs.items():
        weight = parameters[name].detach().clone(memory_format=torch.contiguous_format)
        state[name] = weight
        if kind == "SGD":
            if options["momentum"]:
                state[f"{name}.momentum"] = torch.zeros_like(weight)
            continue
        state[f"{name}.mean"] = torch.zeros_like(weight)
        state[f"{name}.square"] = torch.zeros_like(weight)
        state[f"{name}.mean_share"] = torch.zeros(())
        state[f"{name}.square_share"] = torch.zeros(())
    return state


def optimiser_specs(
    names: Mapping[int, str], block: nn.Module, config: TrainingConfig, body_rate: float = 1.0
) -> OptimiserSpecs:
    """The optimiser and options with which the training loop would update each parameter of a block.

    `names` has that of each tensor, by its id; `body_rate` is that of `Update`.

    Raises:
        ValueError: an optimiser that cannot be exported.
    """
    specs: OptimiserSpecs = {}
    for optimiser in Update(block, config, body_rate).optimisers:
        kind = type(optimiser).__name__
        if kind not in ("SGD", "Adam", "AdamW"):
            raise ValueError(f"A training step can be exported with sgd, adam or adamw, not with {kind.lower()}.")
        for group in optimiser.param_groups:
            options = {**group, "rate_share": group["lr"] / config.learning_rate, "decoupled": kind == "AdamW"}
            del options["params"]
            for parameter in group["params"]:
                specs[names[id(parameter)]] = (kind, options)
    return specs
