"""Accuracy after training in C, in float32 and int8, beside Python's float32: the same examples in the same order.

    python benchmarks/device_accuracy.py --net digits-mlp [--ts FOLDER] [--seeds 5] [--out FILE.json]

FOLDER holds JapaneseVowels of the UCR archive as `.ts` files: `aeon/datasets/data` of the wheel that
`pip download aeon --no-deps` fetches. The C file is compiled for this computer. Settings were not tuned on test
examples.
"""

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import forwardonly as fo
from forwardonly.data import Features, Images
from forwardonly.export import export_c
from forwardonly.export.c.host import Host
from forwardonly.training.batch import Batch
from forwardonly.training.config import TrainingConfig
from forwardonly.training.step import Context
from forwardonly.training.strategies import whole_step
from forwardonly.training.update import Update


@dataclass(frozen=True)
class Task:
    """A network, its rule, and how it learns: by a rate that falls from epoch to epoch."""

    body: fo.bodies.Body
    rule: str
    options: dict[str, Any] = field(default_factory=dict)
    epochs: int = 10
    rate: float = 0.01
    batch: int = 1
    """Examples a step."""


TASKS = {
    "digits-mlp": Task(fo.bodies.MLP(hidden=(64, 64, 64, 64)), "hyperspherical", epochs=6),
    "vowels-1d": Task(
        fo.bodies.Separable(channels=(24, 32, 32, 32), pools=2), "projection", {"features": 64}, epochs=20
    ),
    "mnist-cnn": Task(
        fo.bodies.CNN(width=0.125), "projection", {"features": 100}, epochs=3, rate=0.1, batch=8
    ),  # batch norm
}


FEW = 6_000
"""Training examples of MNIST, the first ones: C on this computer takes a minute for as many."""


def series(path: Path) -> tuple[np.ndarray, list[str]]:
    """The examples (N, dimensions, 1, time) and labels of a `.ts` file whose series all have one length."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [line.split(":") for line in lines[lines.index("@data") + 1 :] if line.strip()]
    values = np.array([[[float(each) for each in own.split(",")] for own in row[:-1]] for row in rows], np.float32)
    return values[:, :, None, :], [row[-1].strip() for row in rows]


def load(name: str, folder: Path | None) -> tuple[Images, Images]:
    """Training and test examples."""
    if name == "digits-mlp":
        train, _, test = fo.data.load("digits")
        return train, test
    if name == "mnist-cnn":
        train, _, test = fo.data.load("mnist")
        return train.subset(torch.arange(FEW)), test
    if folder is None:
        raise ValueError("Say where the .ts files are: --ts FOLDER.")
    parts = []
    for part in ("TRAIN", "TEST"):
        values, words = series(folder / "JapaneseVowels" / f"JapaneseVowels_eq_{part}.ts")
        classes = tuple(sorted(set(words)))
        labels = torch.tensor([classes.index(word) for word in words])
        parts.append(Features(torch.from_numpy(values), labels, classes, "JapaneseVowels"))
    return parts[0], parts[1]


def accuracies(task: Task, train: Images, test: Images, seed: int) -> dict[str, float]:
    """Test accuracy of each arm from the same first weights."""
    rule = fo.rules.make(task.rule, classes=len(train.classes), **task.options)
    network = fo.build(task.body, train.shape, rule=rule, seed=seed)
    network.prepare.fit(train.images)
    given = {"optimiser": "sgd", "learning_rate": task.rate, "momentum": 0.0, "weight_decay": 0.0}
    hosts = {}
    for precision in ("float32", "int8"):
        with tempfile.TemporaryDirectory() as folder:
            export_c(network, folder, precision=precision, batch_size=task.batch, **given)
            hosts[precision] = Host(folder)
    config, generator = TrainingConfig.resolve(network.rule, given=given), torch.Generator().manual_seed(seed)
    updates = [Update(block, config) for block in network.row]
    prepared = network.train().prepare(train.images)
    images, labels = train.images.numpy(), train.labels.numpy()
    for epoch in range(task.epochs):
        order, share = torch.randperm(len(train), generator=generator), 1 - epoch / task.epochs
        order = order[: len(order) // task.batch * task.batch]
        for host in hosts.values():
            host.set_rate(task.rate * share)
            host.learn(images[order.numpy()], labels[order.numpy()])
        for update in updates:
            update.set_rate(share)
        for one in order.split(task.batch):
            whole_step(network, updates, Batch(prepared[one], train.labels[one]), Context("fp32"))
    found = {"python-float32": fo.evaluate(network, test, precision="fp32").accuracy}
    for precision, host in hosts.items():
        predicted = host.scores(test.images.numpy()).argmax(1)
        found[f"c-{precision}"] = float((predicted == test.labels.numpy()).mean())
        host.close()
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--net", choices=TASKS, required=True)
    options.add_argument("--ts", type=Path)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--out", type=Path)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    task = TASKS[chosen.net]
    try:
        train, test = load(chosen.net, chosen.ts)
    except ValueError as problem:
        sys.exit(str(problem))
    rows = []
    for seed in range(chosen.seeds):
        rows.append(accuracies(task, train, test, seed))
        print(seed, rows[-1], file=sys.stderr, flush=True)
        text = json.dumps(content(chosen.net, task, rows))
        if chosen.out:  # also before the last seed, in case there is no time for it
            chosen.out.write_text(text + "\n", encoding="utf-8")
    if not chosen.out:
        print(text)


def content(net: str, task: Task, rows: list[dict[str, float]]) -> dict[str, Any]:
    """The figures of some seeds, as record.py takes them."""
    arms = {
        arm: {"accuracy": [row[arm] for row in rows], "mean": statistics.mean(row[arm] for row in rows)}
        for arm in rows[0]
    }
    python = arms["python-float32"]["mean"]
    gaps = {arm: round(100 * (python - own["mean"]), 3) for arm, own in arms.items() if arm != "python-float32"}
    return {
        "kind": "device-accuracy",
        "command": f"python benchmarks/device_accuracy.py --net {net} --out FILE",
        "options": {
            "net": net,
            "epochs": task.epochs,
            "rate": task.rate,
            "batch": task.batch,
            "rule": task.rule,
            "seeds": len(rows),
        },
        "ratios": {f"points-behind-python/{arm}": gap for arm, gap in gaps.items()},
        "arms": arms,
    }


if __name__ == "__main__":
    main()
