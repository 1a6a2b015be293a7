"""Accuracy after new classes are added to a trained network, by prototypes and by fine-tuning with backprop.

Prototypes are made with statistics of the old classes (`fo.summarise`), and without.

    python benchmarks/new_class.py OUT.json --data mnist --rule backprop    one class from ten examples
    python benchmarks/new_class.py OUT.json --data cifar-100                ten classes, then ten more at a time

OUT.json is what `record.py --timing` takes; it is written after every network. FORWARDONLY_DATA names the folder of the
data. Nothing was chosen by test images. How long to fine-tune, and how fast, was chosen by 5,000 held-out training
images of MNIST and Fashion-MNIST, old classes included; on CIFAR-100 the defaults hold.
"""

import argparse
import copy
import json
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import forwardonly as fo
from forwardonly.data import Images

EXAMPLES, MEMORY = 10, 20  # of the new class; of each old class, where old data are kept
NEW = {"mnist": (0, 3, 1, 4, 2), "fashion-mnist": (0, 3, 6, 9)}  # the classes that are added
EPOCHS = 5
HIDDEN = (300, 300)
TUNING = {"plain": (20, 1e-4), "memory": (100, 1e-4)}  # steps and learning rate of fine-tuning
BATCH = 64  # of fine-tuning
DRAWS = 3  # of examples
STEP, FIRST_EPOCHS, STEP_EPOCHS = 10, 10, 3  # classes of a step; epochs of the first step and of others


def network(shape: Sequence[int], rule: str, classes: int, seed: int, body: fo.bodies.Body) -> fo.Network:
    return fo.build(body, shape, rule=fo.rules.make(rule, classes=classes), seed=seed)


def grown(net: fo.Network, names: Sequence[str], body: fo.bodies.Body, seed: int) -> fo.Network:
    """A backprop network of more classes, whose other weights and first outputs are those of `net`."""
    more = network(net.shape, "backprop", len(names), seed, body)
    state, old = more.state_dict(), net.state_dict()
    for name, tensor in state.items():
        tensor[: net.classes].copy_(old[name]) if ".rule.classifier." in name else tensor.copy_(old[name])
    more.prepare.input, more.class_names = net.prepare.input, tuple(names)
    return more


def tune(net: fo.Network, images: torch.Tensor, labels: torch.Tensor, steps: int, rate: float, seed: int) -> None:
    """Fine-tunes by backprop on batches drawn from labelled images."""
    online = fo.training.Online(net, seed=seed, learning_rate=rate)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        drawn = torch.randperm(len(labels), generator=generator)[:BATCH]
        online.learn(images[drawn], labels[drawn])


def some(images: Images, labels: Iterable[int], count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of `count` random images of each class."""
    generator, kept = torch.Generator().manual_seed(seed), []
    for label in labels:
        of = (images.labels == label).nonzero()[:, 0]
        kept.append(of[torch.randperm(len(of), generator=generator)[:count]])
    chosen = torch.cat(kept)
    return images.images[chosen], images.labels[chosen]


def right(net: fo.Network, images: Images, new: Sequence[str]) -> dict[str, float]:
    """Shares in % of the images of old, of new and of all classes that the network gets right."""
    confusion, names = fo.evaluate(net, images).confusion, net.class_names or ()
    hit, count = confusion.diagonal(), confusion.sum(1)
    is_new = torch.tensor([name in new for name in names])
    chosen = {"old": ~is_new, "new": is_new, "all": torch.ones_like(is_new)}
    return {part: 100 * float(hit[of].sum() / count[of].sum()) for part, of in chosen.items() if of.any()}


def one_class(train: Images, test: Images, new: int, seed: int, rule: str) -> dict[str, list[dict[str, float]]]:
    """Shares right before and after a class is added to a network of the others; one each of `DRAWS` of examples."""
    name, body = train.classes[new], fo.bodies.MLP(hidden=HIDDEN)
    order = [*(label for label in range(len(train.classes)) if label != new), new]  # the new class is the last
    train, test, last = train.of_classes(order), test.of_classes(order), len(order) - 1
    old, found = train.of_classes(range(last)), {}
    net = network(train.shape, rule, last, seed, body)
    fo.fit(net, old, epochs=EPOCHS, seed=seed)
    if rule == "hyperspherical":
        knowing = copy.deepcopy(net)
        fo.summarise(knowing, old)
    found[f"{rule}/before"] = [right(net, test.of_classes(range(last)), [])]
    for draw in range(DRAWS):
        ten, kept = some(train, [last], EXAMPLES, draw), some(train, range(last), MEMORY, draw)
        if rule == "hyperspherical":
            for arm, trained in {"without": net, "added": knowing}.items():
                more = copy.deepcopy(trained)
                fo.add_class(more, ten[0], name)
                found.setdefault(f"hyperspherical/{arm}", []).append(right(more, test, [name]))
            continue
        for arm, (steps, rate) in TUNING.items():
            more = grown(net, train.classes, body, seed)
            images, labels = ten if arm == "plain" else map(torch.cat, zip(ten, kept, strict=True))
            tune(more, images, labels, steps, rate, draw)
            found.setdefault(f"backprop/{arm}", []).append(right(more, test, [name]))
    return found


def whole(train: Images, seed: int, rule: str) -> fo.Network:
    """A network that has learned all classes at once."""
    net = network(train.shape, rule, len(train.classes), seed, fo.bodies.MLP(hidden=HIDDEN))
    fo.fit(net, train, epochs=EPOCHS, seed=seed)
    return net


def in_steps(train: Images, test: Images, seed: int, rule: str) -> Iterator[tuple[str, list[dict[str, float]]]]:
    """Of each arm the shares right after every step, in which ten classes of a hundred are added."""
    names, body = train.classes, fo.bodies.CNN(width=0.25)
    first = network(train.shape, rule, STEP, seed, body)
    fo.fit(first, train.of_classes(range(STEP)), epochs=FIRST_EPOCHS, seed=seed)
    if rule == "hyperspherical":
        fo.summarise(first, train.of_classes(range(STEP)))

    def seen(net: fo.Network, upto: int) -> dict[str, float]:
        return right(net, test.of_classes(range(upto)), names[upto - STEP : upto])

    for count in (EXAMPLES, 500) if rule == "hyperspherical" else ():
        net = copy.deepcopy(first)
        rows = [seen(net, STEP)]
        for start in range(STEP, len(names), STEP):
            for label in range(start, start + STEP):
                fo.add_class(net, some(train, [label], count, seed)[0], names[label])
            rows.append(seen(net, start + STEP))
        yield f"hyperspherical/added-{count}", rows
    for arm in ("memory", "plain") if rule == "backprop" else ():
        net = first
        rows = [seen(net, STEP)]
        for start in range(STEP, len(names), STEP):
            net = grown(net, names[: start + STEP], body, seed)
            parts = [some(train, range(start, start + STEP), 500, seed)]
            parts += [some(train, range(start), MEMORY, seed)] if arm == "memory" else []
            images, labels = map(torch.cat, zip(*parts, strict=True))
            fo.fit(net, Images(images, labels, names[: start + STEP], train.name), epochs=STEP_EPOCHS, seed=seed)
            rows.append(seen(net, start + STEP))
        yield f"backprop/{arm}", rows
    net = network(train.shape, rule, len(names), seed, body)
    fo.fit(net, train, epochs=STEP_EPOCHS, seed=seed)
    yield f"{rule}/full", [seen(net, len(names))]


def content(data: str, command: str, settings: dict[str, Any], rows: dict[str, list[dict[str, float]]]) -> str:
    """What record.py takes: of each arm the means in % over its rows, and these."""
    arms = {}
    for arm, own in rows.items():
        means = {part: statistics.mean(row[part] for row in own) for part in own[0]}
        arms[arm] = {**means, "each": [{part: round(value, 3) for part, value in row.items()} for row in own]}
    machine = {"torch": torch.__version__, "threads": 1}
    line = {"kind": "new-class", "command": command, "machine": machine, "options": {"data": data, **settings}}
    return json.dumps({**line, "ratios": {}, "arms": arms}) + "\n"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out", type=Path)
    options.add_argument("--data", choices=("mnist", "fashion-mnist", "cifar-100"), default="mnist")
    options.add_argument("--seeds", type=int, default=3, help="of networks")
    options.add_argument("--rule", choices=("hyperspherical", "backprop"), default="hyperspherical")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    command = f"python benchmarks/new_class.py OUT --data {chosen.data} --rule {chosen.rule} --seeds {chosen.seeds}"
    rows: dict[str, list[dict[str, float]]] = {}
    train, _, test = fo.data.load(chosen.data)
    if chosen.data == "cifar-100":
        settings = {"body": "cnn, width 0.25", "epochs": [FIRST_EPOCHS, STEP_EPOCHS], "memory": MEMORY}
        settings |= {"seeds": chosen.seeds, "accuracy_after_each_step": (steps := {})}
        for seed in range(chosen.seeds):
            for arm, own in in_steps(train, test, seed, chosen.rule):
                rows.setdefault(arm, []).append(own[-1])
                steps.setdefault(arm, []).append([round(row["all"], 3) for row in own])
                print(seed, arm, own[-1], file=sys.stderr, flush=True)
                chosen.out.write_text(content(chosen.data, command, settings, rows), encoding="utf-8")
        return
    settings = {"hidden": HIDDEN, "epochs": EPOCHS, "examples": EXAMPLES, "memory": MEMORY, "draws": DRAWS}
    settings |= {"tuning": TUNING, "seeds": chosen.seeds, "classes": NEW[chosen.data]}
    for seed in range(chosen.seeds):
        for new in NEW[chosen.data]:
            name = train.classes[new]
            found = one_class(train, test, new, seed, chosen.rule)
            for arm, own in found.items():
                rows.setdefault(arm, []).extend(own)
            print(seed, name, {arm: own[0] for arm, own in found.items()}, file=sys.stderr, flush=True)
            chosen.out.write_text(content(chosen.data, command, settings, rows), encoding="utf-8")
    for seed in range(chosen.seeds):
        net = whole(train, seed, chosen.rule)
        rows.setdefault(f"{chosen.rule}/full", []).extend(
            right(net, test, [train.classes[new]]) for new in NEW[chosen.data]
        )
        chosen.out.write_text(content(chosen.data, command, settings, rows), encoding="utf-8")


if __name__ == "__main__":
    main()
