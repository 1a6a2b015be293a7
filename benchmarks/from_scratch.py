"""Trains one of timm's models from random weights on CIFAR-10, block by block or end to end: one run, in a folder.

    python benchmarks/from_scratch.py OUT --model convnext_atto --rule projection --epochs 12 --seed 0
    python benchmarks/from_scratch.py OUT --model convnext_atto --rule backprop --epochs 12 --seed 0

Both arms have the same recipe: AdamW under a cosine behind a warm-up, images shifted and mirrored. With --validation N,
so many training images are held out, and the test images are not looked at. A run that OUT has already goes on.
"""

import argparse
from pathlib import Path

import torch
from models import declare_torchvision_operators

import forwardonly as fo

MODELS = {
    "convnext_atto": {"patch_size": 2},
    "vit_tiny_patch16_224": {"img_size": 32, "patch_size": 4},
}
"""Models, and what makes them take images of 32 pixels."""


def main() -> None:
    """One run."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out", type=Path)
    options.add_argument("--model", choices=MODELS, required=True)
    options.add_argument("--patch", type=int, help="pixels of a patch, if not those of the table")
    options.add_argument("--rule", default="projection")
    options.add_argument(
        "--blocks", default="auto", help="how many, auto, or a regular expression that the names of their ends match"
    )
    options.add_argument("--readout", default="sum")
    options.add_argument("--epochs", type=int, default=12)
    options.add_argument("--learning-rate", type=float, default=2e-3)
    options.add_argument("--weight-decay", type=float, default=0.05)
    options.add_argument("--label-smoothing", type=float, default=0.1)
    options.add_argument("--batch-size", type=int, default=128)
    options.add_argument("--images", type=int, help="learn from so many images")
    options.add_argument("--validation", type=int, default=0)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()

    library = declare_torchvision_operators()
    train, validation, test = fo.data.load("cifar-10", validation=given.validation, limit=given.images)
    rule = fo.rules.make(given.rule, classes=10, label_smoothing=given.label_smoothing)
    of_model = {**MODELS[given.model], **({"patch_size": given.patch} if given.patch else {})}
    network = fo.localize(
        f"timm:{given.model}",
        rule,
        train.images[:2],
        blocks=int(given.blocks) if given.blocks.isdecimal() else given.blocks,
        readout=given.readout if given.rule != "backprop" else "sum",
        seed=given.seed,
        **of_model,
    )
    del library  # timm has been imported
    run = fo.fit(
        network,
        train,
        validation=validation if given.validation else None,
        test=None if given.validation else test,
        out=given.out,
        resume=given.out.exists(),
        seed=given.seed,
        progress=said,
        epochs=given.epochs,
        batch_size=given.batch_size,
        optimiser="adamw",
        learning_rate=given.learning_rate,
        weight_decay=given.weight_decay,
        lr_schedule="cosine",
        warmup=0.1,
        crop=4,
        flip="random",
        extra={"data": {"name": "cifar-10", "validation": given.validation, "limit": given.images}},
    )
    print({name: run.result[name] for name in ("validation_accuracy", "test_accuracy", "block_accuracy", "seconds")})


def said(event: fo.training.StepEvent) -> None:
    """An epoch's figures on a line of their own."""
    if event.row is not None:
        print({name: event.row[name] for name in ("epoch", "loss", "validation_accuracy") if name in event.row})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
