"""Kills trainings at random moments, many times, and compares what they end with to a run that was left alone.

    python benchmarks/soak.py --kills 200 --out soak.json

In each of four ways (one process; 2 that share the data; 2 that share the layers; 2 x 2 that share both) a training is
killed by SIGKILL and resumed again and again until it is done, then the next one begins, until there have been so many
kills. Bits of weights and history count. The trainings are those of `tests/parallel/crew.py`, whose processes are
forks, so that most of the time goes into training rather than into starting Python; 20 kills of the first three ways
belong to the usual tests.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from forwardonly.bench.speed import machine

WAYS = {
    "one process": "kill-alone",
    "data, 2": "kill-data",
    "layers, 2": "kill-layers",
    "layers x data, 4": "kill-both",
}
CREW = Path(__file__).parent.parent / "tests" / "parallel" / "crew.py"


def soak(scenario: str, kills: int) -> dict[str, Any]:
    """What became of runs that were killed so many times in all."""
    started = time.perf_counter()
    env = {**os.environ, "OMP_NUM_THREADS": "1", "FORWARDONLY_KILLS": str(kills)}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, str(CREW), scenario, folder], env=env, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{scenario} failed: see above")
    seen = json.loads(done.stdout)
    epochs = seen["epochs"]
    return {
        "kills": seen["kills"],
        "runs": len(seen["runs"]),
        "runs with other bits": sum(run != [0.0, True] for run in seen["runs"]),
        "kills by epochs on record": {str(epoch): epochs.count(epoch) for epoch in sorted(set(epochs))},
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="in each way")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--out", type=Path, help="file for the JSON, beside standard output")
    arguments = parser.parse_args()
    ways = {}
    for way in arguments.ways:
        ways[way] = soak(WAYS[way], arguments.kills)
        print(way, ways[way], file=sys.stderr)
    result = {
        "ways": ways,
        "command": f"python benchmarks/soak.py --kills {arguments.kills}",
        "machine": {**machine(torch.device("cpu")), "cores": os.cpu_count(), "threads": 1},
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")
    if any(way["runs with other bits"] for way in result["ways"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
