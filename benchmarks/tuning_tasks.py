"""What the benchmark of tuning shares between its tasks: a model, what it is to learn, and how it is measured."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from forwardonly.system import mapped
from forwardonly.system.memory import SavedBytes
from forwardonly.system.precision import autocast, choose_precision

CPU = torch.device("cpu")
PRECISION = choose_precision("auto", CPU)


def computing() -> AbstractContextManager[object]:
    """A context in which models compute: in bf16 where the processor does so natively."""
    return autocast(PRECISION, CPU)


def in_files(budget: str | None) -> AbstractContextManager[Any]:
    """A context in which weights are in files, as `forwardonly tune` has them within a budget."""
    return nullcontext() if budget is None else mapped.Building(mapped.Arena())


class Activations(SavedBytes):
    """Counts the bytes saved for backward at one time, without a model's own weights and views of them."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self._own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}

    def _pack(self, tensor: Tensor) -> Any:
        if tensor.untyped_storage().data_ptr() in self._own:
            return super()._pack(nn.Parameter(tensor, requires_grad=False))  # which does not count
        return super()._pack(tensor)


class Task:
    """A model with what it is to learn."""

    batch: int
    options: ClassVar[dict] = {}

    def __init__(self):
        self.saved: int | None = None

    def groups(self, model: nn.Module, rate: float, arm: str) -> list[dict]:
        """What is trained, with its learning rate."""
        return [{"params": [weight for weight in model.parameters() if weight.requires_grad], "lr": rate}]
