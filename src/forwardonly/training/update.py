"""The update of one block from its loss: gradient, clipping, optimiser step."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from forwardonly.training.config import TrainingConfig
from forwardonly.training.optim import Muon, make_optimiser, parameter_groups


class Update:
    """The optimisers of one block: the config's, and those that its rule assigns to parameters of its own.

    Its body learns at `body_rate` times the config's learning rate.

    Attributes:
        examples: over which the loss of the next step is a mean, where batches of one size differ in them.

    Raises:
        ValueError: there is no optimiser of the config's name.
    """

    def __init__(self, module: nn.Module, config: TrainingConfig, body_rate: float = 1.0):
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.clip = config.clip
        self.examples: int | Tensor | None = None
        groups = parameter_groups(module, config, body_rate)
        self.optimisers = [make_optimiser(name, groups[name], config) for name in groups]
        self.rates = [[group["lr"] for group in optimiser.param_groups] for optimiser in self.optimisers]

    def allocate(self) -> None:
        """Makes the optimisers' state before the first step, for SGD, Adam, AdamW and Muon.

        State that is allocated in a step, among activations, fragments the heap: 100 MiB of 660 for 32 layers of 500
        units.
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
            for own in optimiser.state.values():  # as before any step: zero moments, step count 0
                for slot in own.values():
                    if isinstance(slot, Tensor):
                        slot.zero_()

    def __call__(self, loss: Tensor) -> None:
        """One step down the gradient of the block's own loss, or nothing if the block has no trained parameters."""
        self.backward(loss)
        self.step()

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a loss to that which the parameters hold."""
        if loss.requires_grad:  # not that of a frozen block
            loss.backward()

    def step(self) -> None:
        """One step down the gradient that the parameters hold, which is then cleared."""
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
        """Restores the state from a checkpoint.

        Raises:
            ValueError: it does not match these optimisers. torch checks little itself, and its fused kernels nothing.
        """
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            _check_state(optimiser, saved)
            optimiser.load_state_dict(saved)
            _lay_out(optimiser)


def _lay_out(optimiser: torch.optim.Optimizer) -> None:
    """Gives each tensor of the state the memory layout of its parameter.

    A checkpoint holds contiguous tensors, and torch's fused kernels pair elements by their position in memory.
    """
    for parameter, slots in optimiser.state.items():
        for name, slot in slots.items():
            if isinstance(slot, Tensor) and slot.shape == parameter.shape:
                slots[name] = lying_as(parameter, slot)


def lying_as(parameter: Tensor, tensor: Tensor) -> Tensor:
    """The tensor in the memory layout of a parameter of its shape.

    What is beside a parameter in an optimiser must lie so: torch's fused kernels pair places in memory, not elements.
    """
    if tensor.stride() == parameter.stride():
        return tensor
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)


def _check_state(optimiser: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Raises ValueError unless a state matches the options and the parameters' shapes of an optimiser."""
    fresh = optimiser.state_dict()
    groups, wanted = saved["param_groups"], fresh["param_groups"]
    alike = len(groups) == len(wanted) and all(
        one.keys() == two.keys() and all(_alike(one[name], two[name]) for name in one)
        for one, two in zip(groups, wanted, strict=False)
    )
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for index, slots in saved["state"].items():
        shape = parameters[index].shape
        shapes = [shape, torch.Size()]
        if isinstance(optimiser, torch.optim.Adafactor) and len(shape) > 1:  # keeps means of rows and of columns
            shapes += [torch.Size((*shape[:-1], 1)), torch.Size((*shape[:-2], 1, shape[-1]))]
        alike = alike and all(
            not isinstance(slot, Tensor) or (slot.is_floating_point() and slot.shape in shapes)
            for slot in slots.values()
        )
    if not alike:
        raise ValueError("The state in the checkpoint is not of the run's optimisers.")


def _alike(one: Any, two: Any) -> bool:
    """Whether two options have the same type and, for whole numbers, the same value; an int may stand for a float."""
    if isinstance(two, list | tuple):
        return isinstance(one, list | tuple) and len(one) == len(two) and all(map(_alike, one, two))
    if isinstance(two, float):
        return isinstance(one, float | int) and not isinstance(one, bool)
    return type(one) is type(two) and (not isinstance(two, int) or one == two)
