"""Presets: rules with their own options and training config, in the table of rules."""

import copy
from dataclasses import fields

import pytest
import torch

import forwardonly as fo
from forwardonly.names import name_in
from forwardonly.rules import Auxiliary, BlockPosition, OnePassRule, Preset
from forwardonly.rules.defaults import MUON

BEST = {"head": "tapered", "convolutions": 3, "channels": 128, "features": 64, "depth": 0, "label_smoothing": 0.05}


@pytest.fixture
def maps():
    return torch.linspace(-1, 1, 6 * 8 * 6 * 6).cos().view(6, 8, 6, 6)


@pytest.mark.parametrize("index", [0, 2, 3])  # a full head, a coarse one, a linear classifier
def test_best_is_auxiliary_with_its_options(maps, index):
    losses = []
    for rule in (fo.rules.make("best", classes=3), Auxiliary(classes=3, **BEST)):
        torch.manual_seed(0)
        own = rule.for_block(maps.shape[1:], BlockPosition(index, 4))
        losses.append(own.loss(maps, torch.arange(6) % 3))
    assert torch.equal(*losses)


def test_given_options_override_the_presets():
    rule = fo.rules.make("best", classes=3, channels=16)
    assert type(rule) is Auxiliary
    assert rule.options() == Auxiliary(classes=3, **{**BEST, "channels": 16}).options()
    assert rule.options() == fo.rules.TABLE["best"](classes=3, channels=16).options()


def test_a_rule_remembers_its_preset():
    rule = fo.rules.make("best", classes=3)
    assert copy.deepcopy(rule).preset == rule.for_block((5,), BlockPosition(0, 2)).preset == rule.preset == "best"
    assert name_in(fo.rules.TABLE, rule) == "best"
    plain = Auxiliary(classes=3, **BEST)
    assert plain.preset is None and name_in(fo.rules.TABLE, plain) == "auxiliary"
    assert "preset" not in rule.options()


@pytest.mark.parametrize("name", fo.rules.TABLE)
def test_every_rule_is_made_and_named(name):
    rule = fo.rules.make(name, classes=3)
    assert name_in(fo.rules.TABLE, rule) == name
    assert rule.options() == fo.rules.TABLE[name](classes=3).options()


def test_training_defaults_are_the_presets():
    best = {**MUON, "delay": 0.3}
    assert fo.rules.training_defaults(fo.rules.make("best", classes=3)) == best
    assert fo.rules.training_defaults(fo.rules.TABLE["best"]) == best
    for auxiliary in (Auxiliary, Auxiliary(classes=3, **BEST)):
        assert fo.rules.training_defaults(auxiliary) == {"learning_rate": 5e-3}
    config = fo.training.TrainingConfig.resolve(fo.rules.make("best", classes=3), given={"epochs": 2})
    assert (config.batch_size, config.optimiser, config.lr_schedule, config.delay) == (250, "muon", "linear", 0.3)


def test_blocks_of_best_may_train_one_after_another():
    rule = fo.rules.make("best", classes=3)
    config = fo.training.TrainingConfig.resolve(rule, given={"schedule": "greedy"})
    assert (config.schedule, config.delay, config.optimiser) == ("greedy", 0.0, "muon")
    with pytest.raises(ValueError, match="choose delay 0"):
        fo.training.TrainingConfig.resolve(rule, given={"schedule": "greedy", "delay": 0.3})


def test_a_saved_network_of_a_preset_is_loaded_as_one(tmp_path):
    rule = fo.rules.make("best", classes=3, channels=4)
    network = fo.build(fo.bodies.CNN(width=0.1), (1, 16, 16), rule=rule).eval()
    fo.save(network, tmp_path)
    loaded = fo.load(tmp_path)
    assert loaded.rule.preset == "best"
    assert loaded.config == network.config
    assert loaded.config["rule"]["name"] == "best" and loaded.config["rule"]["channels"] == 4
    images = torch.randint(0, 256, (5, 1, 16, 16), dtype=torch.uint8)
    assert torch.equal(loaded.scores(images), network.scores(images))


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("bset", {}, "Unknown rule 'bset': did you mean 'best'?"),
        ("best", {"chanels": 4}, "The rule 'best' has no option 'chanels': did you mean 'channels'?"),
        ("ff", {"treshold": 1.0}, "The rule 'ff' has no option 'treshold': did you mean 'threshold'?"),
        ("best", {"head": "thin"}, "head must be one of uniform, tapered, not 'thin'."),
    ],
)
def test_an_unknown_name_or_option_is_one_clear_sentence(name, options, sentence):
    with pytest.raises(ValueError) as raised:
        fo.rules.make(name, classes=3, **options)
    assert str(raised.value) == sentence


def test_a_user_adds_rules_and_presets(monkeypatch):
    class Own(OnePassRule):
        pass

    monkeypatch.setitem(fo.rules.TABLE, "own", Own)
    training = {"learning_rate": 0.5}
    monkeypatch.setitem(fo.rules.TABLE, "small", Preset("small", Auxiliary, {"channels": 4}, training, "A small head."))
    assert name_in(fo.rules.TABLE, fo.rules.make("own", classes=3)) == "own"
    small = fo.rules.make("small", classes=3)
    assert (small.channels, small.preset, fo.rules.training_defaults(small)) == (4, "small", training)


@pytest.mark.parametrize("name", fo.rules.TABLE)
def test_help_shows_at_most_six_options_of_a_rule(name):
    cls = fo.rules.rule_class(fo.rules.TABLE[name])
    options = {field.name for field in fields(cls)} - {"classes", "targets"}
    assert cls.expert <= options
    assert len(options - cls.expert) <= 6


def test_best_learns_digits_with_its_training_config(digits):
    rule = fo.rules.make("best", classes=10, channels=16)
    network = fo.build(fo.bodies.CNN(width=0.25), digits.train.shape, rule=rule)
    fo.fit(network, digits.train, epochs=6, batch_size=50)
    assert fo.evaluate(network, digits.validation).accuracy > 0.95
