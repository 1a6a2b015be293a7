"""Memory measurement: bytes of tensors, bytes that autograd saves for backward, and memory of the process."""

import re
import resource
import sys
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class SavedBytes:
    """Counts the bytes that autograd saves for backward while the context is open; `peak` is the most at one time.

    A tensor saved twice counts once; parameters do not count, because they are in memory anyway.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._held: dict[int, int] = {}
        self._users: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda saved: saved.tensor)

    def __enter__(self) -> Self:
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, problem, trace)

    def _pack(self, tensor: Tensor) -> "_SavedTensor":
        saved = _SavedTensor(tensor)
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            key = storage.data_ptr()
            self._users[key] = self._users.get(key, 0) + 1
            self._held[key] = storage.nbytes()
            self.peak = max(self.peak, sum(self._held.values()))
            weakref.finalize(saved, self._release, key)
        return saved

    def _release(self, key: int) -> None:
        self._users[key] -= 1
        if self._users[key] == 0:
            del self._users[key], self._held[key]


class _SavedTensor:
    """A saved tensor whose release can be observed."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


class AllocatedBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are made while the context is open; `peak` is the most at one time.

    Scratch memory inside an operation does not count. `known` are tensors that existed before.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


UNITS = {f"{unit}{i}b": base**k for k, unit in enumerate("kmgt", 1) for i, base in (("i", 1024), ("", 1000))}


def parse_bytes(text: str) -> int:
    """The number of bytes in a text such as 2GiB, 512MiB or 1.5GB.

    Raises:
        ValueError: the text is not an amount of memory.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*", text)
    if not found or found[2].lower() not in UNITS:
        raise ValueError(f"An amount of memory is a number and a unit, such as 512MiB or 2GiB, not {text!r}.")
    return int(float(found[1]) * UNITS[found[2].lower()])


def memory_bytes(device: torch.device) -> int:
    """Memory in use now: of the process on a CPU, of torch's allocator on CUDA."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _status("VmRSS") or peak_memory_bytes(device)


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory in use so far: of the process on a CPU, of torch's allocator on CUDA."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, KiB elsewhere
    # getrusage of a new process starts from its parent's peak
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(field: str) -> int:
    """A field of the process's status on Linux, in bytes; 0 elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024
    except (OSError, StopIteration):
        return 0
