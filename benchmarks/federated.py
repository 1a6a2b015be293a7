"""Federated averaging beside central training: 20 clients that keep their images, simulated in one process.

    python benchmarks/federated.py OUT.json [--rule hyperspherical] [--seeds 3] [--arms equal ...]

In a round every client that is asked takes the server's weights, trains `LOCAL_STEPS` steps on its own images, and
sends its weights back (McMahan et al. 2017, arXiv 1602.05629). The server takes a step towards their mean, weighted by
images, with Nesterov momentum (as Reddi et al. 2021, arXiv 2003.00295, see the mean's distance as a gradient). Local
optimisers begin anew each round; their rate falls to 0 over the rounds. The images are Fashion-MNIST's, parted randomly
in equal parts, or, of each class, in shares drawn from a Dirichlet distribution of 0.5. Of how the images are
standardised the server needs only each client's sums, so that is as in central training. Settings were chosen by 5,000
held-out training images and seed 7, which is not among the reported seeds. OUT.json is what `record.py --timing` takes;
it keeps arms that are not named.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import forwardonly as fo
from forwardonly.data import Images

CLIENTS, HIDDEN, DIRICHLET = 20, (200, 200), 0.5
CENTRAL_EPOCHS = {"central": 5, "central-longest": 10}  # the second has the best held-out accuracy
LOCAL_STEPS, LOCAL_BATCH = 50, 32


@dataclass(frozen=True)
class Setting:
    """How the clients of a split learn."""

    asked: int  # clients in a round
    epochs: int  # images that all clients see, in central training's epochs
    momentum: float  # of the server
    local: dict[str, Any]  # options of a client's training


SETTINGS = {
    "equal": Setting(5, 12, 0.7, {"learning_rate": 2e-3}),
    "skewed": Setting(20, 12, 0.9, {"learning_rate": 2e-3}),
}


def equal_parts(labels: Tensor, generator: torch.Generator) -> list[Tensor]:
    """The indices of each client's images: random parts of one size."""
    return list(torch.randperm(len(labels), generator=generator).chunk(CLIENTS))


def skewed_parts(labels: Tensor, generator: torch.Generator) -> list[Tensor]:
    """The same, where clients have different shares of each class."""
    draw = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
    parts: list[list[Tensor]] = [[] for _ in range(CLIENTS)]
    for label in range(int(labels.max()) + 1):
        of = (labels == label).nonzero()[:, 0]
        ends = (draw.dirichlet([DIRICHLET] * CLIENTS).cumsum() * len(of)).round().astype(int)[:-1]
        shares = of[torch.randperm(len(of), generator=generator)].tensor_split(torch.from_numpy(ends))
        for part, share in zip(parts, shares, strict=True):
            part.append(share)
    return [torch.cat(part) for part in parts]


SPLITS = {"equal": equal_parts, "skewed": skewed_parts}


def local_steps(net: fo.Network, images: Tensor, labels: Tensor, seed: int, options: dict[str, Any]) -> None:
    """What a client does with its images in a round."""
    online, generator = fo.training.Online(net, seed=seed, **options), torch.Generator().manual_seed(seed)
    count = LOCAL_BATCH * LOCAL_STEPS
    passes = 1 + count // len(labels)
    order = torch.cat([torch.randperm(len(labels), generator=generator) for _ in range(passes)])
    for drawn in order[:count].split(LOCAL_BATCH):
        online.learn(images[drawn], labels[drawn])


def federated(train: Images, test: Images, rule: str, split: str, seed: int) -> dict[str, Any]:
    """The test accuracy in % after the last round, and the images and bytes that it took."""
    generator, setting = torch.Generator().manual_seed(seed), SETTINGS[split]
    parts = [part for part in SPLITS[split](train.labels, generator) if len(part)]
    asked = min(setting.asked, len(parts))
    net = network(train, rule, seed)
    net.prepare.fit(train.images)
    net.class_names = train.classes
    server = [weight.detach().clone() for weight in net.parameters()]
    speed = [torch.zeros_like(weight) for weight in server]
    rounds = math.ceil(setting.epochs * len(train) / (asked * LOCAL_STEPS * LOCAL_BATCH))
    for turn in range(rounds):
        local = {**setting.local, "learning_rate": setting.local["learning_rate"] * (1 - turn / rounds)}
        clients = torch.randperm(len(parts), generator=generator)[:asked].tolist()
        images = sum(len(parts[client]) for client in clients)
        step = [torch.zeros_like(weight) for weight in server]  # from the server's weights to the clients' mean
        for client in clients:
            put(net, server)
            part = parts[client]
            local_steps(net, train.images[part], train.labels[part], seed + 1000 * turn + client, local)
            for sum_, own, given in zip(step, net.parameters(), server, strict=True):
                sum_.add_(own.detach() - given, alpha=len(part) / images)
        for weight, fast, own in zip(server, speed, step, strict=True):
            fast.mul_(setting.momentum).add_(own)
            weight.add_(own).add_(fast, alpha=setting.momentum)
    put(net, server)
    sent = sum(weight.numel() * weight.element_size() for weight in server)
    seen = rounds * asked * LOCAL_STEPS * LOCAL_BATCH
    accuracy = 100 * fo.evaluate(net, test).accuracy
    return {"accuracy": accuracy, "images": seen, "rounds": rounds, "bytes_a_round": 2 * asked * sent}


def put(net: fo.Network, weights: Sequence[Tensor]) -> None:
    """Gives a network these weights."""
    for own, given in zip(net.parameters(), weights, strict=True):
        own.data.copy_(given)


def network(train: Images, rule: str, seed: int) -> fo.Network:
    made = fo.rules.make(rule, classes=len(train.classes))
    return fo.mlp(train.shape, HIDDEN, rule=made, seed=seed)


def central(train: Images, test: Images, rule: str, epochs: int, seed: int) -> dict[str, Any]:
    """The test accuracy in % of training on all images in one place."""
    net = network(train, rule, seed)
    fo.fit(net, train, epochs=epochs, seed=seed, crop=0, flip="none")
    return {"accuracy": 100 * fo.evaluate(net, test).accuracy, "images": epochs * len(train)}


def content(rule: str, arms: dict[str, dict[str, Any]]) -> str:
    """What record.py takes."""
    behind = {
        f"points-behind/{arm}/{base}": arms[base]["accuracy"] - arms[arm]["accuracy"]
        for arm in SPLITS
        for base in CENTRAL_EPOCHS
        if arm in arms and base in arms
    }
    options = {"rule": rule, "hidden": HIDDEN, "clients": CLIENTS, "dirichlet": DIRICHLET}
    options |= {"local_steps": LOCAL_STEPS, "local_batch": LOCAL_BATCH, "epochs": CENTRAL_EPOCHS}
    options |= {"settings": {split: asdict(setting) for split, setting in SETTINGS.items()}}
    line = {"kind": "federated", "command": f"python benchmarks/federated.py OUT --rule {rule}", "options": options}
    line["machine"] = {"torch": torch.__version__, "threads": 1}
    return json.dumps({**line, "ratios": behind, "arms": arms}) + "\n"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out", type=Path)
    options.add_argument("--rule", default="hyperspherical")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--arms", nargs="+", choices=(*CENTRAL_EPOCHS, *SPLITS), default=(*CENTRAL_EPOCHS, *SPLITS))
    chosen = options.parse_args()
    torch.set_num_threads(1)
    train, _, test = fo.data.load("fashion-mnist")
    arms = json.loads(chosen.out.read_text(encoding="utf-8"))["arms"] if chosen.out.exists() else {}
    for arm in chosen.arms:
        rows = []
        for seed in range(chosen.seeds):
            if arm in SPLITS:
                rows.append(federated(train, test, chosen.rule, arm, seed))
            else:
                rows.append(central(train, test, chosen.rule, CENTRAL_EPOCHS[arm], seed))
            print(seed, arm, rows[-1], file=sys.stderr, flush=True)
        each = [row["accuracy"] for row in rows]
        arms[arm] = {**rows[0], "accuracy": statistics.mean(each), "each": each}
        chosen.out.write_text(content(chosen.rule, arms), encoding="utf-8")


if __name__ == "__main__":
    main()
