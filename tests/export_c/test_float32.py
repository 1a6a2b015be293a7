"""The training step in C: the same numbers as Python's, the memory that it says, and the weights that it saves.

Compiled by gcc and by clang with warnings as errors and with sanitisers; skipped where there is no compiler.
"""

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

import forwardonly as fo
from forwardonly.bodies import Layer
from forwardonly.export import export_c, read_saved, write_saved
from forwardonly.export.c.host import Host
from forwardonly.network.build import assemble

from .common import (
    CNN,
    DEEP,
    FLAT,
    HEAVY,
    MAPS,
    MLP,
    PLAIN,
    SEPARABLE,
    SGD,
    SHAPES,
    STRICT,
    build,
    check_memory,
    needs_gcc,
    random_features,
    random_images,
    sanitised,
    train_in_c,
    train_in_python,
)

pytestmark = needs_gcc
CASES = [
    ("hyperspherical", MLP, {}, 1, PLAIN),
    ("hyperspherical", MLP, {"prototypes_per_class": 3}, 4, HEAVY),
    ("projection", MLP, {"label_smoothing": 0.1}, 1, PLAIN),
    ("projection", MLP, {}, 4, {**PLAIN, "clip": 0.5}),
    ("ff", MLP, {"negatives": "uniform"}, 4, HEAVY),
    ("ff", DEEP, {}, 1, PLAIN),
    ("channel-static", MLP, {}, 3, {**HEAVY, "clip": 0.1}),
]
SLOW = [
    ("projection", CNN, {"features": 60}, 4, {**HEAVY, "learning_rate": 0.002}),
    ("hyperspherical", MLP, {}, 1, HEAVY),
    ("hyperspherical", MLP, {}, 1, {**PLAIN, "weight_decay": 0.1}),
    ("ff", MLP, {"negatives": "uniform"}, 1, {**PLAIN, "learning_rate": 0.001}),
    ("ff", DEEP, {}, 4, HEAVY),
    ("ff", DEEP, {"predict": "softmax"}, 1, {**PLAIN, "weight_decay": 0.1}),
    ("ff", MLP, {"negatives": "uniform", "predict": "softmax"}, 1, {**HEAVY, "learning_rate": 0.001}),
    ("ff", CNN, {}, 3, {**HEAVY, "learning_rate": 0.002, "clip": 1.0}),
    (
        "ff",
        MLP,
        {"negatives": "uniform", "objective": "margin", "size": "length", "reduction": "sum"},
        2,
        HEAVY,
    ),
    ("channel-static", MLP, {"goodness": "squared"}, 1, PLAIN),
    ("hyperspherical", CNN, {"aux_channels": 8}, 4, {**HEAVY, "learning_rate": 0.001}),
    ("hyperspherical", CNN, {"aux_channels": 0}, 3, {**HEAVY, "learning_rate": 0.001}),
    ("ff", CNN, {"negatives": "uniform"}, 3, {**HEAVY, "learning_rate": 0.002}),
    ("channel-static", CNN, {"goodness": "squared"}, 2, {**HEAVY, "learning_rate": 0.002}),
    ("backprop", CNN, {}, 3, {**HEAVY, "learning_rate": 0.002}),
    ("backprop", MLP, {}, 1, PLAIN),
    ("projection", SEPARABLE, {}, 1, PLAIN),
    ("hyperspherical", SEPARABLE, {"aux_channels": 0}, 1, PLAIN),
    ("channel-static", SEPARABLE, {}, 2, HEAVY),
    ("ff", SEPARABLE, {"negatives": "uniform"}, 2, {**HEAVY, "learning_rate": 0.002}),
    ("backprop", SEPARABLE, {}, 1, PLAIN),
]


@pytest.mark.parametrize(
    ("compiler", "rule", "body", "options", "batch", "training"),
    [
        *(pytest.param("gcc", *case) for case in CASES),
        *(pytest.param("gcc", *case, marks=pytest.mark.slow) for case in SLOW),
        *(pytest.param("clang", *case, marks=pytest.mark.slow) for case in [CASES[0], CASES[4], SLOW[0], SLOW[-5]]),
    ],
)
def test_two_hundred_steps_are_pythons(compiler, rule, body, options, batch, training, tmp_path):
    data = random_images(SHAPES[body])
    net, training = build(rule, body, data, **options), {**SGD, **training}
    export_c(net, tmp_path, batch_size=batch, **training)
    with Host(tmp_path, compiler=compiler, flags=sanitised(compiler)) as host:
        theirs = net.eval()(data.images[:5])
        torch.testing.assert_close(torch.from_numpy(host.scores(data.images[:5].numpy())), theirs, rtol=1e-5, atol=2e-5)
        train_in_c(host, data, batch, 200)
        saved, losses = host.save(), host.losses()
        predicted = host.scores(data.images[:5].numpy())
        assert host.close() == 0
    expected = train_in_python(net, data, batch, 200, **training)
    np.testing.assert_allclose(losses, expected.numpy(), rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(torch.from_numpy(predicted), net.eval()(data.images[:5]), rtol=1e-4, atol=1e-4)
    ours = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    read_saved(net, saved)
    moved = 0
    for name, tensor in net.state_dict().items():
        if name.startswith(("blocks.", "label_classifier.")) and tensor.is_floating_point():
            assert float((tensor - ours[name]).abs().max()) <= 1e-5 * max(1.0, float(ours[name].abs().max())), name
            moved += 1
    assert moved


@pytest.mark.parametrize(
    ("rule", "body", "options", "batch", "training"),
    [
        ("hyperspherical", MLP, {}, 1, PLAIN),
        ("hyperspherical", CNN, {"aux_channels": 8}, 3, HEAVY),
        ("channel-static", MLP, {}, 4, {**HEAVY, "clip": 1.0}),
        ("ff", MLP, {"negatives": "uniform"}, 4, PLAIN),
        ("ff", CNN, {}, 3, HEAVY),
    ],
)
def test_the_header_says_the_static_memory_and_no_library_is_called(rule, body, options, batch, training, tmp_path):
    net = build(rule, body, random_images(SHAPES[body]), **options)
    source, header = export_c(net, tmp_path, batch_size=batch, **{**SGD, **training})
    check_memory(source, header)


def test_a_block_more_needs_no_more_memory_for_activations(tmp_path):
    found = []
    for depth in (2, 6):
        body = fo.bodies.MLP(hidden=(24,) * depth)
        net = build("projection", body, random_images(FLAT))
        _, header = export_c(net, tmp_path / str(depth), **SGD, **PLAIN)
        found.append(re.search(r"([\d,]+)  activations of one block", header.read_text())[1])
    assert found[0] == found[1]


def test_blocks_by_hand_learn_in_c(tmp_path):
    """A pooling behind its ReLU, and a flattening behind a convolution."""
    layers = [
        Layer(nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())),
        Layer(nn.Sequential(nn.Linear(5 * 64, 12), nn.ReLU())),
    ]
    data = random_images(MAPS)
    net = assemble(layers, MAPS, fo.rules.Projection(classes=4, features=50))
    net.prepare.fit(data.images)
    export_c(net, tmp_path, **SGD, **PLAIN)
    with Host(tmp_path, compiler="gcc", flags=sanitised("gcc")) as host:
        train_in_c(host, data, 1, 100)
        scores = host.scores(data.images[:9].numpy())
        assert host.close() == 0
    train_in_python(net, data, 1, 100, **SGD, **PLAIN)
    torch.testing.assert_close(torch.from_numpy(scores), net.eval()(data.images[:9]), rtol=1e-4, atol=1e-4)


@pytest.fixture
def exported(tmp_path):
    """A network on features, its data and the host that runs it."""
    data = random_features()
    net = build("projection", fo.bodies.MLP(hidden=(8, 8)), data)
    export_c(net, tmp_path / "c", batch_size=2, **SGD)
    with Host(tmp_path / "c", flags=STRICT) as host:
        yield net, data, host


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_is_reported_and_nothing_changes(exported, value):
    _, data, host = exported
    train_in_c(host, data, 1, 9)
    before, spoilt = host.save(), data.images[:1].numpy().copy()
    spoilt[0, -1, 0, -1] = value
    assert host.learn(spoilt, [0]) == ["bad input"]
    with pytest.raises(ValueError, match="bad input"):
        host.scores(spoilt)
    assert host.learn(data.images.numpy(), [4]) == host.learn(data.images.numpy(), [-1]) == ["bad label"]
    assert host.save() == before


def test_saved_weights_go_both_ways(exported):
    net, data, host = exported
    assert host.save() == write_saved(net)
    train_in_c(host, data, 2, 20)
    saved = host.save()
    other = build("projection", fo.bodies.MLP(hidden=(8, 8)), data)
    read_saved(other, saved)
    torch.testing.assert_close(
        torch.from_numpy(host.scores(data.images.numpy())), other.eval()(data.images), rtol=1e-5, atol=1e-5
    )
    assert write_saved(other) == saved
    first = host.scores(data.images.numpy())
    train_in_c(host, data, 2, 20)
    assert host.load(saved) == "ok"
    assert np.array_equal(host.scores(data.images.numpy()), first)


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("body", [MLP, CNN])
def test_loading_in_the_middle_of_a_batch_begins_it_anew(precision, body, tmp_path):
    """Whether examples wait for a batch norm or gradients were added up; what is saved is the last update."""
    data = random_images(SHAPES[body])
    export_c(build("projection", body, data), tmp_path, batch_size=3, precision=precision, **SGD, **PLAIN)
    with Host(tmp_path) as host, Host(tmp_path) as other:
        train_in_c(host, data, 3, 1)
        train_in_c(other, data, 3, 1)
        saved = host.save()
        train_in_c(host, data, 2, 1)
        assert host.save() == saved
        assert host.load(saved) == host.load(saved) == "ok"
        train_in_c(host, data, 3, 1)
        train_in_c(other, data, 3, 1)
        assert host.save() == other.save() != saved


def test_weights_of_another_net_are_refused_and_nothing_changes(exported):
    net, data, host = exported
    saved = bytearray(host.save())
    alike = build("projection", fo.bodies.MLP(hidden=(8, 8)), data, label_smoothing=0.1)
    damaged = bytes([*saved[:-1], saved[-1] ^ 1])
    refused = {
        "other net": write_saved(alike),
        "damaged": damaged,
        "wrong length": bytes(saved) + b"\0",
    }
    for answer, content in refused.items():
        assert host.load(content) == answer
        before = write_saved(net)
        with pytest.raises(
            ValueError, match={"other net": "another network", "wrong length": "bytes"}.get(answer, answer)
        ):
            read_saved(net, content)
        assert write_saved(net) == before
    assert host.save() == saved


def test_a_loss_that_is_not_finite_is_reported(exported):
    _, data, host = exported
    host.set_rate(1e30)
    assert "diverged" in host.learn(data.images.numpy(), data.labels.numpy())


def test_learning_goes_on_after_loading_as_from_the_start(exported):
    """What the optimiser holds, and a batch that is half seen, belong to other weights."""
    _, data, host = exported
    start = host.save()
    train_in_c(host, data, 2, 10)
    once = host.save()
    train_in_c(host, data, 1, 7)
    assert host.load(start) == "ok"
    train_in_c(host, data, 2, 10)
    assert host.save() == once


@pytest.mark.parametrize(("rule", "body", "batch"), [("projection", MLP, 3), ("projection", CNN, 3), ("ff", MLP, 1)])
def test_predicting_between_steps_changes_nothing(rule, body, batch, tmp_path):
    """Prediction uses the memory of the blocks, also while examples of a batch wait."""
    data = random_images(SHAPES[body])
    net = build(rule, body, data, **({"negatives": "uniform"} if rule == "ff" else {}))
    export_c(net, tmp_path, batch_size=batch, **SGD)
    images, labels, learned = data.images.numpy(), data.labels.numpy(), []
    for asks in (False, True):
        with Host(tmp_path, flags=STRICT) as host:
            for i in range(12):
                assert host.learn(images[i : i + 1], labels[i : i + 1]) == ["ok"]
                if asks:
                    host.scores(images[-2:])
            learned.append(host.save())
    assert learned[0] == learned[1] != write_saved(net)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["hyperspherical", "projection"])
def test_digits_are_learned_from_scratch_as_well_as_in_python(rule, tmp_path, digits):
    """Within half a point: the same examples in the same order, one at a time."""
    net = fo.mlp(digits.train.shape, (64, 64), rule=fo.rules.make(rule, classes=10))
    net.prepare.fit(digits.train.images)
    options = {"optimiser": "sgd", "learning_rate": 0.02, "momentum": 0.0, "weight_decay": 0.0}
    export_c(net, tmp_path, **options)
    learner = fo.training.Online(net, precision="fp32", **options)
    generator = torch.Generator().manual_seed(0)
    with Host(tmp_path) as host:
        for _ in range(4):
            order = torch.randperm(len(digits.train), generator=generator)
            host.learn(digits.train.images[order].numpy(), digits.train.labels[order].numpy())
            for i in order.split(1):
                learner.learn(digits.train.images[i], digits.train.labels[i])
        on_device = (host.scores(digits.test.images.numpy()).argmax(1) == digits.test.labels.numpy()).mean()
    in_python = fo.evaluate(net, digits.test, precision="fp32").accuracy
    assert on_device > 0.93
    assert on_device == pytest.approx(in_python, abs=0.005)
