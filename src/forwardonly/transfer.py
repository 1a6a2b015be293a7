"""Transfer learning: forward-only blocks on the features of a frozen network, computed once and cached on disk.

The Hyperspherical paper (arXiv 2605.00082) reports a result "with transfer learning"; that this means frozen pretrained
features with forward-only layers on top is our reading.
"""

import copy
import hashlib
from itertools import chain, count
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from forwardonly.data import Features, Images
from forwardonly.names import require, whole_number
from forwardonly.network.network import Network
from forwardonly.network.storage import write_atomically
from forwardonly.system.precision import autocast, choose_device, choose_precision

TRIED = 8
"""Images on which an extractor is tried, to see whether features in the cache are its own."""
SAME = {"fp32": 1e-4, "bf16": 0.03}
"""How far features may be apart, as a share of their size, and still be the same: other threads, and other devices, add
in another order, which moves the last bits."""


class Front(nn.Module):
    """The first `blocks` blocks of a trained network: images with values 0..1 -> the output of the last of them.

    Raises:
        ValueError: the network has fewer blocks, or its rule needs labels in the input.
    """

    def __init__(self, network: Network, blocks: int):
        super().__init__()
        if not 1 <= blocks <= len(network.row):
            raise ValueError(f"The network has {len(network.row)} blocks: its front cannot have {blocks}.")
        self.network = network
        self.blocks = blocks

    def forward(self, images: Tensor) -> Tensor:
        incoming = self.network.alone(self.network.prepare(images))
        passed = self.network.each(incoming, lambda block, activation, passed: block.shown(passed), self.blocks)
        return passed[-1]


def extract(
    extractor: nn.Module,
    images: Images,
    *,
    cache: str | Path | None = None,
    mean: tuple[float, ...] = (0.0,),
    std: tuple[float, ...] = (1.0,),
    batch_size: int = 500,
    precision: str = "auto",
    device: str = "auto",
) -> Features:
    """Features of images from a frozen network; `fo.fit` takes them in place of the images.

    Args:
        extractor: any module from images (B, C, H, W) to maps (B, K, H, W) or features (B, K): a `Front`, or a
            torchvision or timm network whose classifier was replaced by nn.Identity(). It runs in evaluation mode and
            does not change.
        images: to extract features from.
        cache: folder in which the features are stored; another extractor, other images or other options get another
            file. Whether it is the same extractor is told by its layers, its weights and what it gives for eight of the
            images, which are computed each time; one that differs by less than rounding does is taken for the same.
        mean: of the channels, or one for all: the extractor gets pixels (x - mean) / std, x in 0..1.
        std: deviation of the channels, or one for all.
        batch_size: images in a batch.
        precision: auto, fp32 or bf16.
        device: to which the extractor is moved: auto, cpu, cuda or cuda:N.

    Raises:
        ValueError: the extractor's output has another form, or the cache cannot be written.
    """
    require("extractor", extractor, nn.Module, "a module")
    require("images", images, Images, "what fo.data.load gives")
    batch_size = whole_number("batch_size", batch_size, 1)
    where = choose_device(device)
    chosen = choose_precision(precision, where)
    extractor.to(where)
    path = None
    if cache is not None:
        few = images.subset(torch.linspace(0, len(images) - 1, TRIED).long())  # files are sorted by class
        with torch.random.fork_rng([where] if where.type == "cuda" else []):
            torch.manual_seed(0)  # an extractor that draws is known again too
            tried = _compute(_apart(extractor), few, mean, std, TRIED, chosen, where)
        name = _fingerprint(extractor, images, (*mean, *std), chosen)
        cached, path = _found(Path(cache), name, tried, SAME[chosen])
        if cached is not None:
            return Features(cached, images.labels, images.classes, images.name, images.notes)
    features = _compute(extractor, images, mean, std, batch_size, chosen, where)
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, safetensors.torch.save({"features": features, "tried": tried}))
        except OSError as problem:
            raise ValueError(f"Cannot write the features to {path}: {problem.strerror or problem}.") from None
    return Features(features, images.labels, images.classes, images.name, images.notes)


def _compute(
    extractor: nn.Module,
    images: Images,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    batch_size: int,
    precision: str,
    device: torch.device,
) -> Tensor:
    centre, spread = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (mean, std))
    modes = {part: part.training for part in extractor.modules()}
    extractor.eval()
    parts = []
    with torch.no_grad(), autocast(choose_precision(precision, device), device):
        for start in range(0, len(images), batch_size):
            pixels = images.images[start : start + batch_size].to(device).float() / 255
            given = extractor((pixels - centre) / spread)
            if not isinstance(given, Tensor) or given.dim() not in (2, 4):
                raise ValueError("The extractor must give one tensor of maps (B, K, H, W) or features (B, K).")
            parts.append((given if given.dim() == 4 else given[:, :, None, None]).float().cpu().contiguous())
    for part, training in modes.items():
        part.training = training
    return torch.cat(parts)


def _apart(extractor: nn.Module) -> nn.Module:
    """The extractor with the same weights and everything else copied, so that a trial leaves no trace in it.

    What cannot be copied is tried itself.
    """
    tensors = chain(extractor.parameters(), extractor.buffers())
    try:
        return copy.deepcopy(extractor, {id(tensor): tensor for tensor in tensors})
    except Exception:  # a module may hold anything
        return extractor


def _found(folder: Path, name: str, tried: Tensor, tolerance: float) -> tuple[Tensor | None, Path]:
    """The features in the cache that are those of an extractor which gave `tried`, and the file that they have.

    Extractors of the same layers and weights, whose code differs, have files of one name with numbers behind. None if
    there are none, or the file is damaged: they are then computed, and the file is written.
    """
    path = folder / f"{name}.safetensors"
    more = count(1)
    while (cached := _cached(path)) is not None and not _agree(cached["tried"], tried, tolerance):
        path = folder / f"{name}-{next(more)}.safetensors"
    return None if cached is None else cached["features"], path


def _agree(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Whether features (B, K, H, W) are the same but for rounding, each of the K by its own size."""
    if one.shape != other.shape:
        return False
    one, other = (torch.nan_to_num(own).double().transpose(0, 1).flatten(1) for own in (one, other))
    size = other.norm(dim=1)
    return bool(((one - other).norm(dim=1) <= tolerance * size.clamp_min(1e-3 * size.max())).all())


def _cached(path: Path) -> dict[str, Tensor] | None:
    """The tensors in a file; None if it is missing or damaged, so that they are computed again."""
    try:
        found = safetensors.torch.load_file(path)
    except (OSError, SafetensorError):
        return None
    return found if {"features", "tried"} <= found.keys() else None


def _fingerprint(extractor: nn.Module, images: Images, numbers: tuple[float, ...], precision: str) -> str:
    """A name for everything that the features depend on: layers, weights, pixels and preprocessing."""
    digest = hashlib.sha256(f"{extractor!r} {numbers} {precision} {getattr(extractor, 'blocks', '')}".encode())
    for name, tensor in sorted(extractor.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    digest.update(images.images.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
