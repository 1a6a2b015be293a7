"""Offload: idle blocks leave the device while another one computes, so that it holds one block instead of all.

On an accelerator, idle weights and optimiser state are in host memory, and the next block is loaded while one computes.
On a CPU they are in files, which the system caches as far as there is memory.
"""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from forwardonly.network.block import Block
from forwardonly.network.localized import Localized
from forwardonly.network.network import Network
from forwardonly.system import mapped
from forwardonly.system.allocator import trim
from forwardonly.training.update import Update


class Offload:
    """A context in which a block is on the device while it computes, and the blocks before it are not.

    A hook on each block's forward pass loads it, or a model in place before it computes the block, so no other code is
    involved. Results are the same to the last bit.

    Args:
        network: whose blocks are offloaded.
        updates: of the blocks.
        device: on which blocks compute.
        folder: for the files on a CPU; by default the system's folder for temporary files.
    """

    def __init__(self, network: Network, updates: Sequence[Update], device: torch.device, folder: Path | None = None):
        blocks = network.row
        arena = mapped.Arena(folder) if device.type == "cpu" else None
        self.stores: list[FileStore | HostStore] = [
            HostStore(block, update, device) if arena is None else FileStore(block, update, arena)
            for block, update in zip(blocks, updates, strict=True)
        ]
        self.network = network
        self.blocks = blocks
        self.device = device
        self.current: int | None = None

    def __enter__(self) -> Self:
        for store in self.stores:
            store.fill()
        self.handles: list[RemovableHandle] = []
        if isinstance(self.network, Localized):
            self.network.before_block = self._load
        if not self.network.in_place:
            self.handles += [
                block.register_forward_pre_hook(lambda *_, index=index: self._load(index))
                for index, block in enumerate(self.blocks)
            ]
        # whoever saves or restores weights on the host must not meet a copy that is under way
        self.handles += [block.register_state_dict_pre_hook(lambda *_: self.wait()) for block in self.blocks]
        self.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(self.network, Localized):
            self.network.before_block = None
        for handle in self.handles:
            handle.remove()
        self.empty()

    def empty(self) -> None:
        """Offloads all blocks; their tensors can then be read and written in place, one block after another."""
        for store in self.stores:
            store.unload()
        self.current = None
        self.wait()

    def wait(self) -> None:
        """Waits until all copies have arrived."""
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
    """A block's weights and buffers, and its optimisers' state so far."""
    state = [slot for optimiser in update.optimisers for own in optimiser.state.values() for slot in own.values()]
    return [*block.parameters(), *block.buffers(), *(slot for slot in state if isinstance(slot, Tensor))]


class FileStore:
    """A block's tensors in files, from which the system loads them when they are touched."""

    def __init__(self, block: Block, update: Update, arena: mapped.Arena):
        self.block = block
        self.update = update
        self.arena = arena

    def fill(self) -> None:
        """Moves the block into files, makes its optimiser state, and moves that too."""
        self.unload()
        self.update.allocate()
        self.unload()

    def load(self) -> None:
        """Does nothing: the block is loaded as it computes."""

    def prefetch(self) -> None:
        """Does nothing, as `load`."""

    def unload(self) -> None:
        """Releases the block's memory after it has computed, and what its step has left free in the heap."""
        for tensor in tensors_of(self.block, self.update):
            if not mapped.holds(tensor):
                tensor.data = self.arena.copy(tensor.data)
        mapped.release()
        trim()


class HostStore:
    """A block's tensors in host memory, copied to the device and back."""

    def __init__(self, block: Block, update: Update, device: torch.device):
        self.block = block
        self.update = update
        self.device = device
        self.stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.on_host = WeakTensorKeyDictionary()
        self.loaded = False

    def fill(self) -> None:
        """Makes the optimiser state on the device, and moves everything to host memory."""
        self.load()
        self.update.allocate()
        self.unload()

    def load(self) -> None:
        """Waits until the block is on the device; called before it computes."""
        self.prefetch()
        if self.stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)
            for tensor in tensors_of(self.block, self.update):
                tensor.data.record_stream(torch.cuda.current_stream(self.device))

    def prefetch(self) -> None:
        """Starts to copy the block to the device, while another one computes."""
        if self.loaded:
            return
        with torch.cuda.stream(self.stream):
            for tensor in tensors_of(self.block, self.update):
                if tensor not in self.on_host:
                    self.on_host[tensor] = self._pinned(tensor.data)
                tensor.data = self.on_host[tensor].to(self.device, non_blocking=True, copy=True)
        self.loaded = True

    def unload(self) -> None:
        """Starts to copy the block back to the host once it has computed, while the next one computes."""
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
        on_host = tensor.to("cpu")
        return on_host.pin_memory() if self.device.type == "cuda" else on_host
