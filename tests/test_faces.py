"""The command line, Python and scikit-learn resolve options alike and give the same bits."""

import json
from dataclasses import asdict

import pytest
import torch

import forwardonly as fo
from forwardonly import cli
from forwardonly.estimator import ForwardOnlyClassifier
from forwardonly.training import TrainingConfig

HIDDEN = (20, 12)
ONE_PASS = [
    name
    for name, entry in fo.rules.TABLE.items()
    if issubclass(fo.rules.rule_class(entry), fo.rules.OnePassRule) and not name.startswith("channel")
]


def by_command(folder, capsys, *options):
    assert cli.main(["train", "--hidden", *map(str, HIDDEN), "--out", str(folder), "--json", *options]) == 0
    json.loads(capsys.readouterr().out)
    return fo.load(folder), json.loads((folder / "config.json").read_text())["training"]


def by_python(splits, rule, **options):
    net = fo.mlp(splits.train.shape, HIDDEN, rule=fo.rules.make(rule, classes=len(splits.train.classes)), seed=3)
    fo.fit(net, splits.train, seed=3, **options)
    return net


def same(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name].flatten(), theirs[name].flatten()) for name in ours
    )


@pytest.mark.parametrize("rule", ONE_PASS)
def test_the_three_faces_give_the_same_bits(rule, tmp_path, capsys):
    """With the defaults of the rule and of the data set, batch size among them."""
    splits = fo.data.load("digits")
    command, _ = by_command(tmp_path / "run", capsys, "--rule", rule, "--epochs", "2", "--seed", "3")
    python = by_python(splits, rule, epochs=2)
    pixels = splits.train.images.flatten(1).numpy()
    classifier = ForwardOnlyClassifier(rule, HIDDEN, epochs=2, random_state=3).fit(pixels, splits.train.labels.numpy())
    assert same(command, python)
    assert same(command, classifier.network_)
    predicted = torch.from_numpy(classifier.predict(splits.test.images.flatten(1).numpy()))
    assert torch.equal(predicted, python.predict(splits.test.images))


def test_contrastive_rules_get_the_same_bits_from_command_line_and_python(tmp_path, capsys):
    command, _ = by_command(tmp_path / "run", capsys, "--rule", "ff", "--epochs", "2", "--seed", "3")
    assert same(command, by_python(fo.data.load("digits"), "ff", epochs=2))


def mnist(count):
    """Random images under the name of a set that is known, so that its augmentation holds."""
    pixels = torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return fo.data.Images(pixels, torch.arange(count) % 10, tuple("0123456789"), "mnist")


@pytest.mark.parametrize("schedule", ["simultaneous", "greedy"])
def test_the_command_line_resolves_as_fit_does(monkeypatch, tmp_path, capsys, schedule):
    """The set shifts its images, the rule has a batch size and a delay, and the set is small."""
    train = mnist(200)
    monkeypatch.setattr(fo.data, "load", lambda *_, **__: fo.data.Splits(train, None, train))
    options = ["--rule", "bilinear", "--data", "mnist", "--epochs", "1", "--schedule", schedule, "--clip", "None"]
    command, kept = by_command(tmp_path / "run", capsys, *options, "--seed", "3")
    given = {"epochs": 1, "schedule": schedule, "clip": None}
    config = TrainingConfig.resolve(fo.rules.make("bilinear", classes=10), train, given)
    assert kept == {**asdict(config), "threads": torch.get_num_threads()}
    assert (config.crop, config.batch_size) == (1, 12), "the set's augmentation, a sixteenth of its images"
    assert config.delay == (0.15 if schedule == "simultaneous" else 0.0)
    assert same(command, by_python(fo.data.Splits(train, None, train), "bilinear", **given))


def test_what_is_given_comes_first_then_the_data_then_the_rule():
    rule, data = fo.rules.make("best", classes=10), mnist(160)
    assert TrainingConfig.resolve(rule).batch_size == 250
    assert TrainingConfig.resolve(rule, data).batch_size == 10
    assert TrainingConfig.resolve(rule, data, {"batch_size": 160}).batch_size == 160
    assert TrainingConfig.resolve(rule, data).crop == 1
    assert TrainingConfig.resolve(rule, data, {"crop": 0}).crop == 0
    assert TrainingConfig.resolve(rule, data).optimiser == "muon"
    assert TrainingConfig.resolve(rule, data, {"optimiser": "sgd"}).optimiser == "sgd"
    assert TrainingConfig.resolve(fo.rules.Projection(classes=10), mnist(20)).batch_size == 8
