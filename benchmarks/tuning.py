"""Ways to tune a pretrained model, side by side: the task's figure, what is forgotten, memory, time.

    python benchmarks/tuning.py text  OUT.jsonl --model SMOLLM2_FOLDER --task python --seeds 0 1 2
    python benchmarks/tuning.py image OUT.jsonl --model LITE0.safetensors --task cifar-10 --seeds 0 1 2

Each run is a process of its own, whose peak memory is the system's count. Arms: `untouched`, `end-to-end`,
`checkpointed` (the same with activations computed again), `lora` (by peft; of text with checkpoints), `frozen-half`
(the upper half end to end, the lower not at all), `local` (blocks by forwardonly). Of images also `heads` (read-outs
after every block of the untouched model) and `joint` (the read-outs of the local arm, trained end to end). All take as
many steps, with AdamW and a linear schedule behind a warm-up of a tenth. Runs that OUT has already are not repeated.
"""

import argparse
import gc
import itertools
import json
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from models import declare_torchvision_operators
from torch import Tensor, nn
from tuning_pictures import IN_BLOCKS, Pictures
from tuning_tasks import CPU, PRECISION, Activations, Task, computing, in_files
from tuning_texts import Text

import forwardonly as fo
from forwardonly.network.walled import Arrival
from forwardonly.system.memory import peak_memory_bytes

ARMS = ("untouched", "heads", "end-to-end", "joint", "checkpointed", "lora", "frozen-half", "local")
FIGURES = (
    *("loss", "other_loss", "accuracy", "other_accuracy", "block_accuracy", "held_accuracy"),
    *("seconds", "processor_seconds", "peak_memory_bytes", "resting_bytes", "saved_bytes"),
)
LINE = (
    *("kind", "task", "steps", "blocks", "budget", "heads_first", "layer_decay"),
    *("side", "kept_norms", "choose", "figures"),
)
RATES = {
    "text": {"end-to-end": 1e-4, "checkpointed": 1e-4, "lora": 1e-3, "frozen-half": 1e-4, "local": 1e-3},
    "image": {
        **dict.fromkeys(("end-to-end", "checkpointed", "lora", "frozen-half"), 3e-3),
        **dict.fromkeys(("heads", "joint", "local"), 1e-2),
    },
}
"""Learning rates; of `local`, and of all arms on images, that of the read-outs: bodies learn at a tenth of it."""
BLOCKS = 6
OF_BLOCKS = ("blocks", "budget", "heads_first", "layer_decay")
"""Settings that only arms with blocks have."""


def main() -> None:
    """Runs what is missing, each in a process of its own."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("kind", choices=("text", "image"))
    options.add_argument("out", type=Path)
    options.add_argument("--model", type=Path, required=True, help="a Hugging Face folder, or a file of timm weights")
    options.add_argument("--task", required=True, help="python or manual; cifar-10, or a folder of images")
    options.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options.add_argument("--rates", nargs="+", type=float, default=[0.0], help="0: the arm's own")
    options.add_argument("--steps", type=int, default=40)
    options.add_argument("--blocks", type=int, default=BLOCKS)
    options.add_argument("--heads-first", type=float, default=0.0, help="of arms with blocks")
    options.add_argument("--layer-decay", type=float, default=1.0, help="of the local arm")
    options.add_argument("--budget", help="of the local arm, such as 1GiB")
    options.add_argument("--side", type=int, default=64, help="pixels of a side of an image")
    options.add_argument("--kept-norms", action="store_true", help="batch norms keep their statistics, but for local")
    options.add_argument("--choose", action="store_true", help="measure on held-out images alone")
    options.add_argument("--cost", dest="figures", action="store_false", help="measure memory and time alone")
    options.add_argument("--summary", action="store_true", help="print what OUT has of the task, for record.py")
    options.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.one:
        library = declare_torchvision_operators()
        print(json.dumps(tuned(given)))
        del library
        return
    lines = [json.loads(text) for text in given.out.read_text().splitlines()] if given.out.exists() else []
    if given.summary:
        own = {name: getattr(given, name) for name in ("task", "side", "choose", "figures")}
        chosen = [line for line in lines if all(line.get(name, value) == value for name, value in own.items())]
        print(json.dumps(summary(chosen, given)))
        return
    done = {key(line) for line in lines}
    for seed, rate, arm in itertools.product(given.seeds, given.rates, given.arms):
        if arm == "untouched" and seed != given.seeds[0]:
            continue
        own = {**vars(given), "arm": arm, "seed": seed, "rate": rate or RATES[given.kind].get(arm, 0.0)}
        if key(own) in done:
            continue
        words = ["--arms", arm, "--seeds", str(seed), "--rates", str(own["rate"]), "--steps", str(given.steps)]
        words += ["--heads-first", str(given.heads_first), "--layer-decay", str(given.layer_decay)]
        words += ["--blocks", str(given.blocks), *(["--budget", given.budget] if given.budget else [])]
        words += ["--side", str(given.side), *(["--choose"] if given.choose else [])]
        words += ["--kept-norms"] if given.kept_norms else []
        words += [] if given.figures else ["--cost"]
        command = [sys.executable, __file__, given.kind, str(given.out), "--model", str(given.model)]
        shown = subprocess.run([*command, "--task", given.task, *words, "--one"], capture_output=True, text=True)
        if shown.returncode:
            print(f"{arm}, seed {seed}: {shown.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
            continue
        with given.out.open("a") as file:
            file.write(shown.stdout.splitlines()[-1] + "\n")
        print(shown.stdout.splitlines()[-1], flush=True)


def summary(lines: list[dict], given: argparse.Namespace) -> dict:
    """All seeds of each arm together."""
    arms = {}
    for arm in ARMS:
        own = sorted((line for line in lines if line["arm"] == arm), key=lambda line: line["seed"])
        names = [name for name in FIGURES if own and own[0].get(name) is not None]
        in_blocks = ("blocks", "layer_decay", "heads_first") if arm in IN_BLOCKS else ()
        kept = ("rate", "steps", *in_blocks, *(("kept_norms",) if given.kind == "image" else ()))
        if own:
            settings = {name: own[0].get(name) for name in kept}
            arms[arm] = {**settings, **{name: [line[name] for line in own] for name in ("seed", *names)}}
    command = f"python benchmarks/tuning.py {given.kind} OUT --model MODEL --task {Path(given.task).name}"
    threads = {"threads": torch.get_num_threads(), "torch": torch.__version__, "precision": PRECISION}
    options = {"task": Path(given.task).name} | ({"side": given.side} if given.kind == "image" else {})
    return {"kind": "tuning", "command": command, "machine": threads, "options": options, "arms": arms}


def key(line: dict) -> tuple:
    """What tells one run from another."""
    own = OF_BLOCKS if line["arm"] in IN_BLOCKS else ()
    seen = (line.get("side", 64), line.get("kept_norms", False), line.get("choose", False), line.get("figures", True))
    return (*(line[name] for name in ("kind", "task", "arm", "seed", "rate", "steps", *own)), *seen)


def tuned(given: argparse.Namespace) -> dict:
    """Trains by one arm, and measures before and after."""
    (arm,), (seed,), (rate,) = given.arms, given.seeds, given.rates
    task: Task = {"text": Text, "image": Pictures}[given.kind](given)
    torch.manual_seed(seed)
    trained = {"untouched": untouched, "heads": local, "joint": joint, "local": local}.get(arm, plain)
    clock, busy = time.perf_counter(), time.process_time()
    model = trained(task, arm, rate, seed, given)
    line = {name: getattr(given, name) for name in LINE} | {"arm": arm, "seed": seed, "rate": rate}
    line |= {"seconds": time.perf_counter() - clock, "processor_seconds": time.process_time() - busy}
    line["peak_memory_bytes"] = peak_memory_bytes(CPU)
    line |= task.measured(model.eval())
    return line | {"saved_bytes": task.saved}


def untouched(task, arm, rate, seed, given) -> nn.Module:
    """The model as it is, with a new classifier where the task needs one."""
    return task.prepared(arm)


def plain(task, arm, rate, seed, given) -> nn.Module:
    """Tunes by gradients through the model, or its upper half, or adapters in it."""
    model = task.prepared(arm)
    descend(task, model, task.groups(model, rate, arm), task.loss, seed, given, heads_first=0.0)
    return model


def joint(task, arm, rate, seed, given) -> nn.Module:
    """Tunes by gradients through the whole model of the losses of all read-outs that the local arm has."""
    net = task.localized(given.blocks, seed)

    def loss(net: fo.Network, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        losses = []

        def visit(index: int, arrival: Arrival) -> Tensor:
            block = net.row[index]
            losses.append(block.rule.loss(block(arrival), labels))
            return arrival.signal  # attached: the next block's loss reaches this one

        net.walled.walk(task.standardised(images), visit)
        return torch.stack(losses).sum()

    heads = [weight for block in net.row for weight in block.rule.parameters()]
    bodies = [weight for block in net.row for weight in block.body.parameters()]
    groups = [{"params": heads, "lr": rate}, {"params": bodies, "lr": 0.1 * rate}]
    descend(task, net, groups, loss, seed, given, heads_first=given.heads_first)
    return net


def descend(task, model, groups, loss, seed, given, *, heads_first: float) -> None:
    """AdamW on the task's batches; for a share of the steps the first group learns alone."""
    optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
    rates = [group["lr"] for group in optimiser.param_groups]
    model.train()
    norms = [part for part in model.modules() if given.kept_norms and isinstance(part, nn.BatchNorm2d)]
    for step, batch in enumerate(task.batches(seed)):
        for group, highest in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = highest * factor(step, given.steps)
        for group in optimiser.param_groups[1:]:
            for weight in group["params"]:
                weight.requires_grad_(step >= heads_first * given.steps)
        for norm in norms:
            norm.eval()
        counted = Activations(model) if step == given.steps - 1 else None
        with counted or nullcontext():
            with computing():
                value = loss(model, batch)
            value.backward()
        recomputed = given.arms[0] == "checkpointed" or (given.kind, given.arms[0]) == ("text", "lora")
        if counted is not None and not recomputed:  # those save again as they go back
            task.saved = counted.peak
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def factor(step: int, steps: int) -> float:
    """Share of the highest rate: it rises over a tenth of the run, then falls to 0, as `fit` has it."""
    warm = 0.1 * steps
    return min(1.0, (step + 1) / warm) if step < warm else 1 - (step - warm) / (steps - warm)


def local(task, arm, rate, seed, given) -> nn.Module:
    """Tunes block by block."""
    with in_files(given.budget):
        net = task.localized(given.blocks, seed)
    options = {"learning_rate": rate, "body_rate": 0.1, "weight_decay": 0.0, "lr_schedule": "linear", "warmup": 0.1}
    options |= {"heads_first": given.heads_first, "layer_decay": given.layer_decay}
    counted = Activations(net)

    def count_the_last(event) -> None:
        """Counts one step's bytes alone: hooks take time."""
        if event.step == given.steps - 1:
            counted.__enter__()
        elif event.step == given.steps and event.row is None:
            counted.__exit__(None, None, None)

    fo.fit(
        net,
        task.data(seed),
        steps=given.steps,
        epochs=1,
        batch_size=task.batch,
        precision=PRECISION,
        memory_budget=given.budget,
        seed=seed,
        progress=count_the_last,
        **task.options,
        **options,
    )
    task.saved = counted.peak
    return task.whole(net)


if __name__ == "__main__":
    gc.freeze()
    main()
