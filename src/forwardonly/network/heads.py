"""A model's head: the linear layers that give its outputs, which are left out, for every rule scores classes itself.

A model may give one tensor, or also features, an auxiliary classifier's scores or a loss, in a tuple, a dict or a
dataclass. Which layers give them, and whether weights follow, is seen in autograd's graph.
"""

import warnings
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from forwardonly.network.walls import Nodes, Recording, weights_before

LOGITS = "logits"
"""The entry of an output that the head gives where there are several: Hugging Face's and torchvision's name."""


class HeadWarning(UserWarning):
    """Several layers give outputs of a model, and none of them is trained."""


@dataclass(frozen=True)
class Heads:
    """The linear layers that are left out, in order of their end."""

    layers: tuple[str, ...] = ()
    main: str | None = None
    """The one among them that is the model's head, if it can be told."""
    place: str | None = None
    """The entry of the output that it gives, or that is called logits."""
    alone: bool = False
    """Whether it gives all that the model gives."""


def heads_of(recording: Recording) -> Heads:
    """The linear layers whose output is the model's, or one of several that the model gives."""
    ends, outputs = recording.ends, recording.outputs
    if (only := _only(recording)) is not None:
        return Heads((only,), only, next(iter(outputs)), alone=True)
    top, logits = frozenset(outputs.values()), [place for place in outputs if place.rpartition(".")[2] == LOGITS]
    linear = [name for name, own in ends.items() if isinstance(recording.modules[name], nn.Linear) and own & top]
    users = _users(recording) if linear else {}
    layers = tuple(name for name in linear if _is_last(ends[name], recording, users))
    given = {place: name for place, node in outputs.items() for name in layers if node in ends[name]}
    told = {given.get(place) for place in logits} if logits else set(layers)
    main = told.pop() if len(told) == 1 else None
    return Heads(layers, main, next((place for place in logits or given if given.get(place) == main), None))


def _only(recording: Recording) -> str | None:
    """The linear layer that gives all that the model gives, if there is one."""
    ends, top = recording.ends, frozenset(recording.outputs.values())
    linear = (name for name in reversed(ends) if isinstance(recording.modules[name], nn.Linear))
    return next((name for name in linear if top and top <= ends[name]), None)


def _is_last(own: Nodes, recording: Recording, users: dict[Any, list[Any]]) -> bool:
    """Whether no weights follow a layer with these nodes: other outputs are not made of it, or of it alone."""
    top = frozenset(recording.outputs.values())
    return not weights_before((_behind(own, users) & top) - own, own, recording)


def _users(recording: Recording) -> dict[Any, list[Any]]:
    """Of each node of the graph, those that take what it gives."""
    users: dict[Any, list[Any]] = {}
    todo = list(frozenset(recording.outputs.values()).union(*recording.ends.values()))
    seen = set(todo)
    while todo:
        node = todo.pop()
        for before, _ in node.next_functions:
            if before is not None:
                users.setdefault(before, []).append(node)
                if before not in seen:
                    seen.add(before)
                    todo.append(before)
    return users


def _behind(nodes: Nodes, users: dict[Any, list[Any]]) -> Nodes:
    """These nodes, and all that depend on them."""
    todo, found = list(nodes), set(nodes)
    while todo:
        for user in users.get(todo.pop(), ()):
            if user not in found:
                found.add(user)
                todo.append(user)
    return frozenset(found)


def without(heads: Heads, recording: Recording) -> Recording:
    """A recording without the heads and what is behind them: no wall stands there, and it may share any weight.

    Behind the only layer that gives the model's output is all that ends later. Of several outputs, others may be made
    later and from other layers; these stay.
    """
    if not heads.layers:
        return recording
    if heads.alone:
        (only,) = heads.layers
        gone = {name for name, time in recording.times.items() if time >= recording.times[only]}
    else:
        own = frozenset[Any]().union(*(recording.ends[name] for name in heads.layers))
        behind = _behind(own, _users(recording))
        gone = {name for name, nodes in recording.ends.items() if nodes & behind}
    ends = {name: nodes for name, nodes in recording.ends.items() if name not in gone}
    return replace(recording, ends=ends, left_out=frozenset(gone), _children={})


def warn_of_several(heads: Heads) -> None:
    """Says what is left out beside a model's head, or that the head cannot be told."""
    others = [repr(name) for name in heads.layers if name != heads.main]
    if not others:
        return
    give, them = ("give outputs", "them") if len(others) > 1 else ("gives an output", "it")
    beside = f"Beside the head {heads.main!r}" if heads.main else "Which layer is the model's head cannot be told"
    warnings.warn(
        f"{beside}{', ' if heads.main else ': '}{' and '.join(others)} {give} of the model; no block trains {them}, "
        "for every rule scores the classes itself, unless keep_head=True.",
        HeadWarning,
        stacklevel=3,
    )
