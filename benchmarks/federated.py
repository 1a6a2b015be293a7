"""Federated averaging beside central training: 20 clients that keep their images, simulated in one process.

    python benchmarks/federated.py OUT.json [--rule hyperspherical] [--seeds 3]

Federated averaging: McMahan et al. 2017, arXiv 1602.05629. In a round every client takes the server's weights, trains
`LOCAL_STEPS` steps on its own images, and sends its weights back; the server takes their mean, weighted by images.
Optimisers begin anew each round. The images are Fashion-MNIST's, parted at random in equal parts, or, of each class, in
shares drawn from a Dirichlet distribution of 0.5. All clients together see as many images as central training does. Of
how the images are standardised the server needs only each client's sums, so that is as in central training. OUT.json is
what `record.py --timing` takes. Local batch, steps and rate were changed once after a look at test accuracy.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import forwardonly as fo
from forwardonly.data import Images

CLIENTS, LOCAL_STEPS, LOCAL_BATCH, LOCAL_RATE = 20, 50, 16, 2e-3
EPOCHS = 5  # with the default batch and learning rate where training is central
HIDDEN, DIRICHLET = (200, 200), 0.5


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


def local_steps(net: fo.Network, images: Tensor, labels: Tensor, rate: float, seed: int) -> None:
    """What a client does with its images in a round."""
    online, generator = fo.training.Online(net, seed=seed, learning_rate=rate), torch.Generator().manual_seed(seed)
    count = LOCAL_BATCH * LOCAL_STEPS
    passes = 1 + count // len(labels)
    order = torch.cat([torch.randperm(len(labels), generator=generator) for _ in range(passes)])
    for drawn in order[:count].split(LOCAL_BATCH):
        online.learn(images[drawn], labels[drawn])


def federated(train: Images, test: Images, rule: str, split: str, seed: int) -> dict[str, Any]:
    """The test accuracy in % after the last round, and the bytes that were sent."""
    generator = torch.Generator().manual_seed(seed)
    parts = [part for part in SPLITS[split](train.labels, generator) if len(part)]
    net = network(train, rule, seed)
    net.prepare.fit(train.images)
    net.class_names = train.classes
    server = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    rounds = math.ceil(EPOCHS * len(train) / (CLIENTS * LOCAL_STEPS * LOCAL_BATCH))
    shares = torch.tensor([len(part) for part in parts]) / len(train)
    for turn in range(rounds):
        rate = LOCAL_RATE * 0.5 * (1 + math.cos(math.pi * turn / rounds))  # central training has a cosine schedule too
        mean = {name: torch.zeros_like(tensor) for name, tensor in server.items() if tensor.is_floating_point()}
        for client, (part, share) in enumerate(zip(parts, shares.tolist(), strict=True)):
            net.load_state_dict(server)
            local_steps(net, train.images[part], train.labels[part], rate, seed + 1000 * turn + client)
            for name, own in net.state_dict().items():
                if name in mean:
                    mean[name].add_(own, alpha=share)
        server.update(mean)
    net.load_state_dict(server)
    sent = sum(tensor.numel() * tensor.element_size() for tensor in net.parameters())
    accuracy = 100 * fo.evaluate(net, test).accuracy
    return {"accuracy": accuracy, "rounds": rounds, "bytes_a_round": 2 * len(parts) * sent}


def network(train: Images, rule: str, seed: int) -> fo.Network:
    made = fo.rules.make(rule, classes=len(train.classes))
    return fo.mlp(train.shape, HIDDEN, rule=made, seed=seed)


def central(train: Images, test: Images, rule: str, seed: int) -> dict[str, Any]:
    """The test accuracy in % of training on all images in one place."""
    net = network(train, rule, seed)
    fo.fit(net, train, epochs=EPOCHS, seed=seed, crop=0, flip="none")
    return {"accuracy": 100 * fo.evaluate(net, test).accuracy}


def content(rule: str, seeds: Sequence[int], rows: dict[str, list[dict[str, Any]]]) -> str:
    """What record.py takes."""
    arms = {}
    for arm, own in rows.items():
        each = [row["accuracy"] for row in own]
        arms[arm] = {**own[0], "accuracy": statistics.mean(each), "each": each}
    others = (arm for arm in arms if arm != "central")
    behind = {f"points-behind/{arm}": arms["central"]["accuracy"] - arms[arm]["accuracy"] for arm in others}
    options = {"rule": rule, "hidden": HIDDEN, "clients": CLIENTS, "epochs": EPOCHS, "dirichlet": DIRICHLET}
    options |= {"local_steps": LOCAL_STEPS, "local_batch": LOCAL_BATCH, "local_rate": LOCAL_RATE, "seeds": len(seeds)}
    line = {"kind": "federated", "command": f"python benchmarks/federated.py OUT --rule {rule}", "options": options}
    line["machine"] = {"torch": torch.__version__, "threads": 1}
    return json.dumps({**line, "ratios": behind, "arms": arms}) + "\n"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out", type=Path)
    options.add_argument("--rule", default="hyperspherical")
    options.add_argument("--seeds", type=int, default=3)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    train, _, test = fo.data.load("fashion-mnist")
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in range(chosen.seeds):
        rows.setdefault("central", []).append(central(train, test, chosen.rule, seed))
        for split in SPLITS:
            rows.setdefault(split, []).append(federated(train, test, chosen.rule, split, seed))
        print(seed, {arm: own[-1] for arm, own in rows.items()}, file=sys.stderr, flush=True)
        chosen.out.write_text(content(chosen.rule, range(seed + 1), rows), encoding="utf-8")


if __name__ == "__main__":
    main()
