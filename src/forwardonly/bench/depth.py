"""Memory against depth: bytes that autograd saves, and the peak memory of a process."""

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, replace

import torch

from forwardonly.bench.speed import Arm, Work, accumulated_step, checkpointed_step, training_step
from forwardonly.bodies import MLP, Body
from forwardonly.system.memory import SavedBytes, peak_memory_bytes

ARMS: Mapping[str, Callable[[Work], Arm]] = {
    "ours": training_step,
    "backprop": lambda work: training_step(work.by_backprop),
    "backprop-checkpointed": checkpointed_step,
    "backprop-accumulated": accumulated_step,
}
"""The training steps that are compared."""

STEPS = 3  # the optimiser's state exists from the first step on


def at_depth(body: Body, depth: int) -> Body:
    """The body with `depth` layers, or pairs of layers if the body counts pairs.

    Raises:
        ValueError: the body's depth cannot be chosen.
    """
    if isinstance(body, MLP):
        return replace(body, hidden=(body.hidden[0],) * depth)
    if "depth" not in {field.name for field in fields(body)}:  # type: ignore[arg-type]  # bodies are dataclasses
        raise ValueError("this body has one depth alone: measure mlp, conv or transformer against depth.")
    return replace(body, depth=depth)  # type: ignore[type-var]


def saved_bytes(work: Work) -> int:
    """Peak of the bytes that autograd saves for backward in a training step."""
    step = training_step(work)
    with SavedBytes() as saved:
        step()
    return saved.peak


def peak_bytes(work: Work, arm: str) -> int:
    """Peak memory over a few steps: of a fresh process on a CPU, of torch's allocator on CUDA."""
    if work.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(work.device)
        return _peak(work, arm)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        1, mp_context=spawn, initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),)
    ) as fresh:
        return fresh.submit(_peak, work, arm).result()


def idle_bytes(work: Work) -> int:
    """Memory of a fresh process that trains one layer on two images: Python, PyTorch, the code of a step. 0 on CUDA."""
    if work.device.type == "cuda":
        return 0
    return peak_bytes(replace(work, body=at_depth(work.body, 1), batch=2), "ours")


def _peak(work: Work, arm: str) -> int:
    step = ARMS[arm](work)
    for _ in range(STEPS):
        step()
    return peak_memory_bytes(work.device)
