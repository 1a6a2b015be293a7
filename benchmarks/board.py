"""Writes the table of docs/records.md from the committed result files: python benchmarks/board.py

A row is an entry that `collect.py` wrote. `tests/test_records.py` holds the table to the files.
"""

import json
import shlex
from pathlib import Path
from typing import Any

from forwardonly.cli import train
from forwardonly.cli.parsing import parse

ROOT = Path(__file__).parents[1]
BOARD = ROOT / "docs" / "records.md"
HEAD = "| date | rule | net | data | test % | minutes | hardware | command | result file |\n"


def main() -> None:
    """Replaces the rows between the table's head and the next empty line."""
    rows = []
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        for entry in content.get("results", []) if isinstance(content, dict) else []:
            if "net" in entry and "mean" in entry:
                rows.append(row(entry, content, path))
    rows.sort(key=lambda cells: (cells[3], -float(cells[4].split()[0])))
    before, after = BOARD.read_text(encoding="utf-8").split(HEAD)
    rule, *old = after.splitlines(keepends=True)
    left = [line for line in old if not line.startswith("|")]
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in rows)
    BOARD.write_text(before + HEAD + rule + table + "".join(left), encoding="utf-8")


def row(entry: dict[str, Any], content: dict[str, Any], path: Path) -> list[str]:
    """An entry as the board's cells."""
    words = shlex.split(entry["command"].partition(" train ")[2])  # torchrun may stand in front
    chosen = parse(train.options(words), words, prog="forwardonly train", description="")
    body = vars(chosen.body_options)
    net = chosen.body
    if "hidden" in body:
        net += ", " + "-".join(map(str, body["hidden"]))
    elif body.get("width", 1.0) != 1.0:
        net += f", x {body['width']:g}"
    deviation = "" if entry["std"] is None else f" ± {100 * entry['std']:.2f}"
    return [
        content["date"],
        chosen.rule,
        net,
        chosen.data,
        f"{100 * entry['mean']:.2f}{deviation} (n = {entry['n']})",
        f"{max(run['seconds'] for run in entry['runs']) / 60:.1f}",
        content["hardware"].split(", 24 GiB")[0],
        f"`{entry['command']}`",
        f"[file](../benchmarks/results/{path.name})",
    ]


if __name__ == "__main__":
    main()
