"""Federated averaging beside central training: 20 clients that keep their images, simulated in one process.

    python benchmarks/federated.py OUT.json [--rule hyperspherical] [--seeds 3] [--arms equal ...]

In a round every client that is asked takes the server's weights, trains some steps on its own images with an optimiser
that begins anew, and sends its weights back (McMahan et al. 2017, arXiv 1602.05629). The server takes a step to their
mean, weighted by images, with Nesterov momentum (as Reddi et al. 2021, arXiv 2003.00295, take the way to the mean for a
gradient). The clients' rate falls to 0 over the rounds. The images are Fashion-MNIST's, parted at random in equal
parts, or, of each class, in shares drawn from a Dirichlet distribution of 0.5. Of how the images are standardised the
server needs only each client's sums, so that is as in central training. The clients of a round are computed at once.
Settings were chosen by 5,000 held-out training images and seed 7, which is not among the reported seeds. OUT.json is
what `record.py --timing` takes; it keeps arms that are not named.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

import forwardonly as fo
from forwardonly.data import Images
from forwardonly.training.batch import Batch

CLIENTS, HIDDEN, DIRICHLET, BATCH = 20, (200, 200), 0.5, 32
CENTRAL_EPOCHS = {"central": 5, "central-longest": 10}


@dataclass(frozen=True)
class Setting:
    """How the clients of a split learn."""

    epochs: int  # images that all clients see, in central training's epochs
    asked: int  # clients in a round
    steps: int  # of a client in a round
    momentum: float  # of the server
    optimiser: Callable[..., torch.optim.Optimizer]  # of a client
    options: dict[str, float]


SETTINGS = {
    "equal": Setting(12, 5, 50, 0.7, torch.optim.AdamW, {"lr": 2e-3, "weight_decay": 0.1}),
    "skewed": Setting(40, 20, 20, 0.9, torch.optim.SGD, {"lr": 0.2}),
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


class Losses(nn.Module):
    """The sum of all blocks' losses: with a wall behind each block, its gradient is that of each block's own loss."""

    def __init__(self, net: fo.Network) -> None:
        super().__init__()
        self.net = net

    def forward(self, prepared: Tensor, labels: Tensor) -> Tensor:
        batch, losses = Batch(prepared, labels), []
        for block in self.net.row:
            activation, loss, goodness = block.judge(*batch)
            batch = batch.behind(block, activation, goodness)
            losses.append(loss)
        return torch.stack(losses).sum()


def local_training(
    losses: Losses, images: Tensor, labels: Tensor, order: Tensor, optimiser: torch.optim.Optimizer
) -> None:
    """What K clients do in a round, all at once, with stacked weights; `order` (steps, K, batch) are their images."""
    names = [name for name, _ in losses.named_parameters()]
    stacked = optimiser.param_groups[0]["params"]

    def loss(weights: Sequence[Tensor], own: Tensor, targets: Tensor) -> Tensor:
        return functional_call(losses, dict(zip(names, weights, strict=True)), (own, targets))

    for indices in order:
        vmap(loss)(stacked, images[indices], labels[indices]).sum().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def drawn(part: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` images of a client: all of them in random order, as often as that takes."""
    passes = 1 + count // len(part)
    return torch.cat([part[torch.randperm(len(part), generator=generator)] for _ in range(passes)])[:count]


def federated(train: Images, test: Images, rule: str, split: str, seed: int) -> dict[str, Any]:
    """The test accuracy in % after the last round, and the images and bytes that it took."""
    generator, setting = torch.Generator().manual_seed(seed), SETTINGS[split]
    parts = [part for part in SPLITS[split](train.labels, generator) if len(part)]
    asked, a_round = min(setting.asked, len(parts)), setting.steps * BATCH
    net = network(train, rule, seed)
    net.prepare.fit(train.images)
    net.class_names = train.classes
    net.train()
    prepared = torch.cat([net.prepare(some) for some in train.images.split(1000)])
    losses, server = Losses(net), [weight.detach() for weight in net.parameters()]
    speed = [torch.zeros_like(weight) for weight in server]
    rounds = math.ceil(setting.epochs * len(train) / (asked * a_round))
    for turn in range(rounds):
        clients = torch.randperm(len(parts), generator=generator)[:asked].tolist()
        shares = torch.tensor([float(len(parts[client])) for client in clients])
        order = torch.stack([drawn(parts[client], a_round, generator) for client in clients])
        order = order.view(asked, setting.steps, BATCH).transpose(0, 1)
        stacked = [weight.repeat(asked, *[1] * weight.dim()).requires_grad_() for weight in server]
        options = {**setting.options, "lr": setting.options["lr"] * (1 - turn / rounds)}
        local_training(losses, prepared, train.labels, order, setting.optimiser(stacked, **options))
        for weight, fast, own in zip(server, speed, stacked, strict=True):
            step = torch.tensordot(shares / shares.sum(), own.detach(), 1) - weight
            fast.mul_(setting.momentum).add_(step)
            weight.add_(step).add_(fast, alpha=setting.momentum)
    sent = sum(weight.numel() * weight.element_size() for weight in server)
    accuracy = 100 * fo.evaluate(net, test).accuracy
    return {
        "accuracy": accuracy,
        "images": rounds * asked * a_round,
        "rounds": rounds,
        "bytes_a_round": 2 * asked * sent,
    }


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
    options |= {"local_batch": BATCH, "epochs": CENTRAL_EPOCHS}
    settings = {split: asdict(setting) for split, setting in SETTINGS.items()}
    options["settings"] = {split: {**own, "optimiser": own["optimiser"].__name__} for split, own in settings.items()}
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
