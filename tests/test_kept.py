"""A run that has trained keeps its result, whatever fails behind it; and says what did not learn."""

import json
import warnings

import pytest
import safetensors.torch
import torch
from torch import nn

import forwardonly as fo
from forwardonly import cli
from forwardonly.bodies import Layer
from forwardonly.experiments import batch
from forwardonly.network.build import assemble
from forwardonly.training.runs import folder as run_folder


def by_hand(shape=(1, 6, 6)):
    torch.manual_seed(0)
    layers = [Layer(nn.Sequential(nn.Conv2d(fan_in, 4, 3, padding=1), nn.ReLU())) for fan_in in (shape[0], 4)]
    return assemble(layers, shape, fo.rules.Hyperspherical(classes=4))


@pytest.mark.parametrize("schedule", ["simultaneous", "greedy"])
def test_a_network_built_by_hand_leaves_weights_and_figures(images, tmp_path, schedule):
    network = by_hand()
    run = fo.fit(network, images, test=images, out=tmp_path / "r", epochs=2, schedule=schedule)
    assert json.loads((tmp_path / "r/result.json").read_text())["test_accuracy"] == run.result["test_accuracy"]
    assert len((tmp_path / "r/metrics.jsonl").read_text().splitlines()) == len(run.history)
    again = by_hand()
    again.load_state_dict(safetensors.torch.load_file(tmp_path / "r/model.safetensors"))
    assert torch.equal(again.eval().scores(images.images), network.scores(images.images))
    with pytest.raises(ValueError, match="was built by hand, so no config can rebuild it: build it again"):
        fo.load(tmp_path / "r")


def test_a_run_of_a_network_built_by_hand_is_resumed(images, tmp_path):
    def stop(event):
        if event.step == 7:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fo.fit(by_hand(), images, out=tmp_path / "r", epochs=3, batch_size=16, progress=stop)
    resumed, plain = by_hand(), by_hand()
    fo.fit(resumed, images, out=tmp_path / "r", epochs=3, batch_size=16, resume=True)
    fo.fit(plain, images, epochs=3, batch_size=16)
    assert all(torch.equal(*pair) for pair in zip(resumed.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("readout", ["sum", "range"])
def test_a_failed_measurement_does_not_lose_the_run(images, tmp_path, monkeypatch, readout):
    network = fo.mlp(images.shape, [8], rule=fo.rules.Hyperspherical(classes=4), readout=readout)

    def broken(*given, **named):
        raise RuntimeError("out of memory")

    def measure(event):
        if event.row is not None:
            monkeypatch.setattr("forwardonly.training.distributed.team.Team.evaluate", broken)
            monkeypatch.setattr("forwardonly.training.runs.figures.fit_readout", broken)

    with pytest.warns(UserWarning, match="failed: out of memory"):
        run = fo.fit(
            network, images, validation=images, test=images, out=tmp_path / "r", epochs=1, progress=measure
        )  # fmt: skip
    assert run.result["test_accuracy"] is None and len(run.history) == 1
    assert len(run.result["notes"]) == (2 if readout == "sum" else 3)
    assert json.loads((tmp_path / "r/result.json").read_text()) == run.result
    assert torch.equal(fo.load(tmp_path / "r").predict(images.images), network.predict(images.images))


def out_of_memory(*given, **named):
    raise MemoryError("no room for a thousand images")


@pytest.mark.parametrize("broken", ["evaluate", "diagnose"])
def test_a_failed_validation_between_epochs_does_not_stop_the_run(images, tmp_path, monkeypatch, broken):
    """Nor does it change what is learned: a measurement that is broken off leaves the network in evaluation mode."""

    def run(folder):
        rule = fo.rules.Auxiliary(classes=4)  # has batch norm
        network = fo.build(fo.bodies.Conv(depth=2, channels=5), images.shape, rule=rule, seed=1)
        return fo.fit(network, images, validation=images, out=folder, epochs=3, batch_size=16, diagnose=True)

    def half(network, *given, **named):
        network.eval()
        raise MemoryError("no room for a thousand images")

    whole = run(tmp_path / "whole")
    where = "distributed.team.evaluate" if broken == "evaluate" else "runs.figures.diagnose"
    monkeypatch.setattr(f"forwardonly.training.{where}", half)
    with pytest.warns(fo.training.RunWarning, match="failed: no room for a thousand images") as said:
        kept = run(tmp_path / "kept")
    what = {"evaluate": "the validation accuracy", "diagnose": "free-riding"}[broken]
    assert [row["notes"] for row in kept.history] == [
        [f"After an epoch, measuring {what} failed: no room for a thousand images"]
    ] * 3
    assert len(said) == 3 + (broken == "evaluate")  # and at the end
    assert "free_riding" in kept.history[-1] or "validation_accuracy" in kept.history[-1]
    assert [row["loss"] for row in kept.history] == [row["loss"] for row in whole.history]
    weights = kept.network.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in whole.network.state_dict().items())


def test_the_command_tells_of_what_it_could_not_measure(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("forwardonly.training.distributed.team.evaluate", out_of_memory)
    words = ["train", "--epochs", "2", "--hidden", "20", "--validation", "100", "--out", str(tmp_path / "r")]
    assert cli.main(words) == 0
    err = " ".join(capsys.readouterr().err.split())
    assert err.count("After an epoch, measuring the validation accuracy failed: no room for a thousand images") == 2
    assert "After training, measuring the test accuracy failed: no room for a thousand images" in err
    assert "look closer with" in err and "accuracy" in err
    monkeypatch.undo()
    assert cli.main(["train", "--resume", "--out", str(tmp_path / "r"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test_accuracy"] > 0.1


def test_a_comparison_measures_again_what_could_not_be_measured(tmp_path):
    job = batch.Job(("--epochs", "1"), tmp_path)
    (tmp_path / "result.json").write_text('{"test_accuracy": null, "notes": ["After training, it failed."]}')
    assert not job.finished
    with pytest.raises(ValueError, match="has no test accuracy: After training, it failed"):
        batch.read_run(job)


def test_a_failed_write_does_not_lose_the_run(images, tmp_path, monkeypatch):
    def full(*given):
        raise ValueError("Cannot write to r: No space left on device.")

    monkeypatch.setattr(run_folder, "finish", full)
    network = fo.mlp(images.shape, [8], rule=fo.rules.Hyperspherical(classes=4))
    with pytest.warns(UserWarning, match="After training, writing the run failed: Cannot write to r: No space"):
        run = fo.fit(network, images, test=images, out=tmp_path / "r", epochs=2)
    assert run.result["test_accuracy"] == fo.evaluate(network, images).accuracy and len(run.history) == 2
    monkeypatch.undo()
    again = fo.mlp(images.shape, [8], rule=fo.rules.Hyperspherical(classes=4))
    assert fo.fit(again, images, test=images, out=tmp_path / "r", epochs=2, resume=True).result.get("notes") is None
    assert (tmp_path / "r/model.safetensors").exists()


@pytest.mark.parametrize("options", [{"epochs": 1}, {"epochs": 2}, {"epochs": 2, "schedule": "greedy"}], ids=str)
def test_a_loss_that_never_moved_is_named(images, options):
    network = fo.mlp(images.shape, [8, 8], rule=fo.rules.Projection(classes=4))
    linear = network.row[1].body[1]
    nn.init.constant_(linear.bias, -1e6)  # all its units are dead
    nn.init.zeros_(network.row[1].rule.classifier.bias)
    network.row[1].rule.classifier.bias.requires_grad_(False)
    with pytest.warns(
        UserWarning, match="The loss of block 1 stayed at 1.38629 from the first step to the last"
    ) as said:
        run = fo.fit(network, images, batch_size=16, **options)
    assert len(said) == 1 and run.result["notes"] == [str(said[0].message)]


def test_nothing_is_said_of_blocks_that_learn_or_are_frozen(images):
    network = fo.mlp(images.shape, [8, 8], rule=fo.rules.Projection(classes=4))
    network.row[1].requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = fo.fit(network, images, epochs=2, batch_size=80)
    assert "notes" not in run.result
