"""The optimisers by name; `parameter_groups` assigns a block's parameters to them."""

import inspect
from typing import Any

import torch

from forwardonly.names import nearest
from forwardonly.training.optim.groups import Rates, parameter_groups
from forwardonly.training.optim.muon import Muon

NOT_FOR_BLOCKS = ("LBFGS", "SparseAdam", "Optimizer")  # they need a closure or sparse gradients, or are the base class

TABLE: dict[str, type[torch.optim.Optimizer]] = {
    name.lower(): cls
    for name, cls in vars(torch.optim).items()
    if inspect.isclass(cls) and issubclass(cls, torch.optim.Optimizer) and name not in NOT_FOR_BLOCKS
} | {"muon": Muon}
"""Every optimiser by the name that the option `optimiser` takes, in lower case: torch's, and our Muon."""

DECORATED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def _eager(cls: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """An optimiser without the decorators by which torch keeps `torch.compile` out of it.

    They import `torch._dynamo`, which takes a second and 70 MiB. No optimiser is called within what is
    compiled here.
    """
    own: dict[str, Any] = {name: inspect.unwrap(getattr(cls, name)) for name in DECORATED}
    own["step"] = torch.no_grad()(inspect.unwrap(cls.step))
    place = f"Eager{cls.__name__}"  # where pickle looks for it; what it is called stays torch's, and exports go by that
    made = type(cls.__name__, (cls,), {**own, "__module__": __name__, "__qualname__": place})
    globals()[place] = made
    return made


EAGER = {name: _eager(cls) for name, cls in TABLE.items()}

MOMENTUM = 0.9  # default of torch's optimisers that take one, where torch's own is 0; Muon has its own

__all__ = ["TABLE", "Muon", "make_optimiser", "parameter_groups", "require_known"]


def require_known(name: str) -> None:
    """Raises ValueError if there is no optimiser of that name."""
    if name.lower() not in TABLE:
        raise ValueError(f"Unknown optimiser {name!r}: {nearest(name.lower(), TABLE)}")


def make_optimiser(name: str, groups: list[dict[str, Any]], config: Rates) -> torch.optim.Optimizer:
    """The optimiser of that name for groups of parameters, in its fused form where there is one.

    Raises:
        ValueError: there is no optimiser of that name.
    """
    require_known(name)
    cls = TABLE[name.lower()]
    takes = inspect.signature(cls).parameters
    options: dict[str, Any] = {"lr": config.learning_rate}
    if "weight_decay" in takes:
        options["weight_decay"] = config.weight_decay
    if "momentum" in takes:
        named = name.lower() == config.optimiser.lower()  # not the SGD that trains read-outs next to muon
        if named and config.momentum is not None:
            options["momentum"] = config.momentum
        elif cls is not Muon:
            options["momentum"] = MOMENTUM
    if "fused" in takes:  # an Adam step over 3 M weights takes 1.4 ms instead of 22 on two CPU cores
        options["fused"] = True
    return EAGER[name.lower()](groups, **options)
