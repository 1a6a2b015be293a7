"""The blocks of a localized model as modules that can be called alone, each from the signal before it to the next one.

The model's code around its walls is traced by torch.fx. Every module that holds no wall, nor weights of two blocks, is
called as it is, so what it does inside does not matter. A node of the graph belongs to the first block whose wall
depends on it, and what later blocks need of it goes on in the signal, a tuple of tensors. Weights, buffers and modules
are the model's own. What a trace would freeze, such as a training flag or a random draw, is looked for, and the model
is then left as it is. The method is ours.
"""

import operator
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.immutable_collections import immutable_dict
from torch.utils._pytree import tree_leaves, tree_map

from forwardonly.network.reading import MASK
from forwardonly.network.signal import tensors_in
from forwardonly.network.walled import Walled, unchanged

Tree = Any
"""A node of the graph, or a tuple, list or dict of them."""

ROOT = "model"
"""The name of the model in what is traced."""
WRITERS = frozenset({"setitem", "iadd", "isub", "imul", "itruediv", "iand", "ior"})


class NotEmitted(Exception):
    """The blocks of a model cannot be called alone; the text is the reason, half a sentence."""


def emitted(walled: Walled, weights: Sequence[Sequence[str]], inputs: Any) -> list[fx.GraphModule]:
    """A module for each block: from the tensors of its signal to what arrives at its wall, and the next signal.

    The first block's signal are the tensors of the model's inputs. The model is left in evaluation mode.

    Args:
        walled: the model and its walls.
        weights: the names of each block's weights.
        inputs: of the model, as an example.

    Raises:
        NotEmitted: the code around the walls cannot be traced, or a trace would not do what the code does.
    """
    graph, root, ends = _traced(walled, weights, inputs)
    plan = _Plan(graph, root, ends, inputs)
    plan.require_weights([[f"{ROOT}.{name}" for name in own] for own in weights])
    return plan.modules()


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """A context in which a model's code runs, which may raise anything.

    Raises:
        NotEmitted: it did; the text says `what` cannot be, and why.
    """
    try:
        yield
    except NotEmitted:
        raise
    except Exception as problem:
        reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0].partition(". ")[0].rstrip(".")
        raise NotEmitted(f"{what} ({reason})") from None


@contextmanager
def slow_attention() -> Iterator[None]:
    """A context without PyTorch's own arithmetic for attention in evaluation, which the hooks of walls turn off too."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _Tracer(fx.Tracer):
    """Traces into the modules that are `opened`, and keeps the nodes of what the modules at the walls give."""

    proxy_buffer_attributes = True  # or what is computed of buffers alone would be a constant

    def __init__(self, opened: frozenset[str], walls: Sequence[str]):
        super().__init__()
        self.opened = opened
        self.ends: dict[str, Tree] = dict.fromkeys(walls)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self.opened

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        self.param_shapes_constant = isinstance(attr_val, nn.Parameter)  # a buffer's are not supported
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        output = super().call_module(m, forward, args, kwargs)
        name = self.path_of_module(m)
        if name in self.ends:
            self.ends[name] = tree_map(lambda leaf: leaf.node if isinstance(leaf, fx.Proxy) else leaf, output)
        return output


def _traced(walled: Walled, weights: Sequence[Sequence[str]], inputs: Any) -> tuple[fx.Graph, Walled, list[Tree]]:
    """The graph of a model, its root, and the nodes at each wall; the same in training and in evaluation."""
    model, walls = walled.model, [f"{ROOT}.{name}" for name in walled.walls]
    opened = _opened(model, walled.walls, weights)
    known = {f"{ROOT}.{name}" for name, _ in model.named_modules()}
    for wall in walls:
        if wall not in known:
            raise NotEmitted(f"a wall stands inside the recurrent stack {_short(wall.rpartition('.')[0])}")
    form = None if isinstance(inputs, Tensor) else {"inputs": tree_map(lambda _: fx.PH, inputs)}  # type: ignore[attr-defined]
    seen = []
    for mode in (True, False):
        root = Walled(model.train(mode), ())
        tracer = _Tracer(opened, walls)
        moving = {name: root.get_submodule(name) for name in opened}
        with _unmoved(moving), refusing("its code around the walls cannot be traced"):
            graph = tracer.trace(root, form)
        seen.append(str(graph))
    if seen[0] != seen[1]:
        raise NotEmitted("its code around the walls does something else in training than in evaluation")
    for wall, end in tracer.ends.items():
        if not any(isinstance(leaf, fx.Node) for leaf in tree_leaves(end)):
            raise NotEmitted(f"a trace does not pass {_short(wall)}")
    return graph, root, list(tracer.ends.values())


def _opened(model: nn.Module, walls: Sequence[str], weights: Sequence[Sequence[str]]) -> frozenset[str]:
    """Names of the modules that are traced: those around a wall, and those with weights of several blocks."""
    owners: dict[str, set[int]] = {}
    for index, own in enumerate(weights):
        for name in own:
            for above in _around(name):
                owners.setdefault(above, set()).add(index)
    shared = {name for name, blocks in owners.items() if len(blocks) > 1}
    around = {above for wall in walls for above in _around(wall)}
    modules = dict(model.named_modules())
    return frozenset({ROOT, *(f"{ROOT}.{name}" for name in shared | around if name in modules)})


def _around(name: str) -> Iterator[str]:
    """Names of the modules around a module or a weight, up to the model."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _short(name: str) -> str:
    return repr(name.removeprefix(f"{ROOT}.")) if name != ROOT else "the model"


@contextmanager
def _unmoved(modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """A context in which the modules keep their attributes, and nothing random is drawn.

    Raises:
        NotEmitted: they did otherwise; their attributes are as before.
    """
    before = {name: (dict(vars(module)), dict(module._buffers)) for name, module in modules.items()}
    drawn = (torch.get_rng_state(), random.getstate())
    try:
        yield
    finally:
        moved = None
        for name, module in modules.items():
            attributes, buffers = before[name]
            if not (_same(attributes, vars(module)) and _same(buffers, module._buffers)):
                moved = name
                vars(module).clear()
                vars(module).update(attributes)
                module._buffers.clear()
                module._buffers.update(buffers)
    if moved is not None:
        raise NotEmitted(f"{_short(moved)} keeps values from call to call")
    if not torch.equal(drawn[0], torch.get_rng_state()) or drawn[1] != random.getstate():
        raise NotEmitted("its code around the walls draws random numbers")


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(own is other[name] for name, own in one.items())


class _Plan:
    """Which node of a graph belongs to which block."""

    def __init__(self, graph: fx.Graph, root: Walled, ends: Sequence[Tree], inputs: Any):
        self.graph = graph
        self.root = root
        self.inputs = [node for node in graph.nodes if node.op == "placeholder"]
        names = list(inputs) if isinstance(inputs, Mapping) else []
        mask = self.inputs[names.index(MASK)] if MASK in names else None
        self.ends = [(end, mask) for end in ends]
        self.values = _values(graph, root, inputs)
        self.owner: dict[fx.Node, int] = {}
        for index, end in enumerate(self.ends):
            todo = [leaf for leaf in tree_leaves(end) if isinstance(leaf, fx.Node)]
            while todo:
                node = todo.pop()
                if node.op not in ("placeholder", "get_attr") and node not in self.owner:
                    self.owner[node] = index
                    todo.extend(node.all_input_nodes)
        for node in graph.nodes:  # a part of a tuple is taken where the tuple is made
            if node.target is operator.getitem and node.args[0] in self.owner and self._is_tree(node.args[0]):
                self.owner[node] = self.owner[node.args[0]]
        self.parts: dict[fx.Node, Tree] = {}
        for node in list(graph.nodes):
            others = {self.owner.get(user, self.owner.get(node)) for user in node.users} - {self.owner.get(node)}
            if node in self.owner and self._is_tree(node) and others:
                self.parts[node] = self._taken_apart(node)
        self._require_order()

    def _is_tree(self, node: fx.Node) -> bool:
        return not isinstance(self.values[node], Tensor) and bool(tensors_in(self.values[node]))

    def _is_light(self, node: fx.Node) -> bool:
        """Whether a node is no tensor, such as a size, so that each block that needs it computes it again."""
        return node.op == "get_attr" or (
            node.op in ("call_function", "call_method") and not tensors_in(self.values[node])
        )

    def _taken_apart(self, node: fx.Node) -> Tree:
        """Nodes for the parts of a tuple, list or dict."""
        value = self.values[node]
        if isinstance(value, Tensor):
            return node
        if value is None:
            return None
        if type(value) not in (tuple, list, dict):
            raise NotEmitted(f"a value of type {type(value).__name__} goes from block to block")
        keys = list(value) if isinstance(value, dict) else range(len(value))
        parts: list[Tree] = []
        for key in keys:
            with self.graph.inserting_after(node):
                part = self.graph.call_function(operator.getitem, (node, key))
            self.values[part], self.owner[part] = value[key], self.owner[node]
            parts.append(self._taken_apart(part))
        return dict(zip(keys, parts, strict=True)) if isinstance(value, dict) else type(value)(parts)

    def _require_order(self) -> None:
        """Raises NotEmitted where something is written that a trace loses, or that another block reads."""
        for node in self.graph.nodes:
            name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
            writes = name in WRITERS or (name.endswith("_") and not name.endswith("__")) or node.kwargs.get("inplace")
            if node.op in ("call_function", "call_method") and writes and isinstance(node.args[0], fx.Node):
                users = {self.owner[user] for user in node.args[0].users if user in self.owner}
                if node not in self.owner and (users or node.args[0].op == "get_attr"):
                    raise NotEmitted(f"{name} writes into a tensor, and a trace would leave it out")
                if len(users) > 1:
                    raise NotEmitted(f"{name} writes into a tensor that another block reads")

    def require_weights(self, weights: Sequence[Sequence[str]]) -> None:
        """Raises NotEmitted unless each trained weight is used in its own block and in no other."""
        used: dict[int, set[int]] = {}
        for node, index in self.owner.items():
            for name in [node.target] if node.op == "call_module" else []:
                for weight in self.root.get_submodule(str(name)).parameters():
                    used.setdefault(id(weight), set()).add(index)
            for given in node.all_input_nodes:
                if given.op == "get_attr":
                    owner, name = _owner(self.root, str(given.target))
                    used.setdefault(id(getattr(owner, name)), set()).add(index)
        for index, own in enumerate(weights):
            for name in own:
                weight = self.root.get_parameter(name)
                if weight.requires_grad and used.get(id(weight)) != {index}:
                    raise NotEmitted(f"a trace takes {_short(name)} into another block")

    def modules(self) -> list[fx.GraphModule]:
        """The blocks' modules, made from the last to the first, each of which passes on what those behind it take."""
        modules, signal = [], list[fx.Node]()
        for index in reversed(range(len(self.ends))):
            module, signal = self._module(index, signal)
            modules.append(module)
        return modules[::-1]

    def _module(self, index: int, following: Sequence[fx.Node]) -> tuple[fx.GraphModule, list[fx.Node]]:
        """One block's module, given the next one's signal, and its own signal."""
        graph = fx.Graph()
        made: dict[fx.Node, fx.Node] = {}

        def get(node: fx.Node) -> Any:
            if node in made:
                return made[node]
            own = self.owner.get(node) == index
            if node in self.parts and not own:
                return each_node(self.parts[node])
            if own or self._is_light(node):
                made[node] = graph.node_copy(node, get)
            elif isinstance(self.values[node], Tensor):
                with graph.inserting_before(None):  # at the front
                    made[node] = graph.placeholder(node.name)
            else:
                kind = type(self.values[node]).__name__
                raise NotEmitted(f"a value of type {kind} goes from block to block")
            return made[node]

        def each_node(tree: Tree) -> Tree:
            return tree_map(lambda leaf: get(leaf) if isinstance(leaf, fx.Node) else leaf, tree)

        if index == 0:
            for node in reversed(self.inputs):
                get(node)
        for node in self.graph.nodes:
            if self.owner.get(node) == index and not self._is_light(node):
                get(node)
        graph.output((each_node(self.ends[index]), tuple(map(get, following))))
        origin = {copy: node for node, copy in made.items()}
        signal = [origin[node] for node in graph.nodes if node.op == "placeholder"]
        module = fx.GraphModule(self.root, graph, f"Block{index}")
        for node in graph.nodes:
            if node.op == "get_attr":  # a graph would keep the buffers of now, and another device has others
                owner, name = _owner(self.root, str(node.target))
                if name in owner._buffers:
                    _owner(module, str(node.target))[0]._buffers = owner._buffers
        return module, signal


def _values(graph: fx.Graph, root: nn.Module, inputs: Any) -> dict[fx.Node, Any]:
    """What each node gives for inputs."""
    values: dict[fx.Node, Any] = {}

    class Watch(fx.Interpreter):
        def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
            return _writable(super().fetch_args_kwargs_from_env(n))

        def run_node(self, n: fx.Node) -> Any:
            values[n] = super().run_node(n)
            return values[n]

    with torch.no_grad(), unchanged(root):
        Watch(root, garbage_collect_values=False, graph=graph).run(*tree_leaves(inputs), enable_io_processing=False)
    return values


def _writable(tree: Tree) -> Tree:
    """A tree whose lists and dicts can be written to, as a model's own can; those of a graph cannot."""
    if isinstance(tree, list):
        return [_writable(part) for part in tree]
    if type(tree) is tuple:
        return tuple(_writable(part) for part in tree)
    return {key: _writable(part) for key, part in tree.items()} if type(tree) is immutable_dict else tree


def _owner(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that has an attribute, and the attribute's own name."""
    above, _, own = name.rpartition(".")
    return root.get_submodule(above), own
