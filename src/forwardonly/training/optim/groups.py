"""Parameter groups: which optimiser trains each parameter of a block, and with which options."""

from typing import Any, Protocol

from torch import nn

from forwardonly.rules import Rule


class Rates(Protocol):
    """What of a training config an optimiser is made of."""

    @property
    def optimiser(self) -> str: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def momentum(self) -> float | None: ...


def parameter_groups(module: nn.Module, config: Rates, body_rate: float = 1.0) -> dict[str, list[dict[str, Any]]]:
    """Groups of trained parameters by the name of their optimiser, one for all parameters without options of their own.

    Among a rule's options for a parameter, `optimiser` names an optimiser other than the config's, and `relative_rate`
    is a multiple of the config's learning rate. Muon trains the weights of hidden layers, a rule's own among them;
    one-dimensional parameters, embeddings, a rule's read-outs without options, and weights that are all zero, whose
    norm Muon would keep, go to SGD. The body learns at `body_rate` times the config's rate.
    """
    rule = getattr(module, "rule", None)
    special, readouts = (rule.optimiser_options(), rule.readouts) if isinstance(rule, Rule) else ({}, frozenset[str]())
    no_layer = getattr(module, "no_layer", frozenset[str]())
    plain: dict[tuple[str, float], list[nn.Parameter]] = {}
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, parameter in module.named_parameters():
        own = name.removeprefix("rule.")
        options = special.get(own)
        if not parameter.requires_grad:
            continue
        if options is None:
            hidden = parameter.dim() > 1 and name.startswith(("body.", "rule.")) and own not in readouts | no_layer
            muon = config.optimiser.lower() == "muon"  # for which alone all weights are looked at
            optimiser = "sgd" if muon and not (hidden and any_weight(parameter)) else config.optimiser
            plain.setdefault((optimiser, body_rate if name.startswith("body.") else 1.0), []).append(parameter)
        else:
            other = {"params": [parameter], **options}
            if "relative_rate" in other:
                other["lr"] = config.learning_rate * other.pop("relative_rate")
            groups.setdefault(other.pop("optimiser", config.optimiser), []).append(other)
    together: dict[str, list[dict[str, Any]]] = {}
    for (optimiser, rate), parameters in plain.items():
        own_rate = {} if rate == 1.0 else {"lr": config.learning_rate * rate}
        together.setdefault(optimiser, []).append({"params": parameters, **own_rate})
    return {name: together.get(name, []) + groups.get(name, []) for name in together | groups}


def any_weight(parameter: nn.Parameter) -> bool:
    """Whether one of the weights is other than zero."""
    return bool(parameter.any())
