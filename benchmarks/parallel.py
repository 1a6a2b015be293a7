"""Training on several processes against one: the data-parallel and the layer-pipeline ratio, beside backprop's own
pipeline.

    python benchmarks/parallel.py --processes 2 --out parallel.json

Every arm is a fresh set of processes of one thread each, on random images, for the same number of steps of the same
global batch size. Forward-only arms run the library's own training step by `fo.fit`; their time is that of the last
epoch, so that neither the start nor the pipeline's fill of the first epoch counts, but the fill and the meeting of
the timed one do. Backprop's pipeline is `torch.distributed.pipelining`, schedule 1F1B, on the same convolutions with
a linear classifier behind the last, and one optimiser a stage. Its bubble is the share of time that stages wait: 1 -
(time of the work alone) / (processes x time of the pipeline).
"""

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import forwardonly as fo
from forwardonly.precision import autocast
from forwardonly.training import join

SIDE, CLASSES = 32, 10


def images(count: int) -> fo.data.Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    return fo.data.Images(pixels, torch.arange(count) % CLASSES, tuple("0123456789"), "random")


def forward_only(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the last epoch of a run, in this process of its team."""
    train = images(arguments.batch * arguments.steps)
    body = fo.bodies.Conv(depth=arguments.depth, channels=arguments.channels)
    network = fo.build(body, train.shape, rule=fo.rules.TABLE[arguments.rule](classes=CLASSES))
    mode = arguments.arm if arguments.arm in ("data", "layers") else None
    options = {"epochs": 2, "batch_size": arguments.batch, "precision": arguments.precision}
    with join(mode) as team:
        run = fo.fit(network, train, team=team, lr_schedule="constant", **options)
    return {"seconds": run.history[-1]["seconds"]}


def backprop(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of as many steps of backprop: in one process, or as a 1F1B pipeline over this one and the others."""
    import torch.distributed as dist
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B

    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    torch.manual_seed(0)
    convolutions = [
        nn.Sequential(
            nn.Conv2d(3 if k == 0 else arguments.channels, arguments.channels, 3, padding=1, bias=False), nn.ReLU()
        )
        for k in range(arguments.depth)
    ]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * arguments.channels, CLASSES))
    per = arguments.depth // world
    mine = convolutions[rank * per : (rank + 1) * per]
    model = nn.Sequential(*mine, *([head] if rank == world - 1 else []))
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)
    pixels = images(arguments.batch)
    x, y = pixels.images.float() / 255, pixels.labels
    device = torch.device("cpu")
    if world == 1:

        def step() -> None:
            with autocast(arguments.precision, device):
                loss = F.cross_entropy(model(x).float(), y)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
    else:
        dist.init_process_group("gloo")
        stage = PipelineStage(model, rank, world, device)
        schedule = Schedule1F1B(
            stage, arguments.microbatches, loss_fn=lambda out, goal: F.cross_entropy(out.float(), goal)
        )

        def step() -> None:
            with autocast(arguments.precision, device):
                if rank == 0:
                    schedule.step(x)
                elif rank == world - 1:
                    schedule.step(target=y)
                else:
                    schedule.step()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    step()
    if world > 1:
        dist.barrier()
    started = time.perf_counter()
    for _ in range(arguments.steps):
        step()
    if world > 1:
        dist.barrier()
    seconds = time.perf_counter() - started
    if world > 1:
        dist.destroy_process_group()
    return {"seconds": seconds}


def launch(arm: str, processes: int, arguments: argparse.Namespace) -> float:
    """Seconds that an arm takes on so many fresh processes: the slowest one's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        workers = []
        for rank in range(processes):
            note = Path(folder) / f"{rank}.json"
            env = {**os.environ, "OMP_NUM_THREADS": "1"}
            if processes > 1:
                env.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes))
                env.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            command = [sys.executable, __file__, *sys.argv[1:], "--arm", arm, "--out", str(note)]
            workers.append((subprocess.Popen(command, env=env), note))
        if [worker.wait() for worker, _ in workers] != [0] * processes:
            raise SystemExit(f"arm {arm} failed")
        return max(json.loads(note.read_text())["seconds"] for _, note in workers)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each arm")
    parser.add_argument("--repeats", type=int, default=3, help="times that every arm is run, in turn")
    parser.add_argument("--microbatches", type=int, default=4, help="of backprop's pipeline")
    parser.add_argument("--rule", default="projection")
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"))
    parser.add_argument("--arm", help="run this arm here, as one process of it; used by the benchmark itself")
    parser.add_argument("--out", type=Path, help="file for the JSON, beside standard output")
    return parser.parse_args()


def main() -> None:
    arguments = options()
    if arguments.arm is not None:
        torch.set_num_threads(1)
        work = backprop if arguments.arm == "backprop" else forward_only
        arguments.out.write_text(json.dumps(work(arguments)))
        return
    n = arguments.processes
    if arguments.depth % n:
        raise SystemExit(f"depth {arguments.depth} is not a multiple of {n} processes")
    arms = {"alone": ("alone", 1), "data": ("data", n), "layers": ("layers", n), "backprop": ("backprop", 1)}
    arms["backprop 1F1B"] = ("backprop", n)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(arguments.repeats):
        for name, (arm, processes) in arms.items():
            seconds[name].append(launch(arm, processes, arguments))
    best = {name: statistics.median(times) for name, times in seconds.items()}
    pipelined = best["backprop"] / best["backprop 1F1B"]
    result = {
        "ratios": {
            "data": best["alone"] / best["data"],
            "layers": best["alone"] / best["layers"],
            "backprop 1F1B": pipelined,
        },
        "bubble": {
            "layers": 1 - best["alone"] / best["layers"] / n,
            "backprop 1F1B": 1 - pipelined / n,
            "backprop 1F1B in theory": (n - 1) / (arguments.microbatches + n - 1),
        },
        "seconds": seconds,
        "command": " ".join(["python", "benchmarks/parallel.py", *sys.argv[1:]]),
        "hardware": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, 1 thread a process",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "forwardonly": fo.__version__},
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
