"""Forward-Forward on MNIST to a goal: this library against a loop as the usual public scripts have it, in one run.

    python benchmarks/ff_to_accuracy.py --goal 0.98 --out ff-to-98.json

Both train 784-500-500 on 50,000 images until 98 % of 10,000 held-out ones are right, side by side, each in a process of
its own with one thread; the seconds are those of training alone, as CPU time, which other work on the machine disturbs
least. The loop (`bench/naive.py`) has the rule's own equations, but makes two passes a step, a third and fourth after
each update, and prepares images one by one. Where it has not reached the goal after `--most` epochs, the ratio is the
least that it can be. Test accuracy is looked at once, at the end.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

import forwardonly as fo
from forwardonly.bench.naive import NaiveForwardForward
from forwardonly.bench.speed import machine
from forwardonly.system.allocator import keep_freed_memory

HIDDEN = (500, 500)


class Reached(Exception):
    """The goal is reached."""


def alone(arm: Callable[[Any, argparse.Namespace], dict[str, Any]], chosen: argparse.Namespace) -> dict[str, Any]:
    """An arm in a process of one thread."""
    torch.set_num_threads(1)
    keep_freed_memory()
    return arm(fo.data.load("mnist", validation=10_000), chosen)


def ours(splits: Any, chosen: argparse.Namespace) -> dict[str, Any]:
    """Training by `fo.fit`, a schedule of `--epochs` epochs, stopped at the first one that reaches the goal."""
    train, validation, test = splits
    rule = fo.rules.ForwardForward(classes=10, negatives=chosen.negatives)
    network = fo.mlp(train.shape, HIDDEN, rule=rule, seed=chosen.seed)
    history: list[tuple[float, float]] = []
    clock = {"began": time.process_time(), "spent": 0.0}

    def note(event: fo.training.StepEvent) -> None:
        if event.row is None and event.step % (len(train) // 100) == 0:  # before the epoch is measured
            clock["spent"] += time.process_time() - clock["began"]
        if event.row is not None:
            history.append((clock["spent"], event.row["validation_accuracy"]))
            print("ours", history[-1], flush=True)
            if history[-1][1] >= chosen.goal:
                raise Reached
            clock["began"] = time.process_time()

    try:
        options = {"epochs": chosen.epochs, "learning_rate": chosen.rate, "batch_size": 100, "crop": chosen.crop}
        fo.fit(network, train, validation=validation, seed=chosen.seed, progress=note, **options)
    except Reached:
        pass
    return _figures(history, chosen.goal, fo.evaluate(network, test).accuracy)


def naive(splits: Any, chosen: argparse.Namespace) -> dict[str, Any]:
    """The loop, at a constant learning rate as the scripts have it."""
    train, validation, test = splits
    torch.manual_seed(chosen.seed)
    network = NaiveForwardForward([784, *HIDDEN], 10, rate=chosen.naive_rate)
    generator = torch.Generator().manual_seed(chosen.seed)
    augment = fo.data.Augment(crop=chosen.crop)
    history: list[tuple[float, float]] = []
    spent = 0.0
    for _ in range(chosen.most):
        began = time.process_time()
        for images, labels in fo.data.batches(train, 100, generator=generator, drop_last=True):
            network.step(augment(images, generator), labels)
        spent += time.process_time() - began
        history.append((spent, _accuracy(network, validation)))
        print("naive", history[-1], flush=True)
        if history[-1][1] >= chosen.goal:
            break
    return _figures(history, chosen.goal, _accuracy(network, test))


def _accuracy(network: NaiveForwardForward, images: fo.data.Images) -> float:
    predicted = torch.cat([network.predict(some) for some in images.images.split(1000)])
    return float((predicted == images.labels).float().mean())


def _figures(history: list[tuple[float, float]], goal: float, test: float) -> dict[str, Any]:
    seconds, accuracy = history[-1]
    return {
        "reached": accuracy >= goal,
        "seconds": seconds,
        "epochs": len(history),
        "validation_accuracy": accuracy,
        "test_accuracy": test,
        "history": history,
    }


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    asked.add_argument("--goal", type=float, default=0.98)
    asked.add_argument("--epochs", type=int, default=6, help="of our schedule")
    asked.add_argument("--rate", type=float, default=3e-3, help="our learning rate")
    asked.add_argument("--negatives", default="hard", choices=("hard", "uniform"), help="ours; the loop's are uniform")
    asked.add_argument("--naive-rate", type=float, default=3e-3, help="the loop's learning rate")
    asked.add_argument("--crop", type=int, default=0, help="pixels by which both arms' training images are shifted")
    asked.add_argument("--most", type=int, default=60, help="epochs after which the loop is given up")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--out", type=Path, required=True, help="JSON file")
    chosen = asked.parse_args()
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as both:
        begun = {arm.__name__: both.submit(alone, arm, chosen) for arm in (ours, naive)}
    arms = {name: arm.result() for name, arm in begun.items()}
    result = {
        "kind": "time-to-accuracy",
        "ratios": {f"{chosen.goal:.1%}": arms["naive"]["seconds"] / arms["ours"]["seconds"]},
        "arms": arms,
        "options": {key: value for key, value in vars(chosen).items() if key != "out"},
        "machine": machine(torch.device("cpu")),
    }
    chosen.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
