"""Transfer learning: forward-only blocks on the features of a frozen network, computed once and cached on disk.

The Hyperspherical paper (arXiv 2605.00082) reports a result "with transfer learning"; that this means frozen pretrained
features with forward-only layers on top is our reading.
"""

import hashlib
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
            file.
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
    path = None
    if cache is not None:
        path = Path(cache) / f"{_fingerprint(extractor, images, (*mean, *std), chosen)}.safetensors"
        if (cached := _cached(path)) is not None:
            return Features(cached, images.labels, images.classes, images.name, images.notes)
    features = _compute(extractor.to(where), images, mean, std, batch_size, chosen, where)
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, safetensors.torch.save({"features": features}))
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


def _cached(path: Path) -> Tensor | None:
    """The features in a file; None if it is missing or damaged, so that they are computed again."""
    try:
        return safetensors.torch.load_file(path)["features"]
    except (OSError, SafetensorError, KeyError):
        return None


def _fingerprint(extractor: nn.Module, images: Images, numbers: tuple[float, ...], precision: str) -> str:
    """A name for everything that the features depend on: layers, weights, pixels and preprocessing."""
    digest = hashlib.sha256(f"{extractor!r} {numbers} {precision} {getattr(extractor, 'blocks', '')}".encode())
    for name, tensor in sorted(extractor.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    digest.update(images.images.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
