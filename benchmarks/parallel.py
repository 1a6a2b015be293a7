"""Training on several processes against one: data parallel and layer pipeline, beside backprop's own pipeline.

    python benchmarks/parallel.py --processes 2 --out parallel.json

Every arm is a fresh set of processes of one thread each, on random images, for the same number of steps of the same
global batch size, after a few steps that are not timed. Forward-only arms run the library's own training by `fo.fit`,
and their time is that of an epoch: the pipeline's fill, the wait for its last batch and the meeting at the end count.
Backprop's pipeline is `torch.distributed.pipelining`, schedule 1F1B, on the same convolutions with a linear
classifier behind the last, and one optimiser a stage. Its bubble is the share of time that stages wait: 1 - (time of
the work alone) / (processes x time of the pipeline).

The network is a row of equal convolutions behind an untrained one. With `--pictures` the first block sees the three
planes of a picture instead, which makes it nearly free, and the row cannot be cut into equal parts.

On Linux the script counts what other processes of the machine compute meanwhile, and runs an arm again that they
disturbed.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cost_model
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import forwardonly as fo
from forwardonly.bench.speed import machine
from forwardonly.network.build import assemble
from forwardonly.system.precision import autocast, choose_precision
from forwardonly.training import TrainingConfig, join
from forwardonly.training.batch import Batch
from forwardonly.training.strategies.pipeline import step_seconds

SIDE, CLASSES = 32, 10
WARM_UP = 2  # steps that are not timed
TRIES = 4  # of an arm that others disturb
MESSAGES = 20  # that measure a link


class Filters(fo.bodies.Stem):
    """Random 3x3 filters, never trained, and ReLU."""

    def __init__(self, channels: int):
        super().__init__()
        filters = torch.randn(channels, 3, 3, 3, generator=torch.Generator().manual_seed(0))
        self.register_buffer("filters", filters * (2 / 27) ** 0.5)

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(images, self.filters, padding=1).relu()


class Order(nn.Module):
    """Another order of dimensions. `torch.distributed` sends contiguous tensors only, which maps that lie as
    convolutions like them are in the order (B, H, W, K), without a copy.
    """

    def __init__(self, *order: int):
        super().__init__()
        self.order = order

    def forward(self, maps: Tensor) -> Tensor:
        return maps.permute(self.order)


def images(count: int) -> fo.data.Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    return fo.data.Images(pixels, torch.arange(count) % CLASSES, tuple("0123456789"), "random")


def build(arguments: argparse.Namespace) -> fo.Network:
    body = fo.bodies.Conv(depth=arguments.depth, channels=arguments.channels)
    rule = fo.rules.TABLE[arguments.rule](classes=CLASSES)
    if arguments.pictures:
        return fo.build(body, (3, SIDE, SIDE), rule=rule)
    torch.manual_seed(0)
    planes = (arguments.channels, SIDE, SIDE)
    return assemble(body.layers(planes), (3, SIDE, SIDE), rule, stem=Filters(arguments.channels))


def forward_only(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of an epoch, in this process of its team."""
    train = images(arguments.batch * arguments.steps)
    network = build(arguments)
    mode = arguments.arm if arguments.arm in ("data", "layers") else None
    options = {"batch_size": arguments.batch, "precision": arguments.precision, "lr_schedule": "constant"}
    with join(mode) as team:
        fo.fit(network, train.subset(torch.arange(WARM_UP * arguments.batch)), team=team, epochs=1, **options)
        load = Load()
        run = fo.fit(network, train, team=team, epochs=1, **options)
        return {"seconds": run.history[-1]["seconds"], **load.now()}


def backprop(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of as many steps of backprop: in one process, or as a 1F1B pipeline over this one and the others."""
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B

    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    network = build(arguments)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * arguments.channels, CLASSES))
    per = arguments.depth // world
    mine = [block.body for block in network.row[rank * per : (rank + 1) * per]]
    front = [Order(0, 3, 1, 2)] if rank > 0 else []
    model = nn.Sequential(*front, *mine, head if rank == world - 1 else Order(0, 2, 3, 1))
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)
    batch = images(arguments.batch)
    network.prepare.fit(batch.images)
    device = torch.device("cpu")
    if world == 1:

        def step() -> None:
            with autocast(arguments.precision, device):
                loss = F.cross_entropy(model(network.prepare(batch.images)).float(), batch.labels)
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
                    schedule.step(network.prepare(batch.images))
                elif rank == world - 1:
                    schedule.step(target=batch.labels)
                else:
                    schedule.step()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    for _ in range(WARM_UP):
        step()
    if world > 1:
        dist.barrier()
    load, started = Load(), time.perf_counter()
    for _ in range(arguments.steps):
        step()
    if world > 1:
        dist.barrier()
    measured = {"seconds": time.perf_counter() - started, **load.now()}
    if world > 1:
        dist.destroy_process_group()
    return measured


def pieces(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the cost model needs to know of the work, measured in one process."""
    load = Load()
    network = build(arguments)
    train = images(arguments.batch)
    network.prepare.fit(train.images)
    recipe = TrainingConfig.resolve(network.rule)
    precision = choose_precision(arguments.precision, network.device)

    def present(count: int) -> Tensor:
        return network.present(train.images[:count], train.labels[:count])

    blocks = {}
    for processes in sorted({1, *arguments.processes}):
        count = arguments.batch // processes
        batch = Batch(present(count), train.labels[:count])
        blocks[count] = [min(pair) for pair in zip(*_twice(network, recipe, batch, precision), strict=True)]
    passed, signal = [], present(arguments.batch)
    for block in network.row:
        with torch.no_grad(), autocast(precision, network.device):
            signal = block.pass_on(block(signal), signal)
        passed.append(signal.nbytes)
    return {
        "batch": arguments.batch,
        "blocks": blocks,
        "prepare": _quickest(lambda: present(arguments.batch)),
        "passed": passed,
        "gradient": [4 * sum(p.numel() for p in block.parameters()) for block in network.row],
        "seconds": 0.0,
        **load.now(),
    }


def _twice(network: fo.Network, recipe: TrainingConfig, batch: Batch, precision: Any) -> list[list[float]]:
    return [step_seconds(network.row, recipe, batch, precision) for _ in range(2)]


def _quickest(work: Callable[[], Any], times: int = 5) -> float:
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def link(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the cost model needs to know of the connection between two processes with nothing else to do."""
    precision = choose_precision(arguments.precision, torch.device("cpu"))
    values = arguments.batch * arguments.channels * SIDE * SIDE
    message = torch.zeros(values, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    nothing = torch.zeros(1)
    with join("data") as team:
        load = Load()
        seconds, cpu = [], []
        for tensor in (message, message, nothing):  # the first time warms up
            dist.barrier()
            started, spent = time.perf_counter(), time.process_time()
            for _ in range(MESSAGES):
                dist.send(tensor, 1) if team.rank == 0 else dist.recv(tensor, 0)
            dist.barrier()
            seconds.append((time.perf_counter() - started) / MESSAGES)
            cpu.append((time.process_time() - spent) / MESSAGES)
        rate = message.nbytes / (seconds[1] - seconds[2])
        return {
            "bytes_per_second": rate,
            "latency": seconds[2],
            "cpu_per_byte": cpu[1] / message.nbytes,
            "seconds": 0.0,
            **load.now(),
        }


class Load:
    """CPU seconds of this process and of the whole machine, from now on."""

    def __init__(self) -> None:
        self.started = (time.perf_counter(), time.process_time(), _machine_cpu())

    def now(self) -> dict[str, float | None]:
        wall, own, everyone = self.started
        machine = None if everyone is None else (_machine_cpu() or 0.0) - everyone
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - own, "machine_cpu": machine}


def _machine_cpu() -> float | None:
    """CPU seconds of all processes since the start of the machine, and those that its host took from it."""
    try:
        user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    except OSError:
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


ARMS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "alone": forward_only,
    "data": forward_only,
    "layers": forward_only,
    "backprop": backprop,
    "pieces": pieces,
    "link": link,
}


def launch(tolerance: float, arm: str, processes: int, *more: str) -> dict[str, Any]:
    """What the first of so many fresh processes says of an arm; its time is the slowest one's."""
    for _ in range(TRIES):
        notes = _launch(arm, processes, *more)
        result = {**notes[0], "seconds": max(note["seconds"] for note in notes)}
        if result["machine_cpu"] is None:  # only Linux tells
            return result
        others = result.pop("machine_cpu") - sum(note["cpu"] for note in notes)
        result["others"] = max(0.0, others) / (result["wall"] * (os.cpu_count() or 1))
        if result["others"] < tolerance:
            return result
        print(f"{arm} on {processes}: others took {result['others']:.0%} of the machine", file=sys.stderr)
    return result


def _launch(arm: str, processes: int, *more: str) -> list[dict[str, Any]]:
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
            command = [sys.executable, __file__, *sys.argv[1:], *more, "--arm", arm, "--out", str(note)]
            workers.append((subprocess.Popen(command, env=env), note))
        if [worker.wait() for worker, _ in workers] != [0] * processes:
            raise SystemExit(f"arm {arm} failed")
        return [json.loads(note.read_text()) for _, note in workers]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[2])
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each arm")
    parser.add_argument("--repeats", type=int, default=2, help="times that every arm is run, in turn")
    parser.add_argument("--backprop", type=int, nargs="*", default=[4, 8], help="microbatches of its pipelines")
    parser.add_argument("--tolerance", type=float, default=0.03, help="others' share of the machine while an arm runs")
    parser.add_argument("--pictures", action="store_true", help="no untrained convolution before the blocks")
    parser.add_argument("--rule", default="projection")
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"))
    parser.add_argument("--arm", choices=ARMS, help="run this arm here, as one process of it; for the script itself")
    parser.add_argument("--microbatches", type=int, help="of this arm; for the script itself")
    parser.add_argument("--out", type=Path, help="file for the JSON, beside standard output")
    return parser.parse_args()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    arms: dict[str, tuple[Any, ...]] = {"alone": ("alone", 1)}
    for n in arguments.processes:
        arms.update({f"data {n}": ("data", n), f"layers {n}": ("layers", n)} if n > 1 else {})
    if arguments.backprop:
        arms["backprop"] = ("backprop", 1)
    for n in arguments.processes:
        for count in arguments.backprop if n > 1 and arguments.depth % n == 0 else ():
            arms[f"1F1B {n}, {count} microbatches"] = ("backprop", n, "--microbatches", str(count))
    found: dict[str, Any] = {kind: launch(arguments.tolerance, kind, n) for kind, n in (("pieces", 1), ("link", 2))}
    work = cost_model.Work.of(found["pieces"])
    connection = cost_model.Link(*(found["link"][name] for name in ("bytes_per_second", "latency", "cpu_per_byte")))
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    for _ in range(arguments.repeats):
        for name, arm in arms.items():
            runs[name].append(launch(arguments.tolerance, *arm))
            print(f"{name}: {runs[name][-1]['seconds']:.2f} s", file=sys.stderr)
    seconds = {name: [run["seconds"] for run in arm] for name, arm in runs.items()}
    ratios: dict[str, Any] = {}
    one = cost_model.alone(work, arguments.steps)
    for name, (kind, n, *extra) in arms.items():
        if n == 1:
            continue
        base = seconds["backprop" if kind == "backprop" else "alone"]
        each = [before / after for before, after in zip(base, seconds[name], strict=True)]
        ratios[name] = {"ratio": statistics.median(each), "each": each, "waits": 1 - statistics.median(each) / n}
        if kind == "backprop":
            ratios[name]["waits in theory"] = (n - 1) / (int(extra[-1]) + n - 1)
        else:
            predict = cost_model.layers if kind == "layers" else cost_model.data
            ratios[name]["predicted"] = one / predict(work, connection, n, arguments.steps, os.cpu_count() or 1)
    return {
        "ratios": ratios,
        "seconds": seconds,
        "others": {name: [run.get("others") for run in arm] for name, arm in runs.items()},
        **found,
    }


def _without_out(argv: list[str]) -> list[str]:
    """A command line without the place that its result goes to."""
    at = argv.index("--out") if "--out" in argv else len(argv)
    return argv[:at] + argv[at + 2 :]


def main() -> None:
    arguments = options()
    if arguments.arm is not None:
        torch.set_num_threads(1)
        fo.keep_freed_memory()  # as every command of the library does
        arguments.out.write_text(json.dumps(ARMS[arguments.arm](arguments)))
        return
    result = measure(arguments)
    result |= {
        "command": " ".join(["python", "benchmarks/parallel.py", *_without_out(sys.argv[1:])]),
        "machine": {**machine(torch.device("cpu")), "cores": os.cpu_count(), "threads": "1 a process"},
        "forwardonly": fo.__version__,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
