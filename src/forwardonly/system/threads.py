"""How many threads PyTorch divides an operation among, on a CPU."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from forwardonly.system.cores import cores


def own_number() -> int:
    """PyTorch's number of threads, at most the cores that the process may use; that of OMP_NUM_THREADS stands.

    PyTorch counts the machine's cores. Threads that share a core wait for each other at the end of every operation.
    """
    number = torch.get_num_threads()
    return number if "OMP_NUM_THREADS" in os.environ else min(number, cores())


def heed_quota() -> None:
    """Divides operations among `own_number` threads until the process ends."""
    torch.set_num_threads(own_number())


@contextmanager
def using(count: int) -> Iterator[None]:
    """A context in which operations are divided among so many threads."""
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
