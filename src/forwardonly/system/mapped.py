"""Tensors that lie in files: the system holds of them what there is room for, and reads the rest when it is needed.

A process that has been told to `release` its maps needs no memory for such tensors until it touches them again; what
they hold is safe, for it is the file's. The files have no names, so nothing is left of them after the process.
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

ARENA = 2**28  # bytes of one file: a process may have only so many open
LARGE = 2**18  # bytes from which `Building` takes the trouble

_maps: "weakref.WeakKeyDictionary[mmap.mmap, int]" = weakref.WeakKeyDictionary()
"""Every map with its address; a map lives as long as a tensor in it does."""


class Arena:
    """Files in a folder that is or will be, by default the system's for temporary files, and room in them for tensors.

    Raises:
        ValueError: no file can be made there.
    """

    def __init__(self, folder: Path | None = None):
        folder = Path(tempfile.gettempdir()) if folder is None else folder.absolute()
        self.folder = next(place for place in (folder, *folder.parents) if place.is_dir())
        self._map: mmap.mmap | None = None
        self._used = 0

    def empty_like(self, tensor: Tensor) -> Tensor:
        """A tensor of the same shape, strides and type, whose values are not set.

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
    """A context in which networks are built in an arena, so that one which does not fit in memory can be."""

    def __init__(self, arena: Arena):
        super().__init__()
        self.arena = arena

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.nn.functional.linear, torch.conv2d, torch.empty):
            release()
        makes = func in (torch.empty, torch.Tensor.to) and result.device.type == "cpu" and result.nbytes >= LARGE
        if makes and not holds(result):
            return self.arena.empty_like(result) if func is torch.empty else self.arena.copy(result)
        return result


def release() -> None:
    """Gives back the memory of all maps; what is in them is read again when it is touched."""
    for each in _maps:
        each.madvise(mmap.MADV_DONTNEED)


def holds(tensor: Tensor) -> bool:
    """Whether a tensor lies in a file."""
    place = tensor.data_ptr()
    return tensor.device.type == "cpu" and any(start <= place < start + len(each) for each, start in _maps.items())


def _new_map(folder: Path, size: int) -> mmap.mmap:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a write to a map of a full disk would kill the process
            new = mmap.mmap(file.fileno(), size)
    except OSError as problem:
        what = "is full" if problem.errno == errno.ENOSPC else f"takes no file ({problem.strerror})"
        raise ValueError(f"Idle blocks are to wait in a file of {size >> 20} MiB, but {folder} {what}.") from None
    _maps[new] = torch.frombuffer(new, dtype=torch.uint8).data_ptr()
    return new
