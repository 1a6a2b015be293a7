"""The board of docs/records.md says what the committed result files say, and its commands are commands."""

import json
import re
import shlex
from pathlib import Path

import pytest

from forwardonly.cli import train
from forwardonly.cli.parsing import parse

ROOT = Path(__file__).parents[1]
BOARD = ROOT / "docs" / "records.md"
COLUMNS = ["date", "rule", "net", "data", "test %", "minutes", "hardware", "command", "result file"]
ACCURACY = re.compile(r"(\d+\.\d\d)(?: ± (\d+\.\d\d))? \(n = (\d+)\)")


def rows():
    """Each row of the board as {column: text}."""
    lines = [line for line in BOARD.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == COLUMNS
    return [dict(zip(COLUMNS, row, strict=True)) for row in cells[2:]]


def recorded(row):
    """The row's result file, and its entry there."""
    content = json.loads((BOARD.parent / re.search(r"\((.+)\)", row["result file"])[1]).read_text(encoding="utf-8"))
    command = row["command"].strip("`")
    (entry,) = [entry for entry in content["results"] if entry["command"] == command]
    return content, entry


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row['data']}, {row['rule']}, {row['net']}")
def test_a_row_is_what_its_result_file_says(row):
    content, entry = recorded(row)
    mean, deviation, count = ACCURACY.fullmatch(row["test %"]).groups()
    assert float(mean) == pytest.approx(100 * entry["mean"], abs=0.0051)
    assert int(count) == entry["n"] == len(entry["runs"])
    accuracies = [run["test_accuracy"] for run in entry["runs"]]
    assert entry["mean"] == pytest.approx(sum(accuracies) / len(accuracies))
    if deviation is None:
        assert entry["std"] is None
    else:
        assert float(deviation) == pytest.approx(100 * entry["std"], abs=0.0051)
    minutes = [run["seconds"] / 60 for run in entry["runs"]]
    assert float(row["minutes"]) == pytest.approx(max(minutes), abs=0.051)
    assert row["date"] == content["date"]
    assert row["hardware"] in content["hardware"]


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row['data']}, {row['rule']}, {row['net']}")
def test_a_rows_command_trains_what_the_row_names(row):
    launcher, _, words = row["command"].strip("`").partition(" train ")
    assert launcher in ("forwardonly", "torchrun --standalone --nproc-per-node 2 -m forwardonly")
    options = [*shlex.split(words), "--out", "somewhere"]
    meant = parse(train.options(options), options, prog="forwardonly train", description="")
    assert [meant.rule, meant.body, meant.data] == [row[name].split(",")[0] for name in ("rule", "net", "data")]


def test_the_board_is_in_order_of_data_and_accuracy():
    order = [(row["data"], -float(row["test %"].split()[0])) for row in rows()]
    assert order == sorted(order)
