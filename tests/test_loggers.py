"""Loggers: TensorBoard itself, the others against a module with the same three functions."""

import sys
import types
import warnings

import pytest

from forwardonly import cli
from forwardonly.training import StepEvent
from forwardonly.training.runs.loggers import logger, scalars

TRAIN = ["train", "--epochs", "2", "--hidden", "10", "10", "--validation", "100"]


@pytest.fixture
def tracker(monkeypatch):
    """A stand-in for wandb and trackio that remembers its calls."""
    calls = []
    module = types.SimpleNamespace(
        init=lambda **given: calls.append(("init", given)),
        log=lambda row: calls.append(("log", row)),
        finish=lambda: calls.append(("finish", None)),
    )
    for name in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, module)
    return calls


@pytest.mark.parametrize("kind", ["wandb", "trackio"])
def test_each_epoch_reaches_the_tracker(tracker, tmp_path, kind):
    assert cli.main([*TRAIN, "--log", kind, "--out", str(tmp_path / "run")]) == 0
    assert [name for name, _ in tracker] == ["init", "log", "log", "finish"]
    start, row = tracker[0][1], tracker[2][1]
    assert start["name"] == "run" and start["config"]["learning_rate"] > 0
    assert row["epoch"] == 1 and 0 < row["validation_accuracy"] <= 1
    assert {"loss/block_1", "loss/block_2", "block_accuracy/block_2"} <= set(row)


def test_the_tracker_is_finished_after_an_error(tracker, tmp_path):
    with pytest.raises(KeyboardInterrupt), logger("wandb", tmp_path, {}) as note:
        note(StepEvent(1, 2, {"epoch": 0, "loss": [1.0]}))
        raise KeyboardInterrupt
    assert [name for name, _ in tracker] == ["init", "log", "finish"]


def test_tensorboard_holds_every_epoch(tmp_path):
    run = tmp_path / "run"
    assert cli.main([*TRAIN, "--log", "tensorboard", "--out", str(run)]) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the reader, which only this test uses
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(run / "tensorboard"))
        events.Reload()
    assert [event.step for event in events.Scalars("validation_accuracy")] == [0, 1]
    assert "loss/block_2" in events.Tags()["scalars"]


def test_nothing_is_written_elsewhere_by_default(tmp_path):
    assert cli.main([*TRAIN, "--out", str(tmp_path / "run")]) == 0
    assert not (tmp_path / "run/tensorboard").exists()
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 2


def test_a_missing_package_is_named_before_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    assert cli.main([*TRAIN, "--log", "trackio", "--out", str(tmp_path / "run")]) == 2
    assert "trackio is not installed: pip install trackio" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_scalars_of_a_row():
    row = {"epoch": 3, "loss": [0.5, 0.25], "seconds": 2, "free_riding": {"x": 1}, "names": ["a"]}
    assert scalars(row) == {"loss/block_1": 0.5, "loss/block_2": 0.25, "seconds": 2.0}


def test_a_block_that_waits_takes_no_other_blocks_loss_with_it():
    assert scalars({"loss": [0.5, None, 0.25]}) == {"loss/block_1": 0.5, "loss/block_3": 0.25}
