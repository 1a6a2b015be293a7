"""Recipes for time to accuracy: commands that run, figures read from their runs, and the views they name."""

import json

import pytest
import torch

import forwardonly as fo
from forwardonly.cli import main, train
from forwardonly.cli.parsing import parse
from forwardonly.data import Views
from forwardonly.experiments import recipes
from forwardonly.experiments.batch import Job, read_run
from forwardonly.experiments.recipes import fast


@pytest.mark.parametrize("scale", ["quick", "full"])
@pytest.mark.parametrize("name", fast.RECIPES)
def test_both_arms_are_the_same_command_but_for_the_rule(name, scale):
    table = recipes.TABLE[name](scale)
    parsed = []
    for arm in table.arms:
        words = ["--data", table.data[arm.name], *arm.options]
        parsed.append(parse(train.options(words), words, prog="forwardonly train", description=""))
    local, backprop = parsed
    assert backprop.rule == "backprop" != local.rule
    ours, theirs = ({name: vars(vars(arm)[name]) for name in train.GROUPS} for arm in parsed)
    theirs["schedule_and_optimiser"]["delay"] = ours["schedule_and_optimiser"]["delay"]  # of blocks that start late
    assert ours == theirs
    assert vars(local.network) == vars(backprop.network)
    assert local.validation == 0  # all training images are learned from; what was chosen was chosen before
    assert len(table.rows) == 3 * len(table.arms)


def test_rows_are_read_from_the_runs(tmp_path, capsys, monkeypatch):
    quick = {"body": "cnn", "width": 0.1, "epochs": 1, "batch-size": 100, "precision": "fp32"}
    recipe = fast.Fast("digits", {"quick": "nothing"}, {"quick": quick}, Views(shift=1), local={"quick": fast.PLAIN})
    monkeypatch.setitem(fast.RECIPES, "digits-fast", recipe)
    table = fast.table("digits-fast", "quick")
    runs = {}
    for arm in table.arms:
        words = ("--data", "digits", *arm.options)
        assert main(["train", *words, "--out", str(tmp_path / arm.name), "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        runs[arm.name] = read_run(Job(words, tmp_path / arm.name))
        assert runs[arm.name].result["total_seconds"] == shown["total_seconds"] > shown["seconds"]
    values = {row.name: row.figure.of(runs) for row in table.rows}
    assert values["local: test accuracy, %"] == 100 * runs["local"].result["test_accuracy"]
    assert values["local: seconds, files to test figure"] == runs["local"].result["total_seconds"]
    assert 0 < values["local: test accuracy of many views, %"] <= 100


def test_views_of_an_image():
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5)
    seen = Views(shift=1, mirror=True)(images)
    assert len(seen) == 10
    assert torch.equal(seen[0], images)
    assert torch.equal(seen[1][:, :, 1:, 1:], images[:, :, :-1, :-1])
    assert torch.equal(seen[4][:, :, :-1, :-1], images[:, :, 1:, 1:])
    assert torch.equal(seen[5], images.flip(3))
    assert torch.equal(seen[9], seen[4].flip(3))
    assert len(Views()(images)) == 1
    with pytest.raises(ValueError, match="0 or more"):
        Views(shift=-1)


def test_views_are_scored_together(digits):
    network = fo.mlp(digits.test.shape, [20], rule=fo.rules.Projection(classes=10)).eval()
    few = digits.test.subset(torch.arange(50))
    mirrored = few.images.flip(3)
    both = network.readout(network.scores(few.images) + network.scores(mirrored)).argmax(1)
    measured = fo.evaluate(network, few, precision="fp32", views=Views(mirror=True))
    assert measured.accuracy == pytest.approx(float((both == few.labels).float().mean()))
