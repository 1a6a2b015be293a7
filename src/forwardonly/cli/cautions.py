"""What `forwardonly train` says of a run that cannot come out well, before it, and of one that did not, after it."""

from collections.abc import Mapping
from typing import Any

import torch

from forwardonly.cli.screen import percent
from forwardonly.data import Images
from forwardonly.training import TrainingConfig
from forwardonly.training.session import steps_per_epoch

HANDFUL = 5  # images of a class, of which fewer are hardly enough to learn from
STEPS_AN_EPOCH, STEPS = 10, 500  # fewer of both are few
FEWEST_TESTS = 4  # test images, of which fewer say nothing
MARGIN = 0.005  # by which the network may be below its best block without a word


def before(train: Images, test: Images, config: TrainingConfig, *, labelled: bool = True) -> list[str]:
    """Sentences on classes with too few images, if labels are learned from, and on too few steps."""
    return [*(_of_classes(train, test) if labelled else ()), *_of_steps(train, config)]


def _of_classes(train: Images, test: Images) -> list[str]:
    said = []
    counts = torch.bincount(train.labels, minlength=len(train.classes))
    few = (counts < HANDFUL).nonzero().flatten().tolist()
    if few:
        said.append(
            f"{_named(train, few)} fewer than {HANDFUL} images to learn from, and "
            f"{'it' if len(few) == 1 else 'they'} will hardly be learned: add images, or leave classes out"
        )
    unseen = (torch.bincount(test.labels, minlength=len(test.classes)) == 0).nonzero().flatten().tolist()
    if unseen:
        said.append(f"{_named(test, unseen)} no test image, so the test accuracy says nothing of it")
    return said


def _of_steps(train: Images, config: TrainingConfig) -> list[str]:
    steps = steps_per_epoch(train, config, min(config.batch_size, len(train)))
    more = "--epochs or a smaller --batch-size" if config.steps is None else "--steps"
    if steps < STEPS_AN_EPOCH and steps * config.epochs < STEPS:
        return [
            f"an epoch has {steps} steps, so that the run has {steps * config.epochs}, which are few: choose more "
            f"{more}"
        ]
    return []


def after(result: Mapping[str, Any], test: Images, readout: str, advice: str) -> list[str]:
    """Sentences on a result that is no better than guessing, and on a network that is worse than one of its blocks.

    A few test images say neither.

    `advice` says what to try against the first.
    """
    accuracy, blocks = result["test_accuracy"], result["block_accuracy"]
    said: list[str] = []
    if accuracy is None or blocks is None or len(test) < FEWEST_TESTS:
        return said
    counts = torch.bincount(test.labels, minlength=len(test.classes))
    share, largest = float(counts.max()) / len(test), test.classes[int(counts.argmax())]
    if accuracy <= share:
        said.append(
            f"The test accuracy of {percent(accuracy)} is not above the share of the largest class ({largest!r}, "
            f"{percent(share)}): guessing is as good. Try {advice}."
        )
    best = max(range(len(blocks)), key=blocks.__getitem__)
    if blocks[best] > accuracy + MARGIN:
        fitted = (
            "" if readout == "range" else ": --readout range with --validation N lets held-out images choose the blocks"
        )
        said.append(
            f"The network's {percent(accuracy)} are below the {percent(blocks[best])} of its block {best + 1}{fitted}."
        )
    return said


def _named(images: Images, which: list[int]) -> str:
    """ "class 'a' has", or "3 classes ('a', 'b' and others) have"."""
    if len(which) == 1:
        return f"class {images.classes[which[0]]!r} has"
    shown = " and ".join(repr(images.classes[index]) for index in which[:2])
    others = ", for example" if len(which) > 2 else ""
    return f"{len(which)} classes ({shown}{others}) have"
