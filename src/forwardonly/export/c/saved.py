"""Weights as the bytes that `fo_save` writes and `fo_load` reads, from Python."""

import math
from collections.abc import Iterator

import numpy as np
import torch

from forwardonly.export.c.header import content_bytes, identity
from forwardonly.export.c.int8_arithmetic import ONE
from forwardonly.export.c.int8_weights import Quantised, is_bias, quantise
from forwardonly.export.c.new_class import require_spare
from forwardonly.export.c.plan import Plan, Precision
from forwardonly.export.c.reading import make_plan
from forwardonly.export.c.text import HEAD, MAGIC
from forwardonly.network.network import Network
from forwardonly.network.new_class import append_class, growing


def write_saved(network: Network, *, precision: Precision = "float32", spare_classes: int = 0) -> bytes:
    """The network's weights as bytes for `fo_load`; `spare_classes` as in `export_c`, less those added since.

    Raises:
        ValueError: a network that C cannot hold.
    """
    plan = _plan(network, precision, spare_classes)
    if precision == "int8":
        quantised = quantise(plan)
        content = int8_content(plan, quantised)
    else:
        state = network.state_dict()
        content = b"".join(
            state[name].detach().cpu().numpy().astype("<f4").tobytes().ljust(4 * math.prod(shape), b"\0")
            for name, shape in _order(plan)
        )
        content += network.classes.to_bytes(4, "little") if plan.spare else b""
    return _head(plan, content) + content


def int8_content(plan: Plan, quantised: Quantised) -> bytes:
    """The saved weights of a network in whole numbers."""
    biases, weights, running = b"", b"", b""
    for name, _ in _order(plan):
        if name in quantised.running:
            running += quantised.running[name].astype("<i4").tobytes()
        elif is_bias(name):
            biases += quantised.weights[name].astype("<i4").tobytes()
        else:
            weights += quantised.weights[name].astype(np.int8).tobytes()
            weights += quantised.errors[name].astype(np.int8).tobytes()
    return biases + weights + running


def read_saved(network: Network, saved: bytes, *, precision: Precision = "float32", spare_classes: int = 0) -> None:
    """Gives a network the weights that a device saved with `fo_save`.

    Classes that were added on the device are added, with their indices for names; `spare_classes` is then that of
    `export_c`. In int8 the network must have the weights with which it was exported: they decide what a unit of each
    tensor is.

    Raises:
        ValueError: bytes of another length or net, or damaged ones; the network then keeps its weights.
    """
    plan = _plan(network, precision, spare_classes)
    content, wanted = saved[HEAD:], content_bytes(plan)
    if len(saved) != HEAD + wanted:
        raise ValueError(f"Saved weights of this network have {HEAD + wanted} bytes, not {len(saved)}.")
    if saved[:12] != MAGIC + identity(plan):
        raise ValueError("The saved weights are those of another network.")
    if saved[:HEAD] != _head(plan, content):
        raise ValueError("The saved weights are damaged: their checksum is another.")
    if plan.spare:
        _grow(network, int.from_bytes(content[-4:], "little"), plan)
    state, read = network.state_dict(), _read_int8 if precision == "int8" else _read_float
    with torch.no_grad():
        for name, values in read(plan, content):
            state[name].copy_(torch.from_numpy(values[: len(state[name])] if state[name].dim() else values))


def _grow(network: Network, classes: int, plan: Plan) -> None:
    """Makes room for classes that a device has added.

    Raises:
        ValueError: it has fewer than the network, or more than there is room for.
    """
    if not network.classes <= classes <= plan.classes:
        raise ValueError(f"The saved weights are of {classes} classes, and the network has {network.classes}.")
    for _ in range(classes - network.classes):
        append_class(network, [torch.zeros_like(rule.prototypes[0]) for rule in growing(network)])


def _read_float(plan: Plan, content: bytes) -> Iterator[tuple[str, np.ndarray]]:
    numbers, at = np.frombuffer(content, "<f4").astype(np.float32), 0
    for name, shape in _order(plan):
        size = math.prod(shape)
        yield name, numbers[at : at + size].reshape(shape)
        at += size


def _read_int8(plan: Plan, content: bytes) -> Iterator[tuple[str, np.ndarray]]:
    quantised, at = quantise(plan), 0
    for name, shape in sorted(_order(plan), key=lambda item: (item[0] in quantised.running, not is_bias(item[0]))):
        size, unit = math.prod(shape), 2.0 ** -(quantised.exponents[name] + 8)
        if is_bias(name):
            values, at = np.frombuffer(content, "<i4", size, at) * unit / 2**ONE, at + 4 * size
        elif name in quantised.running:
            values, at = np.frombuffer(content, "<i4", size, at) * unit, at + 4 * size
            values = values**2 if name.endswith("running_var") else values
        else:
            weight, error = (np.frombuffer(content, np.int8, size, at + own).astype(int) for own in (0, size))
            values, at = (256 * weight + error) * unit, at + 2 * size
        yield name, values.reshape(shape).astype(np.float32)


def _plan(network: Network, precision: Precision, spare: int) -> Plan:
    # Neither batch size nor optimiser matter here.
    plan = make_plan(network, batch_size=2, precision=precision, spare_classes=spare, optimiser="sgd")
    require_spare(plan)
    return plan


def _order(plan: Plan) -> list[tuple[str, tuple[int, ...]]]:
    """Names in the state dict and shapes, in the order of the struct."""
    return [
        (part.name(path), shape)
        for kind in ("parameters", "statistics")
        for part in plan.parts
        for path, shape in getattr(part, kind).items()
    ]


def _head(plan: Plan, content: bytes) -> bytes:
    return MAGIC + identity(plan) + len(content).to_bytes(4, "little") + checksum(content).to_bytes(4, "little")


def checksum(content: bytes) -> int:
    """FNV-1a, 32 bits, of some bytes."""
    hashed = 2166136261
    for byte in content:
        hashed = (hashed ^ byte) * 16777619 & 0xFFFFFFFF
    return hashed
