"""The training step as a plain forward graph without autograd: weights in, weights out.

The traced function is `training.step.train_step` itself, with an optimiser written as arithmetic, so that an inference
runtime computes what the library computes. A forward-only block's gradient reaches back through one layer only, so the
graph is as shallow as the network: each block's part could run, and be freed, before the next one's begins.

Shapes: B batch, L blocks.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from forwardonly.bodies.dropout import drops
from forwardonly.export import decompositions
from forwardonly.export.optimisers import OptimiserSpecs, PlainUpdate, State, first_state, optimiser_specs
from forwardonly.names import whole_number
from forwardonly.network.block import is_frozen
from forwardonly.network.network import Network, require_network
from forwardonly.network.signal import reason_of
from forwardonly.rules import ContrastiveRule
from forwardonly.targets import OBJECTIVES, Kind
from forwardonly.training.batch import Batch
from forwardonly.training.compatibility import require_batch
from forwardonly.training.config import TrainingConfig
from forwardonly.training.step import Context
from forwardonly.training.strategies import whole_step

EXAMPLES: dict[Kind, Callable[[int, int], Tensor]] = {
    "class": lambda count, classes: torch.arange(count) % classes,
    "labels": torch.zeros,
    "number": torch.zeros,
}
"""Targets of `count` examples, of each kind that an exported step learns."""
PARTS = ("blocks.", "walled.")
"""Where the tensors of a network are that a step reads or changes; those that prepare inputs and targets are fixed."""
COPIES = (torch.ops.aten.clone.default, torch.ops.aten.detach.default, torch.ops.aten.alias.default)


@dataclass(frozen=True, eq=False)
class TrainingStep:
    """A graph that maps `inputs` to `outputs`, and its initial state.

    Inputs: `images` (B, channels, height, width), uint8 or for a network of features float32, or what a model takes;
    `labels` (B,) int64, or of several labels (0 or 1) and of numbers (in their own units) (B, C) float32; for
    contrastive rules `wrong_labels` (B,) int64 drawn by the caller, or `chance` (B, classes) float32 drawn uniformly
    from 0 to 1 if the network draws hard wrong labels itself; `learning_rate` () float32, and every tensor of `state`
    under its name, which for those of the network is that in its `state_dict`. Outputs: `losses` (L,), and for every
    tensor of the state `next.NAME`.
    """

    graph: fx.GraphModule
    inputs: list[str]
    outputs: list[str]
    state: State
    examples: tuple[Tensor, ...]

    @property
    def batch_size(self) -> int:
        """The number of images that it learns from."""
        return len(self.examples[self.inputs.index("labels")])

    def __call__(self, state: State, **given: Tensor) -> tuple[Tensor, State]:
        """The losses (L,) of one step, and the state after it.

        Raises:
            ValueError: an input is missing, or of another type or shape than the graph's, which would broadcast it.
        """
        for name, example in zip(self.inputs, self.examples, strict=True):
            if name in self.state:
                continue
            if name not in given:
                raise ValueError(f"{name} is missing: it must be {_kind(example)}.")
            if _kind(given[name]) != _kind(example):
                raise ValueError(f"{name} must be {_kind(example)}, not {_kind(given[name])}.")
        everything = {**given, **state}
        losses, *following = self.graph(*(everything[name] for name in self.inputs))
        return losses, dict(zip(state, following, strict=True))


def training_step(network: Network, *, batch_size: int, **options: Any) -> TrainingStep:
    """The network's step on batches of `batch_size` images; `options` are fields of `TrainingConfig`, as for `fit`.

    Weights are float32. All blocks learn on the batch; a rule's schedule over epochs stays at the network's current
    epoch; augmentation is left to the caller.

    Raises:
        ValueError: invalid options, an optimiser other than sgd, adam and adamw, a network that learns tokens, numbers
            in units that are not fitted, several inputs, dropout, or layers whose derivative cannot be written as
            forward operations.
    """
    require_network(network)
    config = TrainingConfig.resolve(network.rule, given=options)
    batch_size = _check(network, batch_size)
    network = plain_copy(network)
    if is_frozen(network):  # for prediction
        network.requires_grad_(True)
    network.train()
    _drop_counters(network)
    tensors = _tensors(network)
    names = {id(tensor): name for name, tensor in tensors.items()}
    rates = config.body_rates(len(network.row))
    specs = [optimiser_specs(names, block, config, rate) for block, rate in zip(network.row, rates, strict=True)]
    if network.label_classifier is not None:
        specs.append(optimiser_specs(names, network.label_classifier, config))
    state = {name: tensor for own in specs for name, tensor in first_state(own, tensors).items()}

    images = example_inputs(network, batch_size)
    labels = EXAMPLES[network.targets](batch_size, network.classes)
    given = {"images": images, "labels": labels}
    if network.draws_hard:
        given["chance"] = torch.rand(batch_size, network.classes)
    elif isinstance(network.rule, ContrastiveRule):
        given["wrong_labels"] = (labels + 1) % network.classes
    given["learning_rate"] = torch.tensor(config.learning_rate)
    inputs = {**given, **state}
    held = {name: tensor.detach() for name, tensor in tensors.items() if name not in state and name.startswith(PARTS)}

    def step(*tensors: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip([*inputs, *held], tensors, strict=True))
        losses, following = _learn(network, specs, config, values, held)
        return losses, *(following[name] for name in (*state, *held))

    # Twice: autograd does not run inside functionalize, and its derivatives can only be decomposed once traced.
    everything = (*inputs.values(), *held.values())
    with sdpa_kernel(SDPBackend.MATH), unchecked(network), as_a_graph():  # attention as plain products
        traced = _trace(step, everything)
        _require_inputs(traced, {id(tensors[name]): name for own in specs for name in own})
        with torch.no_grad():
            graph = _trace(functionalize(traced, remove="mutations"), everything)
    moved = _settle(graph, held)
    _tidy(graph)
    state.update(moved)
    outputs = ["losses", *(f"next.{name}" for name in state)]
    return TrainingStep(graph, [*inputs, *moved], outputs, state, (*inputs.values(), *moved.values()))


@contextmanager
def as_a_graph() -> Iterator[None]:
    """A context in which whatever torch says of a model that it cannot trace is one ValueError."""
    try:
        yield
    except ValueError:
        raise
    except Exception as problem:  # a model may do anything
        raise ValueError(f"The model cannot be written as a graph: {reason_of(problem)}.") from problem


def _kind(tensor: Tensor) -> str:
    """The type and shape of a tensor, in words."""
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


def input_type(network: Network) -> torch.dtype:
    """The type of a network's images in an exported graph: float32 if it was trained on features, else uint8."""
    return torch.float32 if getattr(network.prepare, "input", None) == "features" else torch.uint8


def example_inputs(network: Network, count: int) -> Any:
    """`count` inputs of zeros, of the type that an exported graph takes."""
    inputs = network.blank(count)
    pictures = isinstance(inputs, Tensor) and inputs.dtype == torch.uint8
    return inputs.to(input_type(network)) if pictures else inputs


def plain_copy(network: Network) -> Network:
    """A copy on the CPU whose maps lie channel after channel: ExecuTorch's kernels do not mix memory formats."""
    copied = copy.deepcopy(network).cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # missing in torch's own types
    copied.prepare.channels_last = False
    return copied


@contextmanager
def unchecked(network: Network) -> Iterator[None]:
    """A context in which a network does not look at the values of its inputs: a graph has no errors."""
    network.prepare.checks = False
    try:
        yield
    finally:
        network.prepare.checks = True


def _trace(function: Callable[..., Any], examples: tuple[Tensor, ...]) -> fx.GraphModule:
    """Traces a function on example tensors; tensors that it already holds become constants."""
    table = decompositions.table()
    return make_fx(function, decomposition_table=table, tracing_mode="fake", _allow_non_fake_inputs=True)(*examples)


class _Loop(nn.Module):
    """The training loop as a module, so that its weights can be passed in."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(self, values: State, updates: list[PlainUpdate]) -> Tensor:
        network, images, labels = self.network, values["images"], values["labels"]
        wrong = values.get("wrong_labels")
        if network.label_classifier is not None:  # it learns first, as in `training.feed`
            passed = network.read(network.prepare(images))
            *updates, update = updates
            update(network.label_classifier.loss(passed, labels))
            if network.draws_hard:
                learned = {
                    name: update.following[f"label_classifier.{name}"]
                    for name, _ in network.label_classifier.named_parameters()
                }
                logits = functional_call(network.label_classifier, learned, (passed,)).sum(0)
                wrong = race(labels, logits.detach(), values["chance"])
        batch = Batch(network.present(images, labels, wrong=wrong), network.aimed(labels))
        return whole_step(network, updates, batch, Context("fp32"))


def race(labels: Tensor, logits: Tensor, chance: Tensor) -> Tensor:
    """`labels.hard_labels` with its random numbers `chance` (B, C), uniform in 0..1, as an input: (B,), (B, C) -> (B,).

    Among exponential waiting times with rates p, that of class c is the shortest with probability p_c.
    """
    rates = torch.softmax(logits.float(), dim=1).clamp_min(1e-6).scatter(1, labels[:, None], 0.0)
    return (rates / -torch.log(chance.clamp(1e-7, 1 - 1e-7))).argmax(1)


def _learn(
    network: Network, specs: list[OptimiserSpecs], config: TrainingConfig, values: State, held: Iterable[str]
) -> tuple[Tensor, State]:
    """The losses of one step from the tensors in `values`, and all of them after it, those of the names `held` too."""
    leaves = {name: values[name].detach().requires_grad_() for own in specs for name in own}
    updates = [
        PlainUpdate({name: leaves[name] for name in own}, own, config.clip, values, values["learning_rate"])
        for own in specs
    ]
    inside = {f"network.{name}": tensor for name, tensor in leaves.items()}
    inside.update({f"network.{name}": values[name].clone() for name in held})
    with torch.enable_grad():
        losses = functional_call(_Loop(network), inside, (values, updates))
    following = {name: tensor.clone() for name, tensor in values.items()}
    following.update({name: inside[f"network.{name}"] for name in held})  # written into, or put in their places
    for update in updates:
        following.update(update.following)
    return losses, {name: tensor.detach() for name, tensor in following.items()}


def _tensors(network: Network) -> State:
    """Every weight and buffer by its name in `state_dict`: those of a model that was cut are in its blocks as well."""
    saved = network.state_dict(keep_vars=True).items()
    names: dict[int, str] = {}
    tensors: State = {}
    for name, tensor in (*saved, *network.named_parameters(), *network.named_buffers()):
        if isinstance(tensor, Tensor) and names.setdefault(id(tensor), name) == name:
            tensors[name] = tensor
    return tensors


def _drop_counters(network: Network) -> None:
    """Takes away from batch norms the number of their batches, which only one without a momentum reads."""
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None and module.training:
            if module.momentum is None:
                raise ValueError(f"An exported training step counts no batches: give the batch norm {name} a momentum.")
            module.num_batches_tracked = None


def _require_inputs(graph: fx.GraphModule, trained: Mapping[int, str]) -> None:
    """Raises ValueError if a graph keeps a weight that the step trains, known by its id, and not as an input."""
    for node in graph.graph.find_nodes(op="get_attr"):
        name = trained.get(id(getattr(graph, node.target)))
        if name is not None:
            raise ValueError(
                f"The step cannot be exported, for a graph would keep {name} as it is: the model holds it a second "
                "time, as stacked recurrent layers are, where no other weights can be put in its place."
            )


def _settle(graph: fx.GraphModule, held: State) -> State:
    """Makes the inputs `held`, which are the last, constants of a graph, and leaves out what follows them.

    Except for those that the step changes, such as running statistics, which are returned.
    """
    (output,) = graph.graph.find_nodes(op="output")
    results, inputs = list(output.args[0]), graph.graph.find_nodes(op="placeholder")
    count, first = len(results) - len(held), len(inputs) - len(held)
    moved: State = {}
    constants = []
    for (name, tensor), node, result in zip(held.items(), inputs[first:], results[count:], strict=True):
        source = result
        while source.target in COPIES:
            source = source.args[0]
        if source is node:
            constants.append((node, tensor))
        else:
            results[count + len(moved)] = result
            moved[name] = tensor.clone()
    output.args = (results[: count + len(moved)],)
    graph.graph.eliminate_dead_code()
    for index, (node, tensor) in enumerate(constants):
        if node.users:
            graph.register_buffer(f"held{index}", tensor)
            with graph.graph.inserting_after(inputs[-1]):
                constant = graph.graph.get_attr(f"held{index}")
            node.replace_all_uses_with(constant)
            for user in [user for user in constant.users if user.target in COPIES]:  # nothing writes into a constant
                user.replace_all_uses_with(constant)
    for node, _ in constants:
        graph.graph.erase_node(node)
    return moved


def _check(network: Network, batch_size: int) -> int:
    """The batch size as an int; ValueError if such a step cannot be exported."""
    batch_size = whole_number("batch_size", batch_size, 1)
    if not network.labelled:
        raise ValueError("A rule without labels draws its pairs itself, which an exported training step cannot.")
    if not isinstance(network.blank(1), Tensor):
        raise ValueError(
            "An exported training step takes one tensor of inputs, not several: put the model into a module that takes "
            "one and divides it."
        )
    if network.targets not in EXAMPLES:
        known = " or ".join(OBJECTIVES[kind].words for kind in EXAMPLES)
        raise ValueError(f"An exported training step learns {known}, not {OBJECTIVES[network.targets].words}.")
    if network.units is not None:
        network.units.require_fitted()
    require_batch(network, batch_size)
    for name, module in network.named_modules():
        if drops(module):
            raise ValueError(f"Dropout is random and cannot be exported in a training step: build {name} without it.")
    return batch_size


def _tidy(graph: fx.GraphModule) -> None:
    """Removes checks of labels, which inference runtimes do not have, and unused nodes.

    Raises:
        ValueError: a derivative that is left, or random numbers.
    """
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and "_assert" in str(node.target):
            graph.graph.erase_node(node)
        elif node.op == "call_function" and "backward" in str(node.target):
            raise ValueError(
                f"The derivative {node.target} is not known as forward operations, so it cannot be exported."
            )
        elif torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise ValueError(f"The model draws random numbers ({node.target}), which a training step cannot.")
    graph.graph.eliminate_dead_code()
    graph.recompile()
