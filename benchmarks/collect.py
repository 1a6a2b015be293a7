"""Writes finished runs of one command into a result file: python benchmarks/collect.py FILE COMMAND RUN...

FILE is made if there is none; an entry with the same command is replaced. COMMAND is the `forwardonly train` call
without seed and folder, RUN the folders of its runs, one a seed. `docs/records.md` and `docs/results.md` rest on these
files.
"""

import argparse
import json
import shlex
import statistics
from datetime import date
from pathlib import Path
from typing import Any

import forwardonly as fo
from forwardonly.network.storage import RESULT, read_config, read_result, write_atomically

KEPT = (
    "seed",
    "test_accuracy",
    "validation_accuracy",
    "block_accuracy",
    "seconds",
    "epochs",
    "precision",
    "device",
    "torch",
    "peak_memory_bytes",
)


def main() -> None:
    """Reads the runs, writes the file, and prints the entry."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("file", type=Path)
    options.add_argument("command")
    options.add_argument("runs", type=Path, nargs="+")
    options.add_argument(
        "--net", required=True, help="what the figure calls the data and the net, such as 'MNIST, MLP'"
    )
    options.add_argument("--hardware", required=True, help="the machine in words, and what else it was doing")
    chosen = options.parse_args()
    found = {"net": chosen.net, **entry(chosen.command, chosen.runs)}
    content: dict[str, Any] = {"results": []}
    if chosen.file.exists():
        content = json.loads(chosen.file.read_text(encoding="utf-8"))
    others = [other for other in content["results"] if other["command"] != found["command"]]
    content = {
        "date": date.today().isoformat(),
        "forwardonly": fo.__version__,
        "hardware": chosen.hardware,
        "results": [*others, found],
    }
    write_atomically(chosen.file, (json.dumps(content, indent=2) + "\n").encode())
    print(json.dumps(found, indent=2))


def entry(command: str, folders: list[Path]) -> dict[str, Any]:
    """What a result file says of a command's runs.

    Raises:
        ValueError: an unfinished run, a run of another rule, body or data set than the command's, or two of one seed.
    """
    runs = []
    words = shlex.split(command)
    for folder in folders:
        config = read_config(folder)
        network = config["network"]
        made = {"--rule": network["rule"]["name"], "--body": network["body"]["name"], "--data": config["data"]["name"]}
        for name, value in made.items():
            if name in words and words[words.index(name) + 1] != value:
                raise ValueError(f"{folder} was trained with {name} {value}, not as the command says.")
        result = read_result(folder)
        if not result:
            raise ValueError(f"{folder} is not finished: it has no {RESULT}.")
        runs.append({name: result[name] for name in KEPT if name in result})
    if len({run["seed"] for run in runs}) < len(runs):
        raise ValueError("Two runs have the same seed: they are one result, not two.")
    accuracies = [run["test_accuracy"] for run in runs]
    return {
        "command": command,
        "n": len(runs),
        "mean": statistics.mean(accuracies),
        "std": statistics.stdev(accuracies) if len(runs) > 1 else None,
        "runs": sorted(runs, key=lambda run: run["seed"]),
    }


if __name__ == "__main__":
    main()
