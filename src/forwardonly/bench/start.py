"""Time to the end of the first training step in a fresh process: Python, imports, data, network, step."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

PARTS = ("python", "import", "data", "build", "step")
"""The parts of a start, in order; `python` is the interpreter's start-up, `step` includes compilation."""

PROGRAM = "import time; began = time.time(); from forwardonly.bench.start import start; start(began)"


def first_step(*, repeats: int, **options: Any) -> dict[str, float]:
    """Median seconds of each part of a start, and of `all` of it.

    Args:
        repeats: number of fresh processes.
        options: `rule`, `hidden`, `batch`, `compile`, `device` and `threads` of the training.

    Raises:
        ValueError: a process failed; the text is its last line of output.
    """
    runs = [_once(options) for _ in range(repeats)]
    return {part: statistics.median(run[part] for run in runs) for part in (*PARTS, "all")}


def _once(options: Mapping[str, Any]) -> dict[str, float]:
    started = time.time()
    call = [sys.executable, "-c", PROGRAM, json.dumps(options)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"The start failed: {done.stderr.strip().splitlines()[-1]}")
    ends = [started, *(json.loads(done.stdout)[part] for part in PARTS)]
    seconds = {part: after - before for part, before, after in zip(PARTS, ends[:-1], ends[1:], strict=True)}
    return {**seconds, "all": ends[-1] - started}


def start(began: float) -> None:
    """Does what `forwardonly train` does up to the first step, and prints the time at which each part was done."""
    import torch

    from forwardonly.data import load
    from forwardonly.network.build import mlp
    from forwardonly.rules import make
    from forwardonly.system.precision import choose_device, choose_precision
    from forwardonly.training.batch import Batch
    from forwardonly.training.config import TrainingConfig
    from forwardonly.training.step import Context
    from forwardonly.training.strategies import whole_step
    from forwardonly.training.update import Update

    options = json.loads(sys.argv[1])
    if options["threads"] is not None:
        torch.set_num_threads(options["threads"])
    ends = {"python": began, "import": time.time()}
    train = load("digits").train
    ends["data"] = time.time()
    rule = make(options["rule"], classes=10)
    device = choose_device(options["device"])
    network = mlp(train.shape, options["hidden"], rule=rule).to(device).train()
    given = {name: options[name] for name in ("device", "compile")}
    config = TrainingConfig.resolve(rule, train, given)
    for block in network.row:
        block.compiled = config.compile
    network.prepare.fit(train.images)
    updates = [Update(block, config) for block in network.row]
    for update in updates:
        update.allocate()
    ends["build"] = time.time()
    images, labels = (tensor[: options["batch"]].to(device) for tensor in (train.images, train.labels))
    generator = torch.Generator(device).manual_seed(0)
    precision = choose_precision(config.precision, device)
    batch = Batch(network.present(images, labels, generator), labels)
    losses = whole_step(network, updates, batch, Context(precision))
    losses.tolist()  # waits for the device
    print(json.dumps({**ends, "step": time.time()}))
