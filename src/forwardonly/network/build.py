"""Builds networks: from a body and a rule, or from a config."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, get_args

import numpy as np
import torch

from forwardonly import bodies, rules
from forwardonly.names import name_in, nearest, refuse_unknown, require, whole_number
from forwardonly.network.block import Block
from forwardonly.network.network import Network
from forwardonly.network.prepare import Input
from forwardonly.network.readout import Kind
from forwardonly.network.signal import Signal
from forwardonly.rules.base import require_rule


def build(
    body: bodies.Body,
    shape: Sequence[int],
    *,
    rule: rules.Rule,
    readout: Kind = "sum",
    standardise: bool | None = None,
    seed: int = 0,
) -> Network:
    """A network of `body` for images, or other inputs, of `shape`: every layer is a block with its own copy of `rule`.

    `standardise` shifts and scales each feature by what the training data have; by default pictures alone.

    Under the backprop rule all layers together are one block. Initial weights are drawn from `seed`; the global random
    state does not change.

    Raises:
        ValueError: the body's options do not fit such images, or something is of another kind than it must be.
    """
    require("body", body, bodies.Body, "a body, such as fo.bodies.MLP(hidden=(100, 100))")
    require_rule(rule)
    require("shape", shape, (Sequence, np.ndarray), "the sizes of one example, such as (1, 28, 28)")
    shape = [whole_number("shape", size, 1) for size in shape]
    seed = whole_number("seed", seed, 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = _config(body, shape, rule, readout, standardise)
        stem = body.stem(shape)
        return assemble(
            body.layers(shape), shape, rule, readout=readout, stem=stem, standardise=standardise, config=config
        )


def assemble(
    layers: Sequence[bodies.Layer],
    shape: Sequence[int],
    rule: rules.Rule,
    *,
    readout: Kind = "sum",
    stem: bodies.Stem | None = None,
    standardise: bool | None = None,
    config: Mapping[str, Any] | None = None,
) -> Network:
    """A network of layers behind a stem, with the rule on each layer, or on all together if it is backprop."""
    if rule.end_to_end:
        layers = [bodies.Layer(bodies.Chain(layers))]
    images = torch.zeros(2, *shape)
    blocks = _fit_rules(layers, images if stem is None else stem(images), rule)
    return Network(blocks, shape=shape, readout=readout, stem=stem, standardise=standardise, config=config)


def mlp(
    shape: Sequence[int],
    hidden: Sequence[int] | int = (1000, 1000),
    *,
    rule: rules.Rule,
    dropout: float = 0.0,
    readout: Kind = "sum",
    standardise: bool | None = None,
    seed: int = 0,
) -> Network:
    """A multilayer perceptron for images of `shape` (channels, height, width) or rows of (features,); see `build`."""
    body = bodies.MLP(hidden=hidden, dropout=dropout)  # type: ignore[arg-type]  # which makes a tuple of it
    return build(body, shape, rule=rule, readout=readout, standardise=standardise, seed=seed)


def from_config(config: Mapping[str, Any]) -> Network:
    """The network that a `config` describes, with fresh weights.

    Raises:
        ValueError: the config names an unknown body, rule or option, or is not of the form that `fo.save` writes.
    """
    try:
        shape = [int(size) for size in config["shape"]]
        body, rule = _body(config["body"]), rule_of(config["rule"])
        network = build(body, shape, rule=rule, readout=config["readout"], standardise=config.get("standardise"))
    except (KeyError, TypeError, AttributeError) as problem:
        raise ValueError(f"The network's config is not one that forwardonly wrote: {problem!r}.") from None
    if (given := config.get("input")) not in (None, *get_args(Input)):  # None: of before it was noted
        raise ValueError(f"The network's config has the input {given!r}, it must be pixels, features or tokens.")
    network.prepare.input = given
    network.prepare.range = range_of(config)
    return network


def range_of(config: Mapping[str, Any]) -> tuple[float, float] | None:
    """The range of the features that the network of a config was trained on, if it says one.

    Raises:
        ValueError: it is not two numbers.
    """
    given = config.get("range")
    if given is None:
        return None
    if not isinstance(given, list) or [type(end) for end in given] != [float, float]:
        raise ValueError(f"The network's config has the range {given!r}, it must be two numbers.")
    return given[0], given[1]


def _fit_rules(layers: Sequence[bodies.Layer], signal: Signal, rule: rules.Rule) -> list[Block]:
    """Blocks whose rules are set up for the activation that each body makes of the previous block's output."""
    blocks = []
    for index, layer in enumerate(layers):
        layer.body.eval()  # the trial must not change running statistics
        with torch.no_grad():
            activation = layer.body(signal if isinstance(signal, torch.Tensor) else signal[0])
        own = rule.for_block(activation.shape[1:], rules.BlockPosition(index, len(layers)))
        block = Block(layer.body, own, layer.behind(rule.normalises))
        signal = block.pass_on(activation, signal)
        blocks.append(block.train())
    return blocks


def _config(
    body: bodies.Body, shape: Sequence[int], rule: rules.Rule, readout: Kind, standardise: bool | None
) -> dict[str, Any]:
    return {
        "shape": [int(size) for size in shape],
        "body": {"name": name_in(bodies.TABLE, body), **asdict(body)},  # type: ignore[call-overload]  # a Body is a dataclass
        "rule": {"name": name_in(rules.TABLE, rule), **rule.options()},
        "readout": readout,
        **({} if standardise is None else {"standardise": standardise}),
    }


def _body(config: Mapping[str, Any]) -> bodies.Body:
    """The body that a config describes."""
    options = _options(config)
    name = options.pop("name")
    if name not in bodies.TABLE:
        raise ValueError(f"Unknown body {name!r}: {nearest(name, bodies.TABLE)}")
    known = [field.name for field in fields(bodies.TABLE[name])]  # type: ignore[arg-type]  # a Body is a dataclass
    refuse_unknown("body", name, options, known)
    return bodies.TABLE[name](**options)


def rule_of(config: Mapping[str, Any]) -> rules.Rule:
    """The rule or preset that a config describes."""
    options = _options(config)
    return rules.make(options.pop("name"), classes=options.pop("classes"), **options)


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config's options as their dataclass takes them: tuples, where JSON has lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}
