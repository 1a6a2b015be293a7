"""Transfer: hyperspherical blocks on features of a frozen EfficientNet-Lite0, beside linear probes and backprop.

    python benchmarks/transfer.py OUT.jsonl --weights LITE0.safetensors --data tiny-imagenet --features FOLDER
    python benchmarks/transfer.py OUT.jsonl --data tiny-imagenet --summary > FILE.json

docs/tune.md says where the weights come from. Images are enlarged and go through the network once; its features lie in
FOLDER from then on: its maps at five resolutions and its last ones, each averaged over space. Arms: `ridge` and
`logistic` (linear probes), `hyperspherical` (each block by its own loss) and `backprop` (through the same blocks). A
run is a process of its own, which is given features alone. With --held-out N, accuracy is that on N training images
that are left out; by it all settings were chosen. Runs that OUT has already are not repeated.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from models import declare_torchvision_operators
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import forwardonly as fo
from forwardonly.data import Features, hold_out
from forwardonly.measure.readers import KINDS
from forwardonly.network.models import load_weights
from forwardonly.system.memory import peak_memory_bytes

SIDE = 192
"""Pixels of a side that images are enlarged to."""
PIXELS = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
"""How pixels were standardised when the weights were trained."""
PROBES = {"ridge": 1e-4, "logistic": 1e-2}
"""The linear probes, and the strength of each penalty."""
RULES: dict[str, dict[str, Any]] = {"hyperspherical": {"scale": 32.0}, "backprop": {"label_smoothing": 0.1}}
"""The rules of the blocks, and their options."""
ARMS = (*PROBES, *RULES)
EPOCHS = 6
DROPOUT = 0.5  # between the blocks


@dataclass(frozen=True)
class Settings:
    """What depends on the set: units of a block, and learning rates."""

    units: int = 1000
    hyperspherical: float = 2e-3
    backprop: float = 5e-4


SETTINGS = {"cifar-100": Settings(2000, backprop=1e-3)}
"""Of sets that differ from the defaults, which are Tiny-ImageNet's."""
SHOWN = ("accuracy", "block_accuracy", "seconds", "peak_memory_bytes")


class Pooled(nn.Module):
    """Images (B, 3, H, W) -> the averages over space of a timm model's maps, from the first to the last, (B, K)."""

    def __init__(self, model: nn.Module, side: int):
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)
        self.side = side

    def extra_repr(self) -> str:
        return f"side={self.side}"  # which decides the features, so the cache must see it

    def forward(self, images: Tensor) -> Tensor:
        large = F.interpolate(images, size=(self.side, self.side), mode="bilinear")
        last, maps = self.model.forward_intermediates(large.contiguous(memory_format=torch.channels_last))
        return torch.cat([own.float().mean((2, 3)) for own in (*maps, last)], dim=1)


def folded(model: nn.Module) -> nn.Module:
    """The model with each batch norm in the convolution before it: the same in evaluation mode, in half the time."""
    model.eval()
    for owner in list(model.modules()):
        convolution = None
        for name, part in list(owner.named_children()):
            if isinstance(part, nn.BatchNorm2d) and convolution is not None:
                setattr(owner, convolution, fuse_conv_bn_eval(getattr(owner, convolution), part))
                setattr(owner, name, part.act)  # timm's norms have the activation in them
            if isinstance(part, nn.Conv2d):
                convolution = name
    return model


def extracted(name: str, weights: Path, side: int, folder: Path) -> list[Features]:
    """Features of a set's training and test images, computed once."""
    library = declare_torchvision_operators()
    import timm

    train, _, test = fo.data.load(name)
    model = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    load_weights(model, weights)
    extractor = Pooled(folded(model), side)
    del library
    parts = []
    for part in (train, test):
        started = time.perf_counter()
        parts.append(fo.extract(extractor, part, cache=folder, **PIXELS, batch_size=16))  # more leave the core's cache
        print(f"{len(part)} images in {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return parts


def store(parts: Sequence[Features], file: Path) -> None:
    """Writes features of training and of test images to one file, so that a run need not load the images."""
    tensors = {}
    for name, part in zip(("train", "test"), parts, strict=True):
        tensors |= {f"{name}.features": part.images, f"{name}.labels": part.labels}
    safetensors.torch.save_file(tensors, file, {"classes": json.dumps(parts[0].classes), "name": parts[0].name})


def stored(file: Path, held_out: int) -> tuple[Features, Features]:
    """What to learn from and what to measure on: training and test images, or parts of the training images."""
    with safetensors.safe_open(file, "pt") as opened:
        of = opened.metadata()
        parts = [
            Features(
                opened.get_tensor(f"{name}.features"),
                opened.get_tensor(f"{name}.labels"),
                tuple(json.loads(of["classes"])),
                of["name"],
            )
            for name in (("train",) if held_out else ("train", "test"))
        ]
    train, test = hold_out(parts[0], held_out, seed=0) if held_out else parts
    return train, test


def probed(arm: str, train: Features, test: Features) -> dict[str, Any]:
    """Fits a linear probe."""
    (read,) = KINDS[arm].fit(train.images.flatten(1), train.labels, len(train.classes), [PROBES[arm]])
    right = read(test.images.flatten(1)).argmax(1) == test.labels
    return {"accuracy": float(right.float().mean())}


def trained(arm: str, seed: int, train: Features, test: Features) -> dict[str, Any]:
    """Trains two blocks, and measures once."""
    own = SETTINGS.get(train.name, Settings())
    rule = fo.rules.make(arm, classes=len(train.classes), **RULES[arm])
    net = fo.mlp(train.shape, (own.units, own.units), rule=rule, dropout=DROPOUT, seed=seed)
    run = fo.fit(net, train, test=test, seed=seed, epochs=EPOCHS, learning_rate=getattr(own, arm))
    return {"accuracy": run.result["test_accuracy"], "block_accuracy": run.result["block_accuracy"]}


def learned(file: Path, arm: str, seed: int, held_out: int) -> dict[str, Any]:
    """The line of a run."""
    train, test = stored(file, held_out)
    started = time.perf_counter()
    found = probed(arm, train, test) if arm in PROBES else trained(arm, seed, train, test)
    line = {"data": train.name, "arm": arm, "seed": seed, "held_out": held_out, **found}
    line |= {"seconds": time.perf_counter() - started, "peak_memory_bytes": peak_memory_bytes(torch.device("cpu"))}
    return line


def summary(lines: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """All seeds of each arm together."""
    arms = {}
    for arm in ARMS:
        own = sorted((line for line in lines if line["arm"] == arm), key=lambda line: line["seed"])
        if own:
            arms[arm] = {what: [line[what] for line in own] for what in ("seed", *SHOWN) if what in own[0]}
    options = {"data": name, "side": SIDE, "epochs": EPOCHS, "dropout": DROPOUT}
    options |= {**asdict(SETTINGS.get(name, Settings())), "rules": RULES, "strengths": PROBES}
    machine = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    command = f"python benchmarks/transfer.py OUT --weights WEIGHTS --data {name} --features FOLDER"
    return {"kind": "transfer", "command": command, "machine": machine, "options": options, "arms": arms}


def main() -> None:
    """Extracts what is not there, and runs what is missing."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out", type=Path)
    options.add_argument("--weights", type=Path, help="a safetensors file for timm's tf_efficientnet_lite0")
    options.add_argument("--data", required=True, help="a known set of colour images, or a file of them")
    options.add_argument("--features", type=Path, help="folder in which the features are kept")
    options.add_argument("--side", type=int, default=SIDE)
    options.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the blocks; probes have none")
    options.add_argument("--held-out", type=int, default=0, metavar="N")
    options.add_argument("--summary", action="store_true", help="print what OUT has of the set, for record.py")
    options.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.one:
        print(json.dumps(learned(given.one, given.arms[0], given.seeds[0], given.held_out)))
        return
    lines = [json.loads(text) for text in given.out.read_text().splitlines()] if given.out.exists() else []
    name = Path(given.data).stem
    lines = [line for line in lines if (line["data"], line["held_out"]) == (name, given.held_out)]
    if given.summary:
        print(json.dumps(summary(lines, name)))
        return
    if given.features is None:
        options.error("name the folder in which the features are kept: --features FOLDER")
    file = given.features / f"{name}-{given.side}.safetensors"
    if not file.exists():
        if given.weights is None:
            options.error("name the file of weights that the features are of: --weights FILE")
        store(extracted(given.data, given.weights, given.side, given.features), file)
    done = {(line["arm"], line["seed"]) for line in lines}
    for arm in given.arms:
        for seed in given.seeds if arm in RULES else [0]:
            if (arm, seed) in done:
                continue
            words = [str(given.out), "--data", given.data, "--one", str(file), "--arms", arm, "--seeds", str(seed)]
            command = [sys.executable, __file__, *words, "--held-out", str(given.held_out)]
            shown = subprocess.run(command, capture_output=True, text=True, check=False)
            if shown.returncode:
                sys.exit(f"{arm}, seed {seed}: {shown.stderr.strip()}")
            with given.out.open("a") as out:
                out.write(shown.stdout.splitlines()[-1] + "\n")
            print(shown.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
