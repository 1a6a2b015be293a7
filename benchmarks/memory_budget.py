"""A network that does not fit in the memory it is given: 200 blocks, trained within a budget.

    python benchmarks/memory_budget.py --budget 600MiB --out memory-budget.json

Runs `forwardonly train` in a fresh process with `--memory-budget` and, for comparison, in another without, and notes
the most memory that each process had resident (VmHWM), the accuracy and the seconds; the bytes of the weights
and of AdamW's two moments stand beside it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import forwardonly as fo
from forwardonly.bench.speed import machine
from forwardonly.system.memory import parse_bytes

BLOCKS, UNITS = 200, 500


def train(folder: Path, epochs: int, budget: str | None) -> dict[str, Any]:
    """`result.json`'s object of a run in a fresh process, and its command."""
    words = [
        "train",
        "--data",
        "digits",
        "--rule",
        "hyperspherical",
        "--body",
        "mlp",
        "--hidden",
        *[str(UNITS)] * BLOCKS,
    ]
    words += ["--epochs", str(epochs), "--batch-size", "128"]
    words += [] if budget is None else ["--memory-budget", budget]
    call = [sys.executable, "-m", "forwardonly", *words, "--out", str(folder), "--json"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    result = json.loads(done.stdout)
    command = "forwardonly " + " ".join(words).replace(" ".join([str(UNITS)] * BLOCKS), f"{UNITS} ({BLOCKS} times)")
    kept = ("test_accuracy", "seconds", "peak_memory_bytes", "plan", "precision", "device")
    return {"command": command, **{name: result[name] for name in kept if name in result}}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    asked.add_argument("--budget", default="600MiB", help="for the run that has one")
    asked.add_argument("--epochs", type=int, default=3, help="passes over digits' 1,437 images")
    asked.add_argument("--out", type=Path, required=True, help="JSON file")
    chosen = asked.parse_args()
    layers = fo.bodies.MLP(hidden=(UNITS,) * BLOCKS)
    with torch.device("meta"):
        network = fo.build(layers, (1, 8, 8), rule=fo.rules.Hyperspherical(classes=10))
    weights = sum(parameter.numel() for parameter in network.parameters())
    with tempfile.TemporaryDirectory(dir=chosen.out.parent) as folder:
        within = train(Path(folder) / "within", chosen.epochs, chosen.budget)
        without = train(Path(folder) / "without", chosen.epochs, None)
    result = {
        "blocks": BLOCKS,
        "weights_and_state_bytes": 3 * 4 * weights,
        "budget_bytes": parse_bytes(chosen.budget),
        "within": within,
        "without": without,
        "seconds_ratio": within["seconds"] / without["seconds"],
        "machine": machine(torch.device("cpu")),
    }
    chosen.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
