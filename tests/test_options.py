"""The types of options: numpy's numbers are taken, what is no number of the kind is refused in one sentence."""

import json
import re

import numpy as np
import pytest
import torch

import forwardonly as fo
from forwardonly.training import Online, TrainingConfig


def digits(count=64):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return fo.data.Images(images, torch.arange(count) % 3, tuple("abc"), "noise")


@pytest.mark.parametrize("name", ["epochs", "batch_size", "workers", "validate_every", "checkpoint_every", "crop"])
@pytest.mark.parametrize("value", [1.5, 32.0, "2", True, np.float32(2), np.nan, [2]])
def test_a_whole_number_is_one(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number, not "):
        TrainingConfig(**{name: value})


@pytest.mark.parametrize("value", ["fast", None, float("nan"), float("inf"), True, [0.1]])
def test_a_number_is_finite(value):
    with pytest.raises(ValueError, match="learning_rate must be a number, not "):
        TrainingConfig(learning_rate=value)


def test_true_and_words_are_checked():
    with pytest.raises(ValueError, match="diagnose must be True or False, not 1"):
        TrainingConfig(diagnose=1)
    with pytest.raises(ValueError, match="device must be a word, not 0"):
        TrainingConfig(device=0)
    with pytest.raises(ValueError, match="flip must be one of none, random, alternating, not 1"):
        TrainingConfig(flip=1)


def test_numpy_numbers_become_pythons_own():
    config = TrainingConfig(
        epochs=np.int64(2),
        batch_size=torch.tensor(50),
        clip=np.float32(0.5),
        compile=np.bool_(False),
        optimiser=np.str_("sgd"),
    )
    assert config == TrainingConfig(epochs=2, batch_size=50, clip=0.5, optimiser="sgd")
    for value in vars(config).values():
        assert type(value) in (int, float, bool, str, type(None))


def test_none_stays_where_it_is_allowed():
    assert TrainingConfig(clip=None, momentum=None).clip is None
    with pytest.raises(ValueError, match="epochs must be a whole number, not None"):
        TrainingConfig(epochs=None)


@pytest.mark.parametrize("hidden", [[20, 10], np.array([20, 10]), (np.int64(20), np.uint8(10)), range(20, 9, -10)])
def test_a_sequence_becomes_a_tuple(hidden):
    made = fo.bodies.MLP(hidden=hidden)
    assert made.hidden == (20, 10) and all(type(size) is int for size in made.hidden)


def test_one_number_is_one_layer():
    assert fo.bodies.MLP(hidden=20).hidden == (20,)
    assert len(fo.mlp((1, 4, 4), np.int64(20), rule=fo.rules.Projection(classes=3)).row) == 1


@pytest.mark.parametrize("hidden", ["20", None, (20, 10.5), [[20]], torch])
def test_what_is_no_row_of_layers(hidden):
    with pytest.raises(ValueError, match="hidden must be "):
        fo.bodies.MLP(hidden=hidden)


@pytest.mark.parametrize("body", [fo.bodies.CNN, fo.bodies.ResNet17, fo.bodies.VGG8b])
def test_bodies_check_their_numbers(body):
    with pytest.raises(ValueError, match="width must be a number, not 'wide'"):
        body(width="wide")
    assert type(body(width=np.float32(0.5)).width) is float


def test_dropout_of_all_inputs():
    with pytest.raises(ValueError, match="dropout is a share from 0 to below 1, not 1"):
        fo.mlp((1, 4, 4), rule=fo.rules.Projection(classes=3), dropout=1.0)


def test_rules_check_their_numbers():
    with pytest.raises(ValueError, match=r"classes must be a whole number, not 3\.5"):
        fo.rules.Projection(classes=3.5)
    with pytest.raises(ValueError, match="weights must be a number, not 'x'"):
        fo.rules.CollaborativeFixed(classes=3, weights=("x",))
    rule = fo.rules.CollaborativeFixed(classes=np.int64(3), threshold=np.float32(1), weights=np.ones(4))
    assert json.dumps(rule.options()) and rule.weights == (1.0,) * 4


def test_a_run_and_a_network_of_numpy_numbers_are_saved(tmp_path):
    rule = fo.rules.Hyperspherical(classes=np.int64(3), scale=np.float32(8))
    network = fo.mlp(np.array([1, 4, 4]), np.array([8, 8]), rule=rule, seed=np.int64(3))
    run = fo.fit(
        network, digits(), out=tmp_path / "r", epochs=np.int64(1), batch_size=np.int64(16), seed=np.int64(4),
        extra={"row": np.arange(2), "share": np.float32(0.5)},
    )  # fmt: skip
    assert run.result["seed"] == 4
    again = fo.load(tmp_path / "r")
    assert torch.equal(again.predict(digits().images), network.predict(digits().images))
    fo.save(network, tmp_path / "s")


@pytest.mark.parametrize("seed", [-1, 1.5, "0", None])
def test_a_seed_is_a_whole_number(seed):
    network = fo.mlp((1, 4, 4), [8], rule=fo.rules.Projection(classes=3))
    with pytest.raises(ValueError, match="seed must be "):
        fo.fit(network, digits(), epochs=1, seed=seed)
    with pytest.raises(ValueError, match="seed must be "):
        Online(network, seed=seed)


def test_a_classifier_of_numpy_numbers_is_saved(tmp_path):
    pytest.importorskip("sklearn")
    from forwardonly.estimator import ForwardOnlyClassifier

    X, y = np.random.default_rng(0).normal(size=(40, 6)), np.arange(40) % 2
    for number, hidden in enumerate([(np.int64(20),), np.array([20, 20]), 20, [20]]):
        options = {"scale": np.float32(8), "prototypes_per_class": np.int64(2)}
        classifier = ForwardOnlyClassifier(
            hidden=hidden, epochs=np.int64(2), batch_size=np.int32(10), learning_rate=np.float32(1e-3),
            rule_options=options, random_state=np.int64(0),
        )  # fmt: skip
        classifier.fit(X, y).save(tmp_path / str(number))
        again = ForwardOnlyClassifier.load(tmp_path / str(number))
        assert np.array_equal(again.decision_function(X), classifier.decision_function(X))
    with pytest.raises(ValueError, match=r"epochs must be a whole number, not 1\.5"):
        ForwardOnlyClassifier(epochs=1.5).fit(X, y)
    with pytest.raises(ValueError, match="hidden must be several numbers"):
        ForwardOnlyClassifier(hidden="20").fit(X, y)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"momentum": 7}, "momentum is a share from 0 to below 1, not 7."),
        ({"momentum": 1.0}, "momentum is a share from 0 to below 1, not 1.0."),
        ({"momentum": -0.1}, "momentum is a share from 0 to below 1, not -0.1."),
        ({"weight_decay": -1}, "weight_decay must be 0 or more, not -1."),
    ],
)
def test_options_of_an_optimiser_that_make_no_sense(option, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        TrainingConfig(optimiser="muon", **option)
