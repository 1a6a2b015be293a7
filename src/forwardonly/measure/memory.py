"""Memory: what autograd keeps for a backward pass, counted exactly, and what the process has needed."""

import resource
import sys
import weakref
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor


class SavedBytes:
    """Counts the bytes that autograd holds for backward while the context is open; `peak` is the most at one time.

    A tensor saved twice counts once; parameters do not count, for they are there anyway.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._held: dict[int, int] = {}
        self._users: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept.tensor)

    def __enter__(self) -> Self:
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, problem, trace)

    def _pack(self, tensor: Tensor) -> "_Kept":
        kept = _Kept(tensor)
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            key = storage.data_ptr()
            self._users[key] = self._users.get(key, 0) + 1
            self._held[key] = storage.nbytes()
            self.peak = max(self.peak, sum(self._held.values()))
            weakref.finalize(kept, self._release, key)
        return kept

    def _release(self, key: int) -> None:
        self._users[key] -= 1
        if self._users[key] == 0:
            del self._users[key], self._held[key]


class _Kept:
    """A saved tensor whose end can be noticed."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory in use so far: of the process on a CPU, of torch's allocator on CUDA."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:  # getrusage of a new process starts from what its parent had
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, KiB elsewhere
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
