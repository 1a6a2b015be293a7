"""Trains with every rule, body and feature on a GPU, a few steps each: what the tests cannot check without one.

    make gpu-check
    python benchmarks/gpu_check.py --out gpu.json && python benchmarks/record.py --timing gpu.json --id gpu/check

Each is a run of `fo.fit` on random images: eager and compiled, in fp32 and bf16, with offloaded blocks, and, where
there are two GPUs or more, shared by two processes. Prints one line of JSON with seconds and peak memory of each, and
of what failed the error; then it ends with status 1. With `--device cpu` it tries itself.
"""

import argparse
import importlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import forwardonly as fo
from forwardonly.bench.speed import machine
from forwardonly.training import join
from forwardonly.training.memory.budget import MemoryPlan

SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (32, 32)},
    "cnn": {"width": 0.25},
    "conv": {"depth": 2, "channels": 16},
    "six": {"width": 0.25},
    "vgg8b": {"width": 0.25},
    "tinycnn": {"width": 0.25},
    "resnet17": {"width": 0.25},
    "resnet18": {"width": 0.25},
    "resnet56": {"walls": 5},
    "separable": {"channels": (16, 16)},
}
CLASSES, COUNT = 4, 64


def cases(quick: bool) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Name, rule, body and training options of each run."""
    rules, bodies = list(fo.rules.TABLE), list(fo.bodies.TABLE)
    pairs = [(rule, body) for rule in rules for body in bodies]
    for rule, body in [("projection", "mlp"), ("ff", "mlp")] if quick else pairs:
        yield f"{rule}/{body}/fp32", rule, body, {"precision": "fp32"}
    for rule in ["projection"] if quick else rules:
        body = "mlp" if rule in ("ff", "projection") else "conv"
        yield f"{rule}/{body}/bf16", rule, body, {"precision": "bf16"}
        yield f"{rule}/{body}/greedy", rule, body, {"precision": "fp32", "schedule": "greedy"}
        if not quick:
            yield f"{rule}/{body}/compiled", rule, body, {"precision": "bf16", "compile": True}
    for optimiser in ("sgd", "muon"):
        yield f"projection/conv/{optimiser}", "projection", "conv", {"optimiser": optimiser, "precision": "fp32"}
    augmented = {"crop": 2, "flip": "random", "cutout": 4, "precision": "fp32"}
    yield "projection/conv/augmented", "projection", "conv", augmented
    yield "projection/conv/offload", "projection", "conv", {"precision": "fp32", "memory_budget": "64GiB"}


def data(shape: tuple[int, int, int]) -> fo.data.Images:
    """Random images, the same in every run."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (COUNT, *shape), dtype=torch.uint8, generator=generator)
    return fo.data.Images(images, torch.arange(COUNT) % CLASSES, tuple("abcd"), "random")


def train(rule: str, body: str, device: str, team: Any = None, **options: Any) -> dict[str, torch.Tensor]:
    """One epoch, validation included; raises where a weight is not finite."""
    shape = (3, 32, 32)
    network = fo.build(fo.bodies.TABLE[body](**SMALL.get(body, {})), shape, rule=fo.rules.make(rule, classes=CLASSES))
    images = data(shape)
    validation = images if network.labelled else None
    fo.fit(network, images, validation=validation, epochs=1, batch_size=16, device=device, team=team, **options)
    if network.labelled:
        network.predict(images.images)
    else:
        fo.probe(network, images).predict(images.images)
    return {name: weight.detach().cpu().clone() for name, weight in network.state_dict().items()}


def measured(name: str, rule: str, body: str, device: torch.device, options: dict[str, Any]) -> dict[str, Any]:
    """Seconds and peak memory of a run, or what was wrong with it."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    try:
        if name.endswith("/offload"):
            offload_agrees(rule, body, device, options)
        else:
            train(rule, body, str(device), **options)
        if cuda:
            torch.cuda.synchronize(device)
    except Exception as problem:  # the other runs are worth knowing too
        return {"error": f"{type(problem).__name__}: {problem}"[:500]}
    peak = torch.cuda.max_memory_allocated(device) if cuda else None
    return {"seconds": round(time.perf_counter() - started, 3), "peak_bytes": peak}


def offload_agrees(rule: str, body: str, device: torch.device, options: dict[str, Any]) -> None:
    """Trains with and without offloaded blocks; raises unless both end with the same weights."""
    options = dict(options)
    module = importlib.import_module("forwardonly.training.fit")
    plan = module.make_plan
    module.make_plan = lambda *_: MemoryPlan(16, True, 16)  # type: ignore[attr-defined]
    try:
        offloaded = train(rule, body, str(device), **options)
    finally:
        module.make_plan = plan  # type: ignore[attr-defined]
    del options["memory_budget"]
    for name, weight in train(rule, body, str(device), **options).items():
        if not torch.allclose(weight, offloaded[name], rtol=1e-4, atol=1e-5):
            raise ValueError(f"offloaded, {name} ends differently")


def processes(device: torch.device, stages: int) -> dict[str, Any]:
    """Two processes share the batches, or as two stages the blocks: by NCCL on two GPUs, by gloo on CPUs."""
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        return {"skipped": "needs two GPUs"}
    started = time.perf_counter()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    words = [sys.executable, __file__, "--device", device.type, "--as-process", str(stages)]
    common = {**os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    crew = [
        subprocess.Popen(words, env={**common, "RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank in "01"
    ]
    try:
        said = [each.communicate(timeout=300)[1] for each in crew]
    except subprocess.TimeoutExpired:
        return {"error": "did not end within 300 s"}
    finally:
        for each in crew:
            each.kill()
    if any(each.returncode for each in crew):
        return {"error": max(said, key=len)[-500:]}
    return {"seconds": round(time.perf_counter() - started, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="a few runs, to try this script")
    parser.add_argument("--out", type=Path, help="file for the JSON, beside standard output")
    parser.add_argument("--as-process", type=int, metavar="STAGES", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.as_process:  # one of the two of `processes`
        with join(stages=chosen.as_process) as team:
            train("projection", "conv", chosen.device, team=team, precision="fp32")
        return
    if chosen.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("There is no GPU here: this is for a machine that has one.")
    device = torch.device(chosen.device)
    arms = {}
    for name, rule, body, options in cases(chosen.quick):
        arms[name] = measured(name, rule, body, device, options)
        print(name, arms[name], file=sys.stderr)
    for stages in (1, 2):
        arms[f"projection/conv/two-processes/stages-{stages}"] = processes(device, stages)
    failed = sorted(name for name, own in arms.items() if "error" in own)
    content = {
        "kind": "gpu",
        "command": "python benchmarks/gpu_check.py " + " ".join(sys.argv[1:]),
        "machine": machine(device),
        "options": {"device": device.type, "quick": chosen.quick, "failed": failed},
        "arms": arms,
    }
    line = json.dumps(content)
    print(line)
    if chosen.out is not None:
        chosen.out.write_text(line + "\n")
    if failed:
        sys.exit(f"{len(failed)} of {len(arms)} failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
