"""The training step as a plain forward graph without autograd: weights in, weights out.

The traced function is `training.step.train_step` itself, with an optimiser written as arithmetic, so that an inference
runtime computes what the library computes. A forward-only block's gradient reaches back through one layer only, so the
graph is as shallow as the network: each block's part could run, and be freed, before the next one's begins.

Shapes: B batch, L blocks.
"""

import copy
from collections.abc import Callable, Iterator
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
from forwardonly.rules import ContrastiveRule
from forwardonly.training.batch import Batch
from forwardonly.training.compatibility import require_batch
from forwardonly.training.config import TrainingConfig
from forwardonly.training.step import Context
from forwardonly.training.strategies import whole_step


@dataclass(frozen=True, eq=False)
class TrainingStep:
    """A graph that maps `inputs` to `outputs`, and its initial state.

    Inputs: `images` (B, channels, height, width), uint8 or for a network of features float32, `labels` (B,) int64, for
    contrastive rules `wrong_labels` (B,) int64 drawn by the caller, or `chance` (B, classes) float32 drawn uniformly
    from 0 to 1 if the network draws hard wrong labels itself, `learning_rate` () float32, and every tensor of `state`
    under its name. Outputs: `losses` (L,), and for every tensor of the state `next.NAME`.
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
        """The losses (L,) of one step, and the state after it."""
        everything = {**given, **state}
        losses, *following = self.graph(*(everything[name] for name in self.inputs))
        return losses, dict(zip(state, following, strict=True))


def training_step(network: Network, *, batch_size: int, **options: Any) -> TrainingStep:
    """The network's step on batches of `batch_size` images; `options` are fields of `TrainingConfig`, as for `fit`.

    Weights are float32. All blocks learn on the batch; a rule's schedule over epochs stays at the network's current
    epoch; augmentation is left to the caller.

    Raises:
        ValueError: invalid options, an optimiser other than sgd, adam and adamw, dropout, or layers whose derivative
            cannot be written as forward operations.
    """
    require_network(network)
    config = TrainingConfig.resolve(network.rule, given=options)
    batch_size = _check(network, batch_size)
    network = plain_copy(network)
    if is_frozen(network):  # for prediction
        network.requires_grad_(True)
    network.train()
    rates = config.body_rates(len(network.row))
    specs = [
        optimiser_specs(f"blocks.{index}.", block, config, rate)
        for index, (block, rate) in enumerate(zip(network.row, rates, strict=True))
    ]
    if network.label_classifier is not None:
        specs.append(optimiser_specs("label_classifier.", network.label_classifier, config))
    named = dict(network.named_parameters())
    state = {name: tensor for own in specs for name, tensor in first_state(own, named).items()}
    state.update(_moving_buffers(network))

    images = example_inputs(network, batch_size)
    labels = torch.arange(batch_size) % network.classes
    given = {"images": images, "labels": labels}
    if network.draws_hard:
        given["chance"] = torch.rand(batch_size, network.classes)
    elif isinstance(network.rule, ContrastiveRule):
        given["wrong_labels"] = (labels + 1) % network.classes
    given["learning_rate"] = torch.tensor(config.learning_rate)
    inputs = [*given, *state]
    examples = (*given.values(), *state.values())

    constant = [*network.blocks.named_buffers(), *network.blocks.named_parameters()]  # a frozen block's too
    fixed = {f"blocks.{name}": tensor.detach() for name, tensor in constant if f"blocks.{name}" not in state}

    def step(*tensors: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip([*inputs, *fixed], tensors, strict=True))
        losses, following = _learn(network, specs, config, values, state)
        return losses, *(following[name] for name in state)

    # Twice: autograd does not run inside functionalize, and its derivatives can only be decomposed once traced.
    with sdpa_kernel(SDPBackend.MATH), unchecked(network):  # attention as plain products
        traced = _trace(step, (*examples, *fixed.values()))
    with torch.no_grad():
        plain = functionalize(traced, remove="mutations")
        graph = _trace(lambda *tensors: plain(*tensors, *fixed.values()), examples)
    _tidy(graph)
    return TrainingStep(graph, inputs, ["losses", *(f"next.{name}" for name in state)], state, examples)


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
        batch = Batch(network.present(images, labels, wrong=wrong), labels)
        return whole_step(network, updates, batch, Context("fp32"))


def race(labels: Tensor, logits: Tensor, chance: Tensor) -> Tensor:
    """`labels.hard_labels` with its random numbers `chance` (B, C), uniform in 0..1, as an input: (B,), (B, C) -> (B,).

    Among exponential waiting times with rates p, that of class c is the shortest with probability p_c.
    """
    rates = torch.softmax(logits.float(), dim=1).clamp_min(1e-6).scatter(1, labels[:, None], 0.0)
    return (rates / -torch.log(chance.clamp(1e-7, 1 - 1e-7))).argmax(1)


def _learn(
    network: Network, specs: list[OptimiserSpecs], config: TrainingConfig, values: State, state: State
) -> tuple[Tensor, State]:
    """The losses and the next state of one step from the tensors in `values`."""
    leaves = {name: values[name].detach().requires_grad_() for own in specs for name in own}
    buffers = {name: values[name].clone() for name, _ in network.named_buffers() if name in values}
    updates = [
        PlainUpdate({name: leaves[name] for name in own}, own, config.clip, values, values["learning_rate"])
        for own in specs
    ]
    frozen = {name: values[name] for name, _ in network.named_parameters() if name in values and name not in leaves}
    inside = {f"network.{name}": tensor for name, tensor in {**leaves, **frozen, **buffers}.items()}
    with torch.enable_grad():
        losses = functional_call(_Loop(network), inside, (values, updates))
    following = {name: buffers.get(name, values[name]).clone() for name in state}
    for update in updates:
        following.update(update.following)
    return losses, {name: tensor.detach() for name, tensor in following.items()}


def _moving_buffers(network: Network) -> State:
    """Running statistics: buffers of blocks that change in a forward pass in training mode."""
    moving: State = {}
    for path, module in network.blocks.named_modules(prefix="blocks"):
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None and module.training:
            assert module.running_var is not None
            moving[f"{path}.running_mean"] = module.running_mean.clone()
            moving[f"{path}.running_var"] = module.running_var.clone()
            module.num_batches_tracked = None
    return moving


def _check(network: Network, batch_size: int) -> int:
    """The batch size as an int; ValueError if such a step cannot be exported."""
    batch_size = whole_number("batch_size", batch_size, 1)
    if not network.labelled:
        raise ValueError("A rule without labels draws its pairs itself, which an exported training step cannot.")
    require_batch(network, batch_size)
    for name, module in network.named_modules():
        if drops(module):
            raise ValueError(f"Dropout is random and cannot be exported in a training step: build {name} without it.")
    return batch_size


def _tidy(graph: fx.GraphModule) -> None:
    """Removes checks of labels, which inference runtimes do not have, and unused nodes."""
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and "_assert" in str(node.target):
            graph.graph.erase_node(node)
        elif node.op == "call_function" and "backward" in str(node.target):
            raise ValueError(
                f"The derivative {node.target} is not known as forward operations, so it cannot be exported."
            )
    graph.graph.eliminate_dead_code()
    graph.recompile()
