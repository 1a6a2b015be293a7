"""Offload: idle blocks are outside the device while another one computes, so that it need hold one block and not all.

On an accelerator idle weights and optimiser state are in the host's memory, and the next block is on its way while one
computes. On a CPU the host is the device; they are in files, of which the system caches what there is room for.
"""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from forwardonly.network.block import Block
from forwardonly.system import mapped
from forwardonly.training.update import Update


class Offload:
    """While the context is open, a block that begins to compute is on the device, and those before it are not.

    Nothing else need know: a block's own forward pass loads it. What is computed is the same to the last bit.

    Args:
        blocks, updates: of one network.
        device: where a block computes.
        folder: for the files on a CPU; without one the system's for temporary files.
    """

    def __init__(
        self, blocks: Sequence[Block], updates: Sequence[Update], device: torch.device, folder: Path | None = None
    ):
        arena = mapped.Arena(folder) if device.type == "cpu" else None
        self.stores: list[FileStore | HostStore] = [
            HostStore(block, update, device) if arena is None else FileStore(block, update, arena)
            for block, update in zip(blocks, updates, strict=True)
        ]
        self.blocks = blocks
        self.device = device
        self.current: int | None = None

    def __enter__(self) -> Self:
        for store in self.stores:
            store.fill()
        self.handles = [
            block.register_forward_pre_hook(lambda *_, index=index: self._load(index))
            for index, block in enumerate(self.blocks)
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self.handles:
            handle.remove()
        self.empty()

    def empty(self) -> None:
        """Offloads all blocks; their tensors can be read and written where they are, one block after another."""
        for store in self.stores:
            store.unload()
        self.current = None
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _load(self, index: int) -> None:
        """Loads block `index`, offloads the one before, and starts to load the next."""
        if index == self.current:
            return
        if self.current is not None:
            self.stores[self.current].unload()
        self.current = index
        self.stores[index].load()
        if index + 1 < len(self.stores):
            self.stores[index + 1].prefetch()


def tensors_of(block: Block, update: Update) -> list[Tensor]:
    """A block's weights and buffers, and what its optimisers keep by now."""
    state = [slot for optimiser in update.optimisers for own in optimiser.state.values() for slot in own.values()]
    return [*block.parameters(), *block.buffers(), *(slot for slot in state if isinstance(slot, Tensor))]


class FileStore:
    """In files: a block is inside as soon as it is touched."""

    def __init__(self, block: Block, update: Update, arena: mapped.Arena):
        self.block = block
        self.update = update
        self.arena = arena

    def fill(self) -> None:
        """Moves everything into files, with the optimiser's state, which is still to be made."""
        self.unload()
        self.update.allocate()
        self.unload()

    def load(self) -> None:
        """The block is about to compute."""

    def prefetch(self) -> None:
        """The block is the next."""

    def unload(self) -> None:
        """The block has computed."""
        for tensor in tensors_of(self.block, self.update):
            if not mapped.holds(tensor):
                tensor.data = self.arena.copy(tensor.data)
        mapped.release()


class HostStore:
    """In the host's memory, of which a copy goes to the device and comes back."""

    def __init__(self, block: Block, update: Update, device: torch.device):
        self.block = block
        self.update = update
        self.device = device
        self.stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.on_host = WeakTensorKeyDictionary()
        self.loaded = False

    def fill(self) -> None:
        """Moves everything to the host, with the optimiser's state, which is made on the device."""
        self.load()
        self.update.allocate()
        self.unload()

    def load(self) -> None:
        """The block is about to compute: waits for what is on its way."""
        self.prefetch()
        if self.stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)
            for tensor in tensors_of(self.block, self.update):
                tensor.data.record_stream(torch.cuda.current_stream(self.device))

    def prefetch(self) -> None:
        """The block is the next: its copies set off, beside whatever computes."""
        if self.loaded:
            return
        with torch.cuda.stream(self.stream):
            for tensor in tensors_of(self.block, self.update):
                if tensor not in self.on_host:
                    self.on_host[tensor] = self._pinned(tensor.data)
                tensor.data = self.on_host[tensor].to(self.device, non_blocking=True, copy=True)
        self.loaded = True

    def unload(self) -> None:
        """The block has computed: its values come home, once it is done and beside whatever computes next."""
        if not self.loaded:
            return
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            for tensor in tensors_of(self.block, self.update):
                if tensor not in self.on_host:
                    self.on_host[tensor] = self._pinned(torch.empty_like(tensor.data, device="cpu"))
                self.on_host[tensor].copy_(tensor.data, non_blocking=True)
                if self.stream is not None:
                    tensor.data.record_stream(self.stream)
                tensor.data = self.on_host[tensor]
        self.loaded = False

    def _pinned(self, tensor: Tensor) -> Tensor:
        home = tensor.to("cpu")
        return home.pin_memory() if self.device.type == "cuda" else home
