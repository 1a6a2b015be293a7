"""Cuts a user's own model into locally trained blocks, without editing it.

The model is traced by torch.fx and cut where a single tensor carries everything that later layers need, so that a wall
can stand there. Weights are the model's own, not copies.
"""

import re
from collections.abc import Sequence

import torch
from torch import fx, nn

from forwardonly.bodies import Layer
from forwardonly.network.build import assemble
from forwardonly.network.network import Network
from forwardonly.network.readout import Kind
from forwardonly.rules import Rule

WEIGHTS = (nn.Linear, nn.modules.conv._ConvNd)


Part = list[fx.Node]
"""Consecutive nodes of the traced graph that become one block."""


def localize(
    model: nn.Module,
    rule: Rule,
    *,
    shape: Sequence[int],
    depth: int | None = None,
    pattern: str | None = None,
    keep_head: bool = False,
    readout: Kind = "sum",
) -> Network:
    """A network whose blocks are parts of `model`, each trained by its own copy of `rule`.

    By default every module directly under the model that has a convolution or a linear layer is a block: the stages of
    a torchvision or timm network, the layers of an nn.Sequential. Modules without either, and norms, belong to the
    block before.

    Args:
        model: any network that torch.fx can trace: no branches that depend on the values of tensors.
        rule: of every block; backprop makes the whole model one block.
        shape: of one image: channels, height, width.
        depth: how far down in the model's tree of modules to cut: 1 cuts `layer1` from `layer2`, 2 `layer1.0` from
            `layer1.1`.
        pattern: instead of `depth`, a regular expression: a block ends behind every module whose full name it matches.
        keep_head: keep a last linear layer that gives the model's output; otherwise it is left out, because each rule
            computes class scores itself.
        readout: how the blocks' scores become the network's.

    Raises:
        ValueError: the model cannot be traced, does not take such images, is not float32, the pattern matches no module
            or one that no wall can stand behind, two blocks would share weights, or a block's output is neither maps
            (B, K, H, W) nor features (B, D).
    """
    if depth is not None and (pattern is not None or depth < 1):
        raise ValueError("Give depth, 1 or more, or pattern, but not both.")
    for name, weight in model.named_parameters():
        if weight.dtype != torch.float32:
            raise ValueError(
                f"The model's weights must be float32, but {name!r} is {str(weight.dtype).removeprefix('torch.')}: "
                "call model.float() before, and choose precision bf16 in training for half the bytes."
            )
    graph = _trace(model)
    nodes = [node for node in graph.graph.nodes if node.op not in ("placeholder", "output")]
    source = next(node for node in graph.graph.nodes if node.op == "placeholder")
    if not keep_head:
        nodes = _without_head(nodes, graph)
    if pattern is None:
        parts = _by_depth(nodes, source, graph, 1 if depth is None else depth)
    else:
        parts = _by_pattern(nodes, source, pattern)
    if not rule.end_to_end:
        _refuse_shared_weights(parts, graph)
    layers = [Layer(body) for body in _modules(parts, source, graph)]
    with torch.no_grad():
        signal = torch.zeros(2, *shape)
        for index, layer in enumerate(layers):
            signal = _readable(_tried(layer.body, signal, shape), index, parts[index])
    return assemble([Layer(layer.body.train()) for layer in layers], shape, rule, readout=readout)


def _trace(model: nn.Module) -> fx.GraphModule:
    try:
        graph = fx.symbolic_trace(model)
    except Exception as problem:  # tracing runs the model's own code, which may raise anything
        raise ValueError(f"The model cannot be traced by torch.fx: {str(problem).splitlines()[0]}.") from None
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder" and node.users]
    if len(inputs) != 1:
        raise ValueError(f"The model must have one input, images, not {len(inputs)}.")
    return graph


def _without_head(nodes: list[fx.Node], graph: fx.GraphModule) -> list[fx.Node]:
    """Drops a last linear layer, if trained layers remain, and the flattening and pooling before it."""
    weighed = [index for index, node in enumerate(nodes) if _has_weights(node, graph)]
    if (
        len(weighed) < 2
        or weighed[-1] != len(nodes) - 1
        or not isinstance(graph.get_submodule(str(nodes[-1].target)), nn.Linear)
    ):
        return nodes
    nodes = nodes[:-1]
    while nodes and _only_shapes(nodes[-1], graph):
        nodes = nodes[:-1]
    return nodes


def _only_shapes(node: fx.Node, graph: fx.GraphModule) -> bool:
    """Whether a node is a flattening, pooling to 1 x 1 or dropout in front of a classifier."""
    if node.op == "call_module":
        kinds = (nn.Flatten, nn.AdaptiveAvgPool2d, nn.Identity, nn.Dropout)
        return isinstance(graph.get_submodule(str(node.target)), kinds)
    return node.target in (
        torch.flatten,
        "flatten",
        "view",
        "reshape",
        "mean",
        nn.functional.adaptive_avg_pool2d,
        torch.mean,
    )


def _has_weights(node: fx.Node, graph: fx.GraphModule) -> bool:
    if node.op != "call_module":
        return False
    return any(isinstance(part, WEIGHTS) for part in graph.get_submodule(str(node.target)).modules())


def _owner(node: fx.Node) -> str:
    """Dotted name of the module that a node runs in: the called module, else the module that made the call."""
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack")
    return next(reversed(stack)) if stack else ""


def _crossing(nodes: Sequence[fx.Node], source: fx.Node) -> list[bool]:
    """For each node, whether it alone carries what later nodes need, so that a wall can stand behind it."""
    index_of = {node: index for index, node in enumerate(nodes)}
    last_use = {
        node: max((index_of[user] for user in node.users if user in index_of), default=-1) for node in [source, *nodes]
    }
    result = []
    for index, node in enumerate(nodes):
        alive = [old for old in [source, *nodes[:index]] if last_use[old] > index and old.op != "get_attr"]
        result.append(not alive and node.op != "get_attr")
    return result


def _by_depth(nodes: Sequence[fx.Node], source: fx.Node, graph: fx.GraphModule, depth: int) -> list[Part]:
    """Starts a part where the owner's name down to `depth` changes, a wall can stand, and both sides have weights."""
    walls = _crossing(nodes, source)
    parts: list[Part] = [[]]
    weighed = False
    for index, node in enumerate(nodes):
        key = _owner(node).split(".")[:depth]
        here = index > 0 and walls[index - 1] and key != _owner(nodes[index - 1]).split(".")[:depth]
        if here and weighed and _leads_weights(nodes, index, key, depth, graph):
            parts.append([])
            weighed = False
        parts[-1].append(node)
        weighed = weighed or _has_weights(node, graph)
    return parts


def _leads_weights(nodes: Sequence[fx.Node], index: int, key: list[str], depth: int, graph: fx.GraphModule) -> bool:
    """Whether the module that begins at `index` has a convolution or a linear layer."""
    for node in nodes[index:]:
        if _owner(node).split(".")[:depth] != key:
            return False
        if _has_weights(node, graph):
            return True
    return False


def _by_pattern(nodes: Sequence[fx.Node], source: fx.Node, pattern: str) -> list[Part]:
    """Ends a part behind the last node of every module that matches, if a wall can stand there."""
    try:
        wanted = re.compile(pattern)
    except re.error as problem:
        raise ValueError(f"pattern {pattern!r} is not a regular expression: {problem}.") from None
    walls = _crossing(nodes, source)
    ends: dict[str, int] = {}
    for index, node in enumerate(nodes):
        names = _owner(node).split(".")
        for length in range(1, len(names) + 1):
            if wanted.fullmatch(name := ".".join(names[:length])):
                ends[name] = index
    if not ends:
        raise ValueError(f"pattern {pattern!r} matches no module of the model.")
    for name, index in ends.items():
        if not walls[index]:
            raise ValueError(f"No wall can stand behind {name!r}: later parts of the model need more than its output.")
    parts: list[Part] = [[]]
    for index, node in enumerate(nodes):
        parts[-1].append(node)
        if index in ends.values() and index < len(nodes) - 1:
            parts.append([])
    return parts


def _modules(parts: Sequence[Part], source: fx.Node, graph: fx.GraphModule) -> list[nn.Module]:
    """Each part as a module from the part's one input to its last node's output."""
    bodies: list[nn.Module] = []
    incoming = source
    for part in parts:
        own, made = fx.Graph(), {}
        made[incoming] = own.placeholder("incoming")
        for node in part:
            for constant in (each for each in node.all_input_nodes if each.op == "get_attr" and each not in made):
                made[constant] = own.node_copy(constant)  # an earlier part may have fetched it first
            made[node] = own.node_copy(node, made.__getitem__)
        own.output(made[part[-1]])
        bodies.append(fx.GraphModule(graph, own))
        incoming = part[-1]
    return bodies


def _refuse_shared_weights(parts: Sequence[Part], graph: fx.GraphModule) -> None:
    """Raises ValueError, with the model's own names, where layers of two blocks have one weight or are one layer."""
    found: dict[int, tuple[int, str]] = {}
    for index, part in enumerate(parts):
        for node in part:
            for name, tensor in _trained_in(node, graph):
                other, before = found.setdefault(tensor.data_ptr() or id(tensor), (index, name))
                if other == index:
                    continue
                words = (
                    f"{before!r} is used in blocks {other} and {index}"
                    if before == name
                    else f"{before!r} of block {other} and {name!r} of block {index} are one weight"
                )
                raise ValueError(
                    f"{words}, but each block is to learn from its own loss alone: give both a weight of their own, or "
                    "cut the model so that they are in one block."
                )


def _trained_in(node: fx.Node, graph: fx.GraphModule) -> list[tuple[str, torch.Tensor]]:
    """The weights that a node's layer learns, and the running statistics that it moves, by their names in the model."""
    fetched = [str(each.target) for each in node.all_input_nodes if each.op == "get_attr"]
    owned = dict(graph.named_parameters(remove_duplicate=False))
    own_weights: list[tuple[str, torch.Tensor]] = []
    own_weights += [(name, owned[name]) for name in fetched if name in owned and owned[name].requires_grad]
    if node.op != "call_module":
        return own_weights
    target = str(node.target)
    layer = graph.get_submodule(target)
    weights = [(name, own) for name, own in layer.named_parameters() if own.requires_grad]
    moved = [(name, own) for name, own in layer.named_buffers() if name.rpartition(".")[2].startswith("running_")]
    return own_weights + [(f"{target}.{name}", tensor) for name, tensor in (*weights, *moved)]


def _tried(body: nn.Module, signal: torch.Tensor, shape: Sequence[int]) -> object:
    """A part's output in evaluation mode."""
    try:
        return body.eval()(signal)
    except RuntimeError as problem:
        raise ValueError(
            f"The model does not take images of {' x '.join(map(str, shape))} (channels, height, width): "
            f"{str(problem).splitlines()[0].rstrip('.')}."
        ) from None


def _readable(activation: object, index: int, part: Part) -> torch.Tensor:
    if not isinstance(activation, torch.Tensor) or activation.dim() not in (2, 4):
        got = (
            f"a tensor of {activation.dim()} dimensions"
            if isinstance(activation, torch.Tensor)
            else type(activation).__name__
        )
        raise ValueError(
            f"Block {index}, which ends with {_owner(part[-1]) or part[-1].name!r}, gives {got}: rules read maps "
            "(B, K, H, W) or features (B, D), so cut the model elsewhere."
        )
    return activation
