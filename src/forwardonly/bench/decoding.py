"""Reading a folder of images as it goes by, beside a plain loop of Pillow and PyTorch's `DataLoader`."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from forwardonly.bench.speed import Arm
from forwardonly.data.large import Folder, decoded_once, stream


class Plain(Dataset[tuple[Tensor, int]]):
    """Image files as most people read them: open, RGB, resize and cut, a tensor; the loader stacks them."""

    def __init__(self, files: list[Path], labels: list[int], side: int):
        self.files, self.labels, self.side = files, labels, side

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image, ImageOps

        with Image.open(self.files[index]) as image:
            whole = image.convert("RGB")
        cut = ImageOps.fit(whole, (self.side, self.side), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(cut)).permute(2, 0, 1), self.labels[index]


def arms(folder: Path, side: int, batch: int, readers: int, place: Path) -> dict[str, Arm]:
    """One epoch of the training images in a random order: decoded by us, from our cache, and by the plain loop.

    Args:
        place: a folder for the cache.

    Raises:
        ValueError: the folder has no images, or they are grey.
    """
    ours: Any = stream(folder, image_size=side, workers=readers).train
    if ours.shape[0] != 3:
        raise ValueError(f"{folder}: its images are grey; the plain loop is for colour images")
    pictures = ours.data
    files = [pictures.root / str(file) for file in pictures.files]
    loader = DataLoader(Plain(files, pictures.labels.tolist(), side), batch, shuffle=True, num_workers=readers)
    generator = torch.Generator().manual_seed(0)

    def epoch(images: Folder) -> Arm:
        def go() -> None:
            for _ in images.fetch(torch.randperm(len(images), generator=generator).split(batch)):
                pass

        return go

    def plain() -> None:
        for _ in loader:
            pass

    return {
        "decoded": epoch(ours),
        "from the cache": epoch(decoded_once(ours, place / "decoded.npy")),
        "Pillow, DataLoader": plain,
    }
