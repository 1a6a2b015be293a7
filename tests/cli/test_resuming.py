"""Resuming by a command: only as the run was started, elsewhere, for longer, and after Ctrl-C."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from .conftest import SMALL, command, folder_of_images


def test_a_run_is_resumed_by_the_command_that_started_it(refused, trained):
    says = refused("tune", "--model", "timm:resnet18", "--resume", "--out", trained)
    assert "was started by `forwardonly train`: resume it by that command" in says


def test_resuming_with_other_options_is_refused(refused, trained):
    argv = ["train", "--resume", "--out", trained]
    assert "rule margin" in refused(*argv, "--rule.margin", 0.9)
    assert "--rule hyperspherical" in refused(*argv, "--rule", "ff")
    assert "body hidden" in refused(*argv, "--hidden", 7)
    assert "validation" in refused(*argv, "--validation", 7)
    assert "epochs" in refused(*argv, "--epochs", 5)


def test_a_run_goes_on_elsewhere(forwardonly, refused, elsewhere):
    """Another folder of the data, another device, and more epochs; but not with other images."""
    pets = folder_of_images(elsewhere / "pets")
    line = ["train", "--data", "pets", "--device", "cpu", *SMALL, "--batch-size", 4, "--out", "r"]
    assert forwardonly(*line, "--epochs", 2)[0] == 0
    before = json.loads(Path("r/config.json").read_text())
    pets.rename(elsewhere / "moved")
    assert "pets" in refused("train", "--resume", "--out", "r")
    folder_of_images(elsewhere / "other", each=9)
    says = refused("train", "--resume", "--out", "r", "--data", "other", "--epochs", 3)
    assert "learned from other images" in says and "14 of other" in says
    more = ["--device", "auto", "--epochs", 4, "--validate-every", 2, "--checkpoint-every", 3, "--data-dir", "x"]
    status, _, err = forwardonly("train", "--resume", "--out", "r", "--data", "moved", *more)
    assert status == 0, err
    assert "r goes on to 4 epochs, not 2: from where it stands, the learning rate follows the schedule" in err
    after = json.loads(Path("r/config.json").read_text())
    assert after["data"]["name"] == str(elsewhere / "moved") and after["training"]["epochs"] == 4
    assert after["training"]["device"] == "auto" and after["network"] == before["network"]
    assert len(Path("r/metrics.jsonl").read_text().splitlines()) == 4
    assert forwardonly("evaluate", "r")[0] == 0


def test_a_config_that_is_not_ours_is_refused(refused, trained, elsewhere):
    config = json.loads((trained / "config.json").read_text())
    (elsewhere / "r").mkdir()
    for damage in ({"data": 3}, {"training": {"wings": 2}}, {"network": {"rule": {"name": "hyperspherical", "x": 1}}}):
        (elsewhere / "r/config.json").write_text(json.dumps({**config, **damage}))
        assert "cannot resume" in refused("train", "--resume", "--out", "r")


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_goes_on_to_the_same_end(forwardonly, elsewhere):
    options = ["--epochs", "40", "--seed", "1", "--hidden", "60", "60", "--precision", "fp32"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as in this process, so that sums are in the same order
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen(command("train", *options, "--json"), **pipes) as process:
        metrics = elsewhere / "runs/digits-hyperspherical-seed1/metrics.jsonl"
        deadline = time.monotonic() + 60
        while not metrics.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.count("\n") == 1 and "--resume" in err and "runs/digits-hyperspherical-seed1" in err
    assert not (metrics.parent / "result.json").exists()

    status, out, _ = forwardonly("train", "--resume", "--seed", "1", "--json")
    assert status == 0 and json.loads(out)["epochs"] == 40
    assert forwardonly("train", *options, "--out", "straight")[0] == 0
    assert (metrics.parent / "model.safetensors").read_bytes() == Path("straight/model.safetensors").read_bytes()
