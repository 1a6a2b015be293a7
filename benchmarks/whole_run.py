r"""Whole training runs of a local rule and of backprop by turns, for blocks need not cost the same in every step.

    python benchmarks/whole_run.py --rule best --training '{"delay": 0.2}' --images 500 --turns 4 --out whole-run.json

`bench step` times one step in which all blocks learn. Under `--delay` a run has cheaper ones too; so here both train to
the end of the same schedule, on fewer images, one after the other, as often as there are turns. Backprop has the rule's
own training options, and all threads to one batch. The ratio is the median over turns of that of the two runs of a
turn.
"""

import argparse
import json
import shlex
import statistics
import sys
from datetime import date
from pathlib import Path
from typing import Any

import torch

import forwardonly as fo
from forwardonly.bench.speed import machine


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    asked.add_argument("--rule", default="best")
    asked.add_argument("--options", type=json.loads, default={}, help="JSON object: the rule's own options")
    asked.add_argument("--training", type=json.loads, default={}, help="JSON object: training options of both")
    asked.add_argument("--data", default="cifar-10")
    asked.add_argument("--images", type=int, default=2500, help="the first so many training images")
    asked.add_argument("--epochs", type=int, default=16)
    asked.add_argument("--turns", type=int, default=3)
    asked.add_argument("--threads", type=int, default=2)
    asked.add_argument("--workers", type=int, default=1, help="of the rule's runs; backprop's is one block")
    asked.add_argument("--out", type=Path, required=True, help="JSON file")
    chosen = asked.parse_args()
    torch.set_num_threads(chosen.threads)
    fo.keep_freed_memory()
    train = fo.data.load(chosen.data).train.subset(torch.arange(chosen.images))
    rule: fo.rules.Rule = fo.rules.TABLE[chosen.rule](classes=len(train.classes), **chosen.options)
    backprop = fo.rules.Backprop(classes=rule.classes, label_smoothing=0.05)
    rules: dict[str, fo.rules.Rule] = {chosen.rule: rule, "backprop": backprop}
    training = {
        **fo.rules.training_defaults(rule),
        "crop": 2,
        "flip": "alternating",
        **chosen.training,
        "epochs": chosen.epochs,
    }
    seconds: dict[str, list[float]] = {name: [] for name in rules}
    result: dict[str, Any] = {
        "date": date.today().isoformat(),
        "command": shlex.join(["python", *sys.argv]),
        "body": "six",
        "data": chosen.data,
        "images": len(train),
        "epochs": chosen.epochs,
        "rule": chosen.rule,
        "options": chosen.options,
        "training": training,
        "workers": chosen.workers,
        "machine": machine(torch.device("cpu")),
        "seconds": seconds,
    }
    for turn in range(chosen.turns):
        for name in reversed(rules) if turn % 2 else rules:
            network = fo.build(fo.bodies.Six(), train.shape, rule=rules[name], seed=turn)
            workers = chosen.workers if name == chosen.rule else 1
            seconds[name].append(fo.fit(network, train, **training, workers=workers).result["seconds"])
        ratios = [ours / theirs for ours, theirs in zip(*seconds.values(), strict=True)]
        result["ratio"] = statistics.median(ratios)
        print(f"{ratios[-1]:.3f}, median of {len(ratios)}: {result['ratio']:.3f}", flush=True)
        # after each turn, for a run cut off would lose them all
        chosen.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
