"""Memory-mapped tensors: they are stored in files, which the system caches as far as memory allows.

After `release` such tensors need no memory until they are touched again; their values are in the file. The files have
no names, so nothing is left of them after the process.
"""

import errno
import math
import mmap
import os
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

ARENA = 2**28  # bytes of one file; the number of open files is limited
LARGE = 2**18  # bytes from which `Building` maps a tensor
TOUCHED = 2**26  # bytes of tensors after which `Building` drops its maps from memory

_maps: "weakref.WeakKeyDictionary[mmap.mmap, int]" = weakref.WeakKeyDictionary()
"""Every map with its address; a map lives as long as a tensor in it."""


class Arena:
    """Files with room for tensors, in a folder that exists or will; by default the system's for temporary files.

    Raises:
        ValueError: no file can be made there.
    """

    def __init__(self, folder: Path | None = None):
        folder = Path(tempfile.gettempdir()) if folder is None else folder.absolute()
        self.folder = next(path for path in (folder, *folder.parents) if path.is_dir())
        self._map: mmap.mmap | None = None
        self._used = 0

    def empty_like(self, tensor: Tensor) -> Tensor:
        """An uninitialised tensor of the same shape, strides and type.

        Raises:
            ValueError: the disk is full.
        """
        count = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        needed = count * tensor.element_size()
        if self._map is None or self._used + needed > len(self._map):
            self._map, self._used = _new_map(self.folder, max(ARENA, needed)), 0
        flat = torch.frombuffer(self._map, dtype=tensor.dtype, count=count, offset=self._used)
        self._used += math.ceil(needed / 64) * 64
        return flat.as_strided(tensor.shape, tensor.stride())

    def copy(self, tensor: Tensor) -> Tensor:
        """A tensor with the same values."""
        return self.empty_like(tensor).copy_(tensor)


class Building(TorchFunctionMode):
    """A context in which networks are built in an arena, so that they need not fit in memory."""

    def __init__(self, arena: Arena):
        super().__init__()
        self.arena = arena
        self._touched = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.device.type == "cpu" and result.nbytes >= LARGE:
            self._touched += result.nbytes  # initial values, which some models draw when all weights are there
        if func in (torch.nn.functional.linear, torch.conv2d, torch.empty) or self._touched > TOUCHED:
            release()
            self._touched = 0
        if func not in (torch.empty, torch.Tensor.to) or result.device.type != "cpu":
            return result
        if result.nbytes < LARGE:  # a part of a file of weights would keep all of it mapped
            return result.clone() if func is torch.Tensor.to else result
        if holds(result):
            return result
        return self.arena.empty_like(result) if func is torch.empty else self.arena.copy(result)


def release() -> None:
    """Drops all maps from memory; their contents are read again when they are touched."""
    for each in _maps:
        each.madvise(mmap.MADV_DONTNEED)


def holds(tensor: Tensor) -> bool:
    """Whether a tensor is in a file."""
    address = tensor.data_ptr()
    return tensor.device.type == "cpu" and any(start <= address < start + len(each) for each, start in _maps.items())


def _new_map(folder: Path, size: int) -> mmap.mmap:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a write to a map of a full disk would kill the process
            new = mmap.mmap(file.fileno(), size)
    except OSError as problem:
        what = "is full" if problem.errno == errno.ENOSPC else f"takes no file ({problem.strerror})"
        raise ValueError(f"Idle blocks are offloaded to a file of {size >> 20} MiB, but {folder} {what}.") from None
    _maps[new] = torch.frombuffer(new, dtype=torch.uint8).data_ptr()
    return new
