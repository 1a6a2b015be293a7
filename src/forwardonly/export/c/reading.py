"""Reading the plan of a training step in C from a network; what C cannot hold is refused here."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, get_args

from torch import Tensor, nn

from forwardonly import rules
from forwardonly.bodies import Chain
from forwardonly.bodies.dropout import drops
from forwardonly.export.c.plan import BlockPlan, LabelClassifier, Map, Plan, Precision, Stage
from forwardonly.names import name_in, one_of, whole_number
from forwardonly.network.block import Block, is_frozen
from forwardonly.network.network import Network, require_network
from forwardonly.ops.norms import instance_norm
from forwardonly.training.compatibility import require_batch
from forwardonly.training.config import TrainingConfig
from forwardonly.training.optim import MOMENTUM

RULES = ("hyperspherical", "projection", "ff", "channel-static", "backprop")
LAYERS = "Linear, Conv2d (plain or depthwise), MaxPool2d, BatchNorm and ReLU"


def make_plan(
    network: Network, *, batch_size: int, precision: Precision = "float32", spare_classes: int = 0, **options: Any
) -> Plan:
    """The plan of a network's training step; `options` are fields of `TrainingConfig`.

    Raises:
        ValueError: a rule, a body, an optimiser or an option that C cannot hold, with what it can.
    """
    require_network(network)
    config = TrainingConfig.resolve(network.rule, given=options)
    batch, spare = whole_number("batch_size", batch_size, 1), whole_number("spare_classes", spare_classes, 0)
    one_of("precision", precision, get_args(Precision))
    if config.optimiser.lower() != "sgd":
        raise ValueError(f"A training step in C learns with sgd, not with {config.optimiser}: choose optimiser sgd.")
    if network.in_place:
        raise ValueError(
            "C cannot hold a model that fo.localize cut in place: build the network of a body (mlp, cnn, conv, "
            "separable), or of blocks that are each an nn.Sequential."
        )
    if config.body_rate != 1 or config.layer_decay != 1 or config.heads_first:
        raise ValueError(
            "C has one learning rate for all weights: choose body_rate 1, layer_decay 1 and heads_first 0."
        )
    if network.rule.targets != "class":
        raise ValueError(f"C learns one class an example, not targets of the kind {network.rule.targets!r}.")
    if len(network.shape) != 3:
        raise ValueError(
            f"C takes examples of channels x height x width, not of {len(network.shape)} axes: give features as "
            "(features, 1, 1), and signals as (channels, 1, time)."
        )
    _check_rule(network)
    if network.prepare.stem is not None:
        raise ValueError("The body has a stem, which C cannot hold: choose the body mlp, cnn or separable.")
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    if frozen and not is_frozen(network):
        raise ValueError(f"C trains all weights, and {frozen[0]} is frozen: unfreeze it with requires_grad_().")
    require_batch(network, batch)
    blocks, incoming = [], Map(*network.shape)
    for index, block in enumerate(network.row):
        passes = index < len(network.row) - 1 or network.label_classifier is not None
        blocks.append(_block(index, block, incoming, spare, passes=passes))
        incoming = blocks[-1].outgoing
    normed = any(stage.norm for block in blocks for stage in block.stages)
    return Plan(
        network=network,
        blocks=blocks,
        batch=batch,
        group=batch if normed else 1,
        config=config,
        momentum=MOMENTUM if config.momentum is None else config.momentum,
        features=network.prepare.input == "features",
        precision=precision,
        spare=spare,
        label_classifier=_label_classifier(network, blocks, batch),
    )


def _check_rule(network: Network) -> None:
    for block in network.row:
        name = name_in(rules.TABLE, block.rule)
        if name not in RULES:
            raise ValueError(f"C cannot hold the rule {name!r}: choose one of {', '.join(RULES[:-1])}.")
    rule = network.rule
    if isinstance(rule, rules.ForwardForward):
        if rule.negatives == "fixed":
            raise ValueError("C draws a wrong label anew for each example: train with negatives hard or uniform.")
        if rule.label_placement != "first":
            raise ValueError("C holds ff with the label in the first features: train with label_placement first.")


def _block(index: int, block: Block, incoming: Map, spare: int, *, passes: bool) -> BlockPlan:
    """The plan of one block."""
    stages = _stages(index, block.body, incoming)
    rule, shape = block.rule, stages[-1].passed
    plan = BlockPlan(
        index=index,
        stages=stages,
        rule=rule,
        passes="",
        parameters={name: _shape(name, parameter, spare) for name, parameter in block.named_parameters()},
        statistics={
            name: tuple(buffer.shape)
            for name, buffer in block.named_buffers()
            if name.endswith(("running_mean", "running_var"))
        },
        grid=getattr(rule, "grid", 1),
    )
    if passes:
        plan.passes = _passes(index, block)
    if isinstance(rule, rules.Hyperspherical) and isinstance(rule.auxiliary, nn.Sequential):
        plan.head = _convolution(index, "rule.auxiliary.0", rule.auxiliary[0], shape)
        plan.head.relu = True
    return plan


def _label_classifier(network: Network, blocks: Sequence[BlockPlan], batch: int) -> LabelClassifier | None:
    """The plan of the label classifier, if there is one.

    Raises:
        ValueError: its pass, which is of one stream, would show a batch norm one value a channel.
    """
    classifier = network.label_classifier
    if classifier is None:
        return None
    for block in blocks:
        if batch == 1 and any(stage.norm and stage.outgoing.pixels == 1 for stage in block.stages):
            raise ValueError(f"Batch norm in block {block.index + 1} needs 2 images a batch: choose batch_size of 2.")
    return LabelClassifier(
        first=classifier.first,
        sizes=[block.outgoing.size for block in blocks[classifier.first :]],
        parameters={name: tuple(own.shape) for name, own in classifier.named_parameters()},
    )


def _shape(name: str, parameter: Tensor, spare: int) -> tuple[int, ...]:
    """The shape of a weight in C: prototypes have room for more classes."""
    more = spare if name == "rule.prototypes" else 0
    return (parameter.shape[0] + more, *parameter.shape[1:])


def _passes(index: int, block: Block) -> str:
    """How a block passes on its activation, if C knows it."""
    own = {rules.Hyperspherical: "unit_rms", rules.ForwardForward: "unit_rms", rules.ChannelStatic: "group_norm"}
    join: Any = block.join
    if join is None:
        return own.get(type(block.rule), "")
    if isinstance(join, partial) and join.args == (instance_norm, None) and type(block.rule) not in own:
        return "instance_norm"
    raise ValueError(f"Block {index + 1} has a shortcut, which C cannot hold: choose the body mlp, cnn or separable.")


def _stages(index: int, body: nn.Module, incoming: Map) -> list[Stage]:
    """The stages of a block's body."""
    stages: list[Stage] = []
    for path, module in _leaves("body", body):
        last = stages[-1] if stages else None
        shape = incoming if last is None else last.passed
        if isinstance(module, nn.Flatten) and module.start_dim == 1 and module.end_dim == -1:
            if last is not None:
                last.flattened = True
            else:
                incoming = Map(shape.size)
        elif isinstance(module, nn.Identity):
            pass
        elif drops(module):
            raise ValueError(f"Block {index + 1} has dropout, which C cannot hold: train without it.")
        elif isinstance(module, nn.modules.dropout._DropoutNd):
            pass
        elif isinstance(module, nn.Linear) and shape.pixels == 1:
            out = Map(module.out_features)
            stages.append(Stage(path, Map(shape.size), out, module.bias is not None))
        elif isinstance(module, nn.Conv2d):
            stages.append(_convolution(index, path, module, shape))
        elif last is not None and _append(last, path, module):
            pass
        else:
            raise ValueError(
                f"Block {index + 1} has {type(module).__name__} at "
                f"{path.removeprefix('body.')}, which C cannot hold "
                f"there: a block may have {LAYERS}, in this order."
            )
    if not stages:
        raise ValueError(f"Block {index + 1} has no weights, so it has nothing to learn in C.")
    return stages


def _append(stage: Stage, path: str, module: nn.Module | str) -> bool:
    """Whether a module without a layer of its own can follow in the stage; it is then noted there."""
    if stage.standardise:
        return False
    if isinstance(module, nn.ReLU):
        if stage.relu:
            return False
        stage.relu = True
        return True
    if (
        isinstance(module, nn.MaxPool2d)
        and stage.norm is None
        and stage.convolution is not None
        and not stage.flattened
    ):
        high, wide = _pair(module.kernel_size)
        plain = _pair(module.stride) == (high, wide) and not module.ceil_mode and stage.pool == (1, 1)
        if not plain or _pair(module.padding) != (0, 0) or _pair(module.dilation) != (1, 1) or high * wide > 256:
            return False
        stage.pool = (high, wide)  # the largest of ReLUs is the ReLU of the largest
        stage.outgoing = Map(stage.outgoing.channels, stage.outgoing.height // high, stage.outgoing.width // wide)
        return True
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and not (stage.relu or stage.norm or stage.flattened):
        if not (module.affine and module.track_running_stats) or module.momentum is None:
            return False
        stage.norm, stage.epsilon, stage.momentum = path, module.eps, module.momentum
        return True
    if module == "instance_norm":
        stage.standardise = True
        return True
    return False


def _convolution(index: int, path: str, module: Any, shape: Map) -> Stage:
    """The stage of a convolution."""
    depthwise = module.groups == module.in_channels == module.out_channels and module.groups > 1
    fits = module.padding_mode == "zeros" and tuple(module.dilation) == (1, 1) and not isinstance(module.padding, str)
    if not fits or (module.groups != 1 and not depthwise):
        raise ValueError(
            f"Block {index + 1} has a convolution at {path.removeprefix('body.')} that C cannot hold: it may be plain "
            "or depthwise, zero-padded by a number of pixels, without dilation."
        )
    sides = [
        (size + 2 * padding - kernel) // stride + 1
        for size, padding, kernel, stride in zip(
            shape[1:], module.padding, module.kernel_size, module.stride, strict=True
        )
    ]
    return Stage(path, shape, Map(module.out_channels, *sides), module.bias is not None, convolution=module)


def _leaves(path: str, module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The modules in order that a body applies, by their paths; between layers under backprop also norms, as words."""
    if isinstance(module, nn.Sequential):
        for name, child in module.named_children():
            yield from _leaves(f"{path}.{name}", child)
    elif isinstance(module, Chain):
        bodies = list(module.bodies)
        for number, (child, behind) in enumerate(zip(bodies, module.between, strict=True)):
            yield from _leaves(f"{path}.bodies.{number}", child)
            if behind is not None and number < len(bodies) - 1:
                known = isinstance(behind, partial) and behind.args == (instance_norm, None)
                yield path, "instance_norm" if known else behind
    else:
        yield path, module


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    """A size of both sides."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])
