"""Appends finished runs to `results/runs.jsonl`, or a measured ratio to `results/timings.jsonl`.

    python benchmarks/record.py RUN... --chosen-by none --machine "2 cores of an AMD EPYC (Zen 4, native bf16), 24 GiB"
    python benchmarks/record.py --timing FILE.json --id step/best/six/one-thread

RUN is the folder of a finished run. FILE.json is what `forwardonly bench ... --json`, `benchmarks/whole_run.py` or
another script of this folder printed. Lines are only ever added: what a default was on the day stands in the line.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from lines import ROOT, RUNS, TIMINGS, read

TRAINING = ("training", "recipe")
"""Where `config.json` keeps the training options; the second is what runs before this file was written had."""
NOT_CONFIG = ("data_dir", "classes", "checkpoint_every")
"""What does not decide a result: where the data lie, names of classes, how often a run is saved."""
RATIOS = {"step": "backprop", "checkpointed": "backprop-checkpointed", "": "backprop"}
"""What the ratios of a benchmark's output are to, by their names there."""


def main() -> None:
    """Reads the folders or the file, refuses what is there already, and appends."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("runs", type=Path, nargs="*", metavar="RUN")
    options.add_argument("--timing", type=Path, help="a JSON file that a benchmark printed")
    options.add_argument("--id", help="of a timing; of runs the group, by default RULE/DATA/BODY")
    options.add_argument("--chosen-by", choices=("none", "validation", "test"), help="what chose the runs' settings")
    options.add_argument("--machine", default=platform.processor() or platform.machine(), help="in words")
    options.add_argument("--alone", action=argparse.BooleanOptionalAction, help="whether nothing else ran meanwhile")
    options.add_argument("--precision", choices=("bf16", "fp32"), help="of a timing that does not say")
    options.add_argument("--paper", nargs=3, metavar=("TABLE", "SCALE", "ROW"), help="the recipe's row that these are")
    options.add_argument("--history", action="store_true", help="keep the accuracies after each epoch too")
    options.add_argument("--readout", choices=("sum", "skip-first", "last"), help="measure the networks again by this")
    options.add_argument("--note")
    chosen = options.parse_args()
    if bool(chosen.runs) == bool(chosen.timing):
        options.error("give run folders, or --timing FILE")
    try:
        if chosen.timing:
            content = json.loads(chosen.timing.read_text(encoding="utf-8"))
            append(TIMINGS, [timing_line(content, commit(), chosen)])
        else:
            append(RUNS, [run_line(folder, commit(), chosen) for folder in chosen.runs])
    except ValueError as problem:
        sys.exit(str(problem))


def run_line(folder: Path, at: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """The line of a run folder.

    Raises:
        ValueError: the run is not finished, or nobody says what chose its settings.
    """
    if chosen.chosen_by is None:
        raise ValueError("Say what chose the settings of these runs: --chosen-by none, validation or test.")
    result_file = folder / "result.json"
    if not result_file.exists():
        raise ValueError(f"{folder} is not finished: it has no {result_file.name}.")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    result = json.loads(result_file.read_text(encoding="utf-8"))
    network = config["network"]
    training = next(config[name] for name in TRAINING if name in config)
    resolved = {
        "data": {**config["data"]},
        "body": network.get("body") or of_others(network),
        "rule": network["rule"],
        "training": {**training, "precision": result["precision"], "device": result["device"].partition(",")[0]},
        "readout": network["readout"],
    }
    resolved = {
        part: {name: value for name, value in own.items() if name not in NOT_CONFIG} if isinstance(own, dict) else own
        for part, own in resolved.items()
    }
    if chosen.readout:
        resolved["readout"] = chosen.readout
        result |= {"test_accuracy": reread(folder, config["data"], chosen.readout, result["precision"])}
        result |= {"validation_accuracy": None}
    threads = re.search(r"(\d+) threads", result["device"])
    group = chosen.id or f"{resolved['rule']['name']}/{Path(resolved['data']['name']).stem}/{resolved['body']['name']}"
    line = {
        "id": f"{group}/seed{result['seed']}",
        "commit": at,
        "date": date.fromtimestamp(result_file.stat().st_mtime).isoformat(),
        "machine": chosen.machine,
        "threads": int(threads[1]) if threads else None,
        "alone": chosen.alone,
        "torch": result["torch"],
        "precision": result["precision"],
        "config": resolved,
        "seed": result["seed"],
        **{name: result.get(name) for name in ("test_accuracy", "validation_accuracy", "block_accuracy", "seconds")},
        "peak_memory_bytes": result.get("peak_memory_bytes"),
        "energy_joules": result.get("energy_joules"),
        "chosen_by": chosen.chosen_by,
    }
    if chosen.paper:
        table, scale, row = chosen.paper
        line["paper"] = {"table": table, "scale": scale, "row": row, "value": published(table, scale, row)}
    if "total_seconds" in result:
        line["total_seconds"] = result["total_seconds"]
    probes = folder / "probes.jsonl"
    if probes.exists():
        line["probes"] = [json.loads(row) for row in probes.read_text(encoding="utf-8").splitlines()]
    if chosen.history:
        line["history"] = history(folder)
    if chosen.note:
        line["note"] = chosen.note
    return line


def of_others(network: Mapping[str, Any]) -> dict[str, Any]:
    """What stands for the body of a network that `localize` cut: how its model is built, and the number of blocks."""
    return {"name": network["model"]["name"], **network["model"]["options"], "blocks": len(network["cuts"])}


def reread(folder: Path, data: Mapping[str, Any], readout: Any, precision: str) -> float:
    """Test accuracy of a run's network by a fixed readout, which has no part in training."""
    import forwardonly as fo  # here, as only this option needs it
    from forwardonly.network.readout import Readout

    network = fo.load(folder)
    network.readout = Readout(readout, len(network.row))
    test = fo.data.load(data["name"], data_dir=data["data_dir"], image_size=data["image_size"]).test
    return fo.evaluate(network, test, precision=precision).accuracy


def history(folder: Path) -> list[dict[str, Any]]:
    """Accuracy on the validation images after each epoch at which it was measured."""
    rows = [json.loads(row) for row in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = ("epoch", "validation_accuracy", "block_accuracy")
    return [{name: row[name] for name in kept} for row in rows if row.get("validation_accuracy") is not None]


def timing_line(content: Mapping[str, Any], at: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """The line of a benchmark's output.

    Raises:
        ValueError: it has no id.
    """
    if not chosen.id:
        raise ValueError("A timing needs a name: --id KIND/RULE/NET, and how it was run if that matters.")
    machine = content.get("machine", {})
    of = dict(machine) if isinstance(machine, dict) else {}
    settings = content.get("options", {})
    ratios = {name: value for name, value in content.get("ratios", {}).items() if isinstance(value, int | float)}
    for name, value in content.items():
        if re.fullmatch(r"(\w+_)?ratio", name) and isinstance(value, int | float):
            short = name.removesuffix("ratio").rstrip("_")
            ratios[RATIOS.get(short, short.replace("_", "-"))] = value
    arms = content.get("arms") or {name: {"seconds": own} for name, own in content.get("seconds", {}).items()}
    known = ("date", "command", "note", "kind", "machine", "options", "ratios", "arms", "seconds")
    config = settings or {
        name: own for name, own in content.items() if name not in known and not name.endswith("ratio")
    }
    line = {
        "id": chosen.id,
        "commit": at,
        "date": content.get("date", date.today().isoformat()),
        "machine": chosen.machine,
        "threads": of.get("threads", content.get("threads")),
        "alone": chosen.alone,
        "torch": of.get("torch"),
        "precision": chosen.precision or settings.get("precision"),
        "kind": content.get("kind", chosen.id.partition("/")[0]),
        "command": content.get("command"),
        "config": config,
        "ratios": ratios,
        "arms": arms,
    }
    return {**line, "note": chosen.note} if chosen.note else line


def append(path: Path, lines: list[dict[str, Any]]) -> None:
    """Adds the lines to the file, all or none.

    Raises:
        ValueError: one of them is there already.
    """
    there = read(path) if path.exists() else []
    for line in lines:
        for other in there:
            if same(line, other):
                raise ValueError(
                    f"{path.name} has this already, as {other['id']}: the same config, seed and commit are one result."
                )
            if line["id"] == other["id"]:
                raise ValueError(f"{path.name} has another line {line['id']}: give this one a name of its own by --id.")
        there.append(line)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    print("\n".join(line["id"] for line in lines))


def same(line: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two lines are one run or one measurement."""
    names = ("config", "seed", "commit") if "seed" in line else ("id", "config", "commit", "machine", "threads", "date")
    return all(line[name] == other.get(name) for name in names)


def commit() -> str:
    """The commit of the working tree, marked where tracked files differ from it."""
    return _git("rev-parse", "--short", "HEAD") + ("-dirty" if _git("status", "--porcelain", "-uno", "src") else "")


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def published(table: str, scale: str, row: str) -> float | None:
    """What the paper has in that row.

    Raises:
        ValueError: there is no such table or row.
    """
    from forwardonly.experiments.recipes import TABLE  # here, as only this option needs recipes

    if table not in TABLE:
        raise ValueError(f"There is no table {table!r}, but these: {', '.join(TABLE)}.")
    rows = {line.name: line.paper for line in TABLE[table](scale).rows}  # type: ignore[arg-type]
    if row not in rows:
        raise ValueError(f"{table} has no row {row!r} at scale {scale}, but these: {'; '.join(rows)}.")
    return rows[row]


if __name__ == "__main__":
    main()
