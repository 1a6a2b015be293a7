"""Convolutional bodies x optimisers x ways of running: each run dies at every moment of `moments.py` in turn.

    python tests/parallel/matrix.py --ways alone data --bodies conv six --optimisers adamw muon

prints, for each combination, the exit statuses of the processes that died, and whether the run, resumed after each,
ended as one that was left alone. Without arguments all of them are tried, which takes some twenty minutes.
"""

import argparse
import importlib
import json
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from crew import difference, history
from forks import Crew, store
from moments import MOMENTS, strike

import forwardonly as fo
from forwardonly.training.memory.budget import MemoryPlan

WAYS: dict[str, tuple[int, dict[str, Any]]] = {
    "alone": (1, {}),
    "data": (2, {}),
    "layers": (2, {"stages": 2}),
    "budget": (1, {}),
}
"""Processes, and how they share the run."""
BODIES = {
    "conv": (fo.bodies.Conv(depth=3, channels=6), 8),
    "six": (fo.bodies.Six(width=0.06), 32),
    "vgg8b": (fo.bodies.VGG8b(width=0.04), 32),
    "resnet17": (fo.bodies.ResNet17(width=0.06), 8),
    "resnet18": (fo.bodies.ResNet18(width=0.06, walls=5), 8),
}
"""Narrow ones, and the side of their images."""
TRIES = 4  # on a busy machine some launches by fork hang at their first message; the cause is not known
OPTIMISERS = ("sgd", "adamw", "muon", "rmsprop", "nadam", "adafactor")


def train(team: fo.training.Team, folder: Path, body: str, optimiser: str, budget: bool, start: int) -> None:
    """A run on random pictures, begun or resumed, whose `start` decides where this process dies."""
    strike(start, team.rank, team.world, list(MOMENTS))
    shape, side = BODIES[body]
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (64, 3, side, side), dtype=torch.uint8, generator=generator)
    images = fo.data.Images(pixels, torch.arange(64) % 4, ("a", "b", "c", "d"), "random")
    options: dict[str, Any] = {"epochs": 2, "batch_size": 16, "checkpoint_every": 2, "precision": "fp32"}
    options.update(optimiser=optimiser, learning_rate=0.01, crop=1, flip="random", seed=5)
    if budget:  # as if no more than one block fitted into memory
        importlib.import_module("forwardonly.training.fit").make_plan = lambda *_: MemoryPlan(8, True, 20)  # type: ignore[attr-defined]
        options["memory_budget"] = "1GiB"
    network = fo.build(shape, images.shape, rule=fo.rules.Projection(classes=4), seed=3)
    resume, held = (folder / "config.json").exists(), images.subset(torch.arange(20))
    fo.fit(network, images, validation=held, test=images, out=folder, resume=resume, team=team, **options)


def killed(folder: Path, way: str, body: str, optimiser: str, port: int) -> dict[str, Any]:
    """One combination: what became of the processes that should die, and of the run."""
    world, how = WAYS[way]
    whole, out, died = folder / "whole", folder / "killed", {}

    def launch(into: Path, start: int, victim: int | None) -> tuple[Crew, list[int]]:
        """The processes until the victim is gone, or all are; again if they did not find each other, as torchrun."""
        for _ in range(TRIES):
            work = partial(train, folder=into, body=body, optimiser=optimiser, budget=way == "budget", start=start)
            crew = Crew(port, folder, world, work, timeout=20.0, **how)
            status = crew.wait(300, None if victim is None else [victim])
            if victim is not None:
                others = [rank for rank in range(world) if rank != victim]
                for rank in others:
                    crew.kill(rank)
                crew.wait(10, others)
            if 2 not in status or not any("died or hangs" in said or "lost touch" in said for said in crew.said()):
                break
        return crew, status

    assert launch(whole, len(MOMENTS), None)[1] == [0] * world
    for start, (name, moment) in enumerate(MOMENTS.items()):
        (died[name],) = launch(out, start, 0 if moment.leads else start % world)[1]
    last, status = launch(out, len(MOMENTS), None)
    if any(status):
        return {"died": died, "status": status, "said": last.said()}
    results = [json.loads((each / "result.json").read_text()) for each in (whole, out)]
    names = ("test_accuracy", "validation_accuracy", "block_accuracy")
    return {
        "died": died,
        "weights": difference(whole, out),
        "history": history(whole) == history(out),
        "result": all(results[0][name] == results[1][name] for name in names),
        "left": [path.name for path in out.rglob(".*")],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--bodies", nargs="+", choices=BODIES, default=list(BODIES))
    parser.add_argument("--optimisers", nargs="+", choices=OPTIMISERS, default=OPTIMISERS)
    chosen = parser.parse_args()
    seen = {}
    with tempfile.TemporaryDirectory() as folder:  # so that no fork has to import what training needs
        for optimiser in chosen.optimisers:
            train(fo.training.Team(), Path(folder) / optimiser, "conv", optimiser, False, len(MOMENTS))
    with store() as port:
        for way in chosen.ways:
            for body in chosen.bodies:
                for optimiser in chosen.optimisers:
                    name = f"{way}, {body}, {optimiser}"
                    with tempfile.TemporaryDirectory() as folder:
                        seen[name] = killed(Path(folder), way, body, optimiser, port)
                    print(name, seen[name], file=sys.stderr, flush=True)
    print(json.dumps(seen))
    ends = {
        "died": dict.fromkeys(MOMENTS, -signal.SIGKILL),
        "weights": 0.0,
        "history": True,
        "result": True,
        "left": [],
    }
    print(f"{sum(len(each['died']) for each in seen.values())} kills in {len(seen)} runs", file=sys.stderr)
    raise SystemExit(any(each != ends for each in seen.values()))


if __name__ == "__main__":
    main()
