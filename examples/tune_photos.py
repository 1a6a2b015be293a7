"""Three photographs a class tune a pretrained model. Run: python examples/tune_photos.py [WEIGHTS.safetensors]

The weights are of timm's tf_efficientnet_lite0, pretrained on ImageNet; docs/tune.md says where they come from. Without
them the model starts from random numbers.
"""

import sys
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_sample_images

import forwardonly as fo

SIDE = 96


def photographs(count: int, seed: int) -> fo.data.Images:
    """So many pieces of each of two photographs, of a temple and of a flower."""
    generator = torch.Generator().manual_seed(seed)
    pieces = []
    for photograph in load_sample_images().images:
        pixels = torch.tensor(photograph).permute(2, 0, 1)
        for _ in range(count):
            top, left = (int(torch.randint(0, size - 200, (), generator=generator)) for size in pixels.shape[1:])
            piece = pixels[:, top : top + 200, left : left + 200].float()[None]
            pieces.append(torch.nn.functional.interpolate(piece, (SIDE, SIDE), mode="area").byte())
    labels = torch.arange(2).repeat_interleave(count)
    return fo.data.Images(torch.cat(pieces), labels, classes=("temple", "flower"), name="photographs")


def main(weights: str | None = None) -> float:
    """Accuracy on other pieces."""
    train, test = photographs(3, seed=0), photographs(40, seed=1)
    model = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    if weights is not None:
        model.load_state_dict(load_file(Path(weights)), strict=False)
    mean, std = model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
    net = fo.localize(model, fo.rules.Projection(classes=2), train.images[:2], blocks=4, mean=mean, std=std)
    for part in net.model.modules():  # six photographs say too little of a norm's statistics
        if isinstance(part, torch.nn.BatchNorm2d):
            part.requires_grad_(False)
    options = {"learning_rate": 3e-3, "heads_first": 0.5, "body_rate": 0.1, "layer_decay": 0.5}
    fo.fit(net, train, epochs=20, batch_size=6, flip="random", **options)
    return fo.evaluate(net, test).accuracy


if __name__ == "__main__":
    print(f"test accuracy {100 * main(*sys.argv[1:]):.1f} %")
