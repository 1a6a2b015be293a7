"""Stacked recurrent layers, opened: a module with several layers runs one layer after another, so that walls can stand
between them.

PyTorch computes all layers of an `nn.LSTM(..., num_layers=3)` in one call. Here each layer is a module with the stack's
own weights, and the stack's forward pass, as long as the context is open, calls them in turn. Results are the same.

Shapes: T times, B batch, D features; E directions.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

Layers = Mapping[str, nn.ModuleList]
"""The layers of each stack, by its name in the model."""


def layers_of(model: nn.Module) -> dict[str, nn.ModuleList]:
    """The layers of every stack in a model; their weights are the stack's own."""
    return {
        name: nn.ModuleList(_layer(stack, index) for index in range(stack.num_layers))
        for name, stack in model.named_modules()
        if isinstance(stack, nn.LSTM | nn.GRU | nn.RNN) and stack.num_layers > 1
    }


def by_name(layers: Layers) -> dict[str, nn.Module]:
    """The layers by names such as `encoder.0`."""
    return {f"{name}.{index}": layer for name, stack in layers.items() for index, layer in enumerate(stack)}


@contextmanager
def opened(model: nn.Module, layers: Layers) -> Iterator[None]:
    """A context in which the model's stacks call their layers one by one."""
    stacks = [(model.get_submodule(name), own) for name, own in layers.items()]
    for stack, own in stacks:
        stack.forward = lambda given, state=None, stack=stack, own=own: _run(stack, own, given, state)
    try:
        yield
    finally:
        for stack, _ in stacks:
            del stack.forward


def _layer(stack: nn.RNNBase, index: int) -> nn.RNNBase:
    """One layer of a stack, around its weights."""
    directions = 2 if stack.bidirectional else 1
    fed = stack.input_size if index == 0 else directions * (stack.proj_size or stack.hidden_size)
    options: dict[str, Any] = {"bias": stack.bias, "batch_first": stack.batch_first, "device": "meta"}
    options["bidirectional"] = stack.bidirectional
    if isinstance(stack, nn.LSTM):
        options["proj_size"] = stack.proj_size
    if isinstance(stack, nn.RNN):
        options["nonlinearity"] = stack.nonlinearity
    kind: Any = type(stack)
    layer: nn.RNNBase = kind(fed, stack.hidden_size, 1, **options)
    for name in list(layer._parameters):
        layer._parameters[name] = stack._parameters[name.replace("_l0", f"_l{index}")]
    layer._init_flat_weights()
    return layer


def _run(stack: nn.RNNBase, layers: nn.ModuleList, given: Any, state: Any) -> tuple[Any, Any]:
    """The stack's output and last state, layer by layer, with its dropout between them."""
    directions = 2 if stack.bidirectional else 1
    states = []
    for index, layer in enumerate(layers):
        part = slice(index * directions, (index + 1) * directions)
        own = (
            tuple(each[part] for each in state) if isinstance(state, tuple) else None if state is None else state[part]
        )
        if index and stack.dropout and stack.training:
            given = _dropped(given, stack.dropout)
        given, last = layer(given, own)
        states.append(last)
    if isinstance(states[0], tuple):
        return given, tuple(torch.cat(parts) for parts in zip(*states, strict=True))
    return given, torch.cat(states)


def _dropped(given: Tensor | PackedSequence, share: float) -> Tensor | PackedSequence:
    if isinstance(given, PackedSequence):
        return given._replace(data=nn.functional.dropout(given.data, share))
    return nn.functional.dropout(given, share)
