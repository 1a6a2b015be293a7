"""What a command writes to a terminal, to a pipe, and to standard error."""

import json
import os
import subprocess
from pathlib import Path

import pytest

import forwardonly as fo
from forwardonly.cli.screen import Screen

from .conftest import command


def test_a_warning_of_the_library_is_one_line_without_a_path_of_its_code(elsewhere):
    run = ["train", "--hidden", "20", "--out", "r"]
    assert subprocess.run(command(*run, "--epochs", "2"), capture_output=True).returncode == 0
    newest = max(Path("r/checkpoint").iterdir())
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    done = subprocess.run(command(*run, "--epochs", "3", "--resume", "--json"), capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)["epochs"] == 3
    lines = [line for line in done.stderr.splitlines() if "is damaged" in line]
    assert len(lines) == 1 and lines[0].startswith("forwardonly: ") and lines[0].endswith("the one before.")
    assert "Warning" not in done.stderr and ".py" not in done.stderr


def test_a_mistake_as_a_process():
    done = subprocess.run(command("train", "--rule", "xyz"), capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("argv", [["data", "--help"], ["data", "list", "--json"]])
def test_nobody_reading_is_no_error(argv):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command(*argv), stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_progress_on_a_terminal_has_a_bar_and_the_time_left(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Screen().progress("ff on digits") as draw:
        for step in range(1, 11):
            draw(fo.training.StepEvent(step, 10, {"epoch": 0, "loss": [0.5], "seconds": 1.0} if step == 10 else None))
    err = capsys.readouterr().err
    assert "ff on digits" in err and "100%" in err and "0:00:0" in err and "epoch 1: loss 0.500" in err
