"""Weights as the bytes that `fo_save` writes and `fo_load` reads, from Python."""

import math

import numpy as np
import torch

from forwardonly.export.c.emit import HEAD, MAGIC, identity
from forwardonly.export.c.plan import Plan, make_plan
from forwardonly.network.network import Network


def write_saved(network: Network) -> bytes:
    """The network's weights as bytes for `fo_load`.

    Raises:
        ValueError: a network that C cannot hold.
    """
    plan = _plan(network)
    state = network.state_dict()
    content = b"".join(
        state[name].detach().cpu().contiguous().numpy().astype("<f4").tobytes() for name, _ in _order(plan)
    )
    return _head(plan, content) + content


def read_saved(network: Network, saved: bytes) -> None:
    """Gives a network the weights that a device saved with `fo_save`.

    Raises:
        ValueError: bytes of another length or net, or damaged ones; the network then keeps its weights.
    """
    plan = _plan(network)
    content = saved[HEAD:]
    wanted = 4 * (plan.parameter_count + plan.statistics_count)
    if len(saved) != HEAD + wanted:
        raise ValueError(f"Saved weights of this network have {HEAD + wanted} bytes, not {len(saved)}.")
    if saved[:12] != MAGIC + identity(plan):
        raise ValueError("The saved weights are those of another network.")
    if saved[:HEAD] != _head(plan, content):
        raise ValueError("The saved weights are damaged: their checksum is another.")
    numbers, at = np.frombuffer(content, "<f4").astype(np.float32), 0
    state = network.state_dict()
    with torch.no_grad():
        for name, shape in _order(plan):
            size = math.prod(shape)
            state[name].copy_(torch.from_numpy(numbers[at : at + size].reshape(shape)))
            at += size


def _plan(network: Network) -> Plan:
    return make_plan(network, batch_size=2, optimiser="sgd")  # neither of which matters here


def _order(plan: Plan) -> list[tuple[str, tuple[int, ...]]]:
    """Names in the state dict and shapes, in the order of the struct."""
    return [
        (f"blocks.{block.index}.{path}", shape)
        for kind in ("parameters", "statistics")
        for block in plan.blocks
        for path, shape in getattr(block, kind).items()
    ]


def _head(plan: Plan, content: bytes) -> bytes:
    return MAGIC + identity(plan) + len(content).to_bytes(4, "little") + checksum(content).to_bytes(4, "little")


def checksum(content: bytes) -> int:
    """FNV-1a, 32 bits, of some bytes."""
    hashed = 2166136261
    for byte in content:
        hashed = (hashed ^ byte) * 16777619 & 0xFFFFFFFF
    return hashed
