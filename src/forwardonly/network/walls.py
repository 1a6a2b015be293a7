"""Walls in any model: behind which modules can its signal be detached, so that every weight learns from one loss alone?

One forward pass with hooks records the nodes of autograd's graph at which each module's output ends. From the nodes of
each candidate wall the graph is walked back to the other walls: the weights on the way are the block's. Where two
blocks reach one weight, something goes around a wall, and the wall falls. What stands is local by construction on the
path of that pass, whatever control flow, skips, masks or inputs the model has. The method is ours.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from forwardonly.network.recurrent import by_name, layers_of, opened
from forwardonly.network.signal import named_tensors, tensors_in

Nodes = frozenset[Any]
"""Nodes of autograd's graph."""

LARGEST = 0.5
"""Share of the weights above which a module is opened, so that walls stand inside it."""
MOST = 64
"""Walls at which opening ends."""


@dataclass(frozen=True)
class Wall:
    """A wall behind a module, and the weights between it and the walls before, by their names in the model."""

    name: str
    weights: tuple[str, ...]


@dataclass
class Recording:
    """What one forward pass shows: the nodes behind each module, in order of their end, and those of the output."""

    ends: dict[str, Nodes]
    times: dict[str, int]
    """When each module ended, counted in ends of modules."""
    outputs: dict[str, Any]
    """The node behind each tensor of the output, by its place there; single numbers, such as a loss, left out."""
    names: dict[int, str]
    """The names of the weights by their identity; of a tied weight, the first."""
    others: dict[str, str]
    """The other name of each tied weight, by its first."""
    frozen: frozenset[str]
    """Weights that are not trained: any number of blocks may share them."""
    moved: dict[str, list[int]]
    """Running statistics that several calls move, with the times of these."""
    sizes: dict[str, int]
    """Of the weights; 0 of frozen ones, unless all are."""
    modules: dict[str, nn.Module]
    left_out: frozenset[str] = frozenset()
    """Modules without a wall, as the model's head is in them or before them (`heads.py`)."""
    unreached: frozenset[str] = frozenset()
    """Weights that would be trained, and that nothing which the model computed depends on."""
    _children: dict[str, list[str]] = field(default_factory=dict)

    def children(self, name: str) -> list[str]:
        """The modules called directly below a module, in order of their end; lists, which are not called, are passed
        through."""
        if name not in self._children:
            below = [other for other in self.ends if other != name and _is_below(other, name)]
            inside = {other for other in below if any(_is_below(other, between) for between in below)}
            self._children[name] = [other for other in below if other not in inside]
        return self._children[name]


def _is_below(name: str, above: str) -> bool:
    return name != above and (above == "" or name.startswith(above + "."))


def call(model: nn.Module, inputs: Any) -> Any:
    """The model's output for a tensor, a tuple of arguments or a dict of named ones."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


@contextmanager
def all_trained(model: nn.Module) -> Iterator[None]:
    """All weights require gradients, so that the graph reaches them; frozen ones are frozen again afterwards."""
    frozen = [weight for weight in model.parameters() if not weight.requires_grad and weight.is_floating_point()]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)


def record(model: nn.Module, inputs: Any) -> Recording:
    """Runs the model once, in the mode that it is in. A module that is called several times is left out."""
    ends: dict[str, Nodes] = {}
    calls: dict[str, list[int]] = {}
    stacks = layers_of(model)
    modules = {**dict(model.named_modules()), **by_name(stacks)}
    frozen = frozenset(name for name, weight in model.named_parameters() if not weight.requires_grad)
    clock = 0

    def hook(name: str) -> Callable[..., None]:
        def at_end(module: nn.Module, arguments: Any, output: Any) -> None:
            nonlocal clock
            clock += 1
            calls.setdefault(name, []).append(clock)
            if nodes := _nodes(output):
                ends[name] = nodes

        return at_end

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        with all_trained(model), torch.enable_grad(), opened(model, stacks):
            given = named_tensors(call(model, inputs))
            outputs = {place: own.grad_fn for place, own in given if own.grad_fn is not None and own.dim() > 0}
    finally:
        for handle in handles:
            handle.remove()
    names, others = _names(model)
    named = dict(model.named_parameters())
    sizes = {name: weight.numel() * (name not in frozen or len(frozen) == len(named)) for name, weight in named.items()}
    every = frozenset(outputs.values()).union(*ends.values())
    ends = {name: nodes for name, nodes in ends.items() if name and len(calls[name]) == 1}
    moved = {
        f"{name}.{own}": calls[name]
        for name, module in modules.items()
        if len(calls.get(name, ())) > 1
        for own, _ in module.named_buffers(recurse=False)
        if own.startswith("running_")
    }
    times = {name: calls[name][0] for name in ends}
    found = Recording(ends, times, outputs, names, others, frozen, moved, sizes, modules)
    floats = {names[id(weight)] for weight in named.values() if weight.is_floating_point()}
    return replace(found, unreached=frozenset(floats - frozen - weights_before(every, frozenset(), found)))


def owners(model: nn.Module, weights: Collection[str]) -> list[str]:
    """Names of the modules all of whose weights are among these, each with all below it; else the weights' own."""
    every = [name for name, _ in model.named_parameters()]
    found: list[str] = []
    for name in every:
        if name not in weights or any(name.startswith(other + ".") for other in found):
            continue
        parts = name.split(".")
        above = (".".join(parts[:length]) for length in range(1, len(parts)))
        whole = (m for m in above if all(other in weights for other in every if other.startswith(m + ".")))
        found.append(next(whole, name))
    return found


def _names(model: nn.Module) -> tuple[dict[int, str], dict[str, str]]:
    """The first name of each weight by its identity, and its other name if it is tied or lies in the same memory."""
    first: dict[int, str] = {}
    names: dict[int, str] = {}
    others: dict[str, str] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        place = weight.data_ptr() if weight.device.type != "meta" and weight.numel() else id(weight)
        names[id(weight)] = first.setdefault(place, name)
        if first[place] != name:
            others[first[place]] = name
    return names, others


def _nodes(output: Any) -> Nodes:
    return frozenset(tensor.grad_fn for tensor in tensors_in(output) if tensor.grad_fn is not None)


def settle(names: Sequence[str], recording: Recording) -> tuple[list[Wall], dict[str, str]]:
    """The walls that stand, with their weights; and of those that fell, the weight that a later block reaches too.

    What follows the last wall belongs to no block, and may reach any weight.
    """
    standing = [name for name in names if name in recording.ends]
    fallen: dict[str, str] = {}
    while True:
        reached: list[set[str]] = []
        for index, name in enumerate(standing):
            before = frozenset().union(*(recording.ends[other] for other in standing[:index]))
            starts = recording.ends[name] - before
            begin = recording.times[standing[index - 1]] if index else 0
            moved = _moved(begin, recording.times[name], recording)
            reached.append(weights_before(starts, before, recording) | moved)
        bad: dict[str, str] = {}
        later: set[str] = set()
        for name, own in zip(reversed(standing), reversed(reached), strict=True):
            shared = (own & later) - recording.frozen
            if not own or shared:
                bad[name] = min(shared, default="")
            later |= own
        if not bad:
            weights = recording.sizes.keys()
            return [
                Wall(name, tuple(sorted(own & weights))) for name, own in zip(standing, reached, strict=True)
            ], fallen
        fallen.update(bad)
        standing = [name for name in standing if name not in bad]


def _moved(begin: int, end: int, recording: Recording) -> set[str]:
    """Running statistics of several calls that one between two times moves."""
    return {name for name, times in recording.moved.items() if any(begin < time <= end for time in times)}


def weights_before(starts: Nodes, stops: Nodes, recording: Recording) -> set[str]:
    """Names of the weights reached from nodes over autograd's graph, without passing through others."""
    todo, seen, found = list(starts), set(starts), set()
    while todo:
        node = todo.pop()
        if hasattr(node, "variable") and (name := recording.names.get(id(node.variable))) is not None:
            found.add(name)
        for following, _ in node.next_functions:
            if following is not None and following not in seen and following not in stops:
                seen.add(following)
                todo.append(following)
    return found


def candidates(recording: Recording, blocks: int = 0, most: int = MOST) -> list[Wall]:
    """Walls from the top of the module tree downward.

    Sequences are opened, and so is every module with more than `LARGEST` of the weights that blocks have; with
    `blocks`, the heaviest others too, until there are as many walls. Modules without a matrix of weights, and norms,
    belong to those before.
    """
    pairs = _groups(recording, "")
    opened: set[str] = set()
    while True:
        walls, _ = settle([wall for _, wall in pairs], recording)
        weight = {wall.name: sum(recording.sizes[name] for name in wall.weights) for wall in walls}
        total = sum(weight.values())  # without a head, and what else is behind the last wall

        def wanted(pair: tuple[str, str], weight: Mapping[str, int] = weight, most: float = LARGEST * total) -> bool:
            name, wall = pair
            path = _to_parts(recording, name)
            if name in opened or not path:
                return False
            return all(_in_order(recording.modules[each]) for each in path) or wall not in weight or weight[wall] > most

        pick = next((pair for pair in pairs if wanted(pair)), None)
        if pick is None and len(walls) < blocks:
            left = [pair for pair in pairs if pair[0] not in opened and _to_parts(recording, pair[0])]
            pick = max(left, key=lambda pair: weight.get(pair[1], total), default=None)
        if pick is None or len(walls) >= max(most, blocks):
            return walls
        name, wall = pick
        opened.add(name)
        path = _to_parts(recording, name)
        index, inner = pairs.index(pick), _groups(recording, path[-1])
        # what is around an only part, such as a skip, comes before the wall
        last = (inner[-1][0], inner[-1][1] if path == [wall] else wall)
        pairs[index : index + 1] = [*inner[:-1], last]


def _in_order(module: nn.Module) -> bool:
    """Whether a module calls its parts one after the other and does nothing else."""
    return type(module).forward is nn.Sequential.forward or isinstance(module, nn.RNNBase)


def _to_parts(recording: Recording, name: str) -> list[str]:
    """A module, and its only part as long as it has one, down to a module of several parts; empty without one."""
    path = [name]
    while len(groups := _groups(recording, path[-1])) == 1:
        path.append(groups[0][0])
    return path if groups else []


def _groups(recording: Recording, name: str) -> list[tuple[str, str]]:
    """The modules below one, in groups with one weighty module each: the group's weighty module and its last one."""
    groups: list[list[str]] = []
    for child in recording.children(name):
        weighty = _weighty(recording.modules[child])
        if not groups or (weighty and any(_weighty(recording.modules[own]) for own in groups[-1])):
            groups.append([])
        groups[-1].append(child)
    heads = [next((own for own in group if _weighty(recording.modules[own])), group[0]) for group in groups]
    return [(head, group[-1]) for head, group in zip(heads, groups, strict=True)]


def _weighty(module: nn.Module) -> bool:
    """Whether a module has a matrix of weights beside its embeddings, which alone could learn little."""
    layers = (layer for layer in module.modules() if not isinstance(layer, nn.Embedding | nn.EmbeddingBag))
    return any(weight.dim() >= 2 for layer in layers for weight in layer.parameters(recurse=False))


def balanced(walls: Sequence[Wall], sizes: Mapping[str, int], blocks: int) -> list[str]:
    """Names of the `blocks` walls, the last among them, whose heaviest block is lightest."""
    weights = [sum(sizes[name] for name in wall.weights) for wall in walls]
    low, high = max(weights), sum(weights)
    while low < high:  # the smallest limit under which so many blocks suffice
        limit = (low + high) // 2
        low, high = (low, limit) if len(_packed(weights, limit)) <= blocks else (limit + 1, high)
    ends = _packed(weights, low)
    while len(ends) < blocks:  # a limit may be met by fewer: halve the heaviest that has several parts
        starts = [0, *(end + 1 for end in ends[:-1])]
        spans = [(sum(weights[a : b + 1]), a, b) for a, b in zip(starts, ends, strict=True) if b > a]
        _, first, last = max(spans)
        ends = sorted([*ends, (first + last - 1) // 2])
    return [walls[end].name for end in ends]


def _packed(weights: Sequence[int], limit: int) -> list[int]:
    """Indices of the last part of each block, if parts are packed in order into blocks of at most `limit`."""
    ends, filled = [], 0
    for index, weight in enumerate(weights):
        if filled + weight > limit and index:
            ends.append(index - 1)
            filled = 0
        filled += weight
    return [*ends, len(weights) - 1]
