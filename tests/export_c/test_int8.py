"""Learning in whole numbers: C and Python agree bit for bit, the arithmetic is what it says, and digits are learned."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import forwardonly as fo
from forwardonly import cli
from forwardonly.bodies import Layer
from forwardonly.export import export_c, read_saved, write_saved
from forwardonly.export.c import int8, int8_arithmetic
from forwardonly.export.c.host import Host
from forwardonly.export.c.int8 import Int8Learner
from forwardonly.export.c.int8_weights import is_bias
from forwardonly.export.c.reading import make_plan
from forwardonly.export.c.saved import int8_content
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
    build,
    check_memory,
    needs_gcc,
    random_features,
    random_images,
    sanitised,
    train_in_c,
)

SMALL_STEP = {"optimiser": "sgd", "learning_rate": 0.02, **PLAIN, "weight_decay": 0.0, "clip": None}
CONV = fo.bodies.Conv(depth=2, channels=5)
LINE = fo.bodies.Separable(channels=(6, 10, 8), pools=2, kernel=5)
OPTIONS = {"projection": {"features": 40}, "hyperspherical": {"aux_channels": 0}, "channel-static": {"scale": 2.0}}
FF = {"negatives": "uniform"}
BARE = {**FF, "reduction": "sum", "normalise_input": False, "label_value": None, "sharpness": 1.0}


def learner(net):
    return Int8Learner(make_plan(net, batch_size=1, precision="int8", **SMALL_STEP))


@needs_gcc
@pytest.mark.parametrize(
    ("compiler", "rule", "options", "body", "data"),
    [
        ("gcc", "hyperspherical", OPTIONS["hyperspherical"], MLP, random_images(FLAT)),
        ("gcc", "projection", OPTIONS["projection"], SEPARABLE, random_images((3, 15, 16))),
        ("gcc", "ff", FF, MLP, random_images(FLAT)),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("gcc", "projection", {}, MLP, random_images(FLAT)),
                ("gcc", "hyperspherical", OPTIONS["hyperspherical"], SEPARABLE, random_images((3, 15, 16))),
                ("gcc", "projection", OPTIONS["projection"], CONV, random_images((2, 7, 6))),
                ("gcc", "hyperspherical", OPTIONS["hyperspherical"], CONV, random_images((2, 7, 6))),
                ("gcc", "channel-static", {"scale": 2.5}, MLP, random_images(FLAT)),
                ("gcc", "channel-static", {"goodness": "squared"}, SEPARABLE, random_images((3, 15, 16))),
                ("gcc", "backprop", {}, MLP, random_images(FLAT)),
                ("clang", "ff", BARE, SEPARABLE, random_images((3, 15, 16))),
                ("clang", "projection", OPTIONS["projection"], LINE, random_features()),
                ("clang", "hyperspherical", OPTIONS["hyperspherical"], LINE, random_features()),
                ("clang", "channel-static", {}, LINE, random_features()),
            )
        ),
    ],
)
def test_c_is_python_bit_for_bit(compiler, rule, options, body, data, tmp_path):
    learn_alike(compiler, build(rule, body, data, **options), data, 200, tmp_path)


@needs_gcc
@pytest.mark.parametrize(
    ("compiler", "rule", "options", "body", "data", "batch", "clip"),
    [
        ("gcc", "projection", OPTIONS["projection"], SEPARABLE, random_images((3, 15, 16)), 4, None),
        ("gcc", "channel-static", {}, MLP, random_images(FLAT), 1, 0.05),
        ("gcc", "projection", OPTIONS["projection"], CNN, random_images(MAPS), 3, None),
        ("gcc", "ff", {}, DEEP, random_images(FLAT), 1, None),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("gcc", "hyperspherical", {}, MLP, random_images(FLAT), 7, 0.5),
                ("gcc", "ff", FF, MLP, random_images(FLAT), 3, None),
                ("gcc", "backprop", {}, MLP, random_images(FLAT), 5, 1.0),
                ("gcc", "channel-static", {}, SEPARABLE, random_images((3, 15, 16)), 1, 1.0),
                ("gcc", "hyperspherical", OPTIONS["hyperspherical"], CNN, random_images(MAPS), 1, None),
                ("gcc", "ff", FF, CNN, random_images(MAPS), 2, None),
                ("gcc", "channel-static", {}, CNN, random_images(MAPS), 4, 1.0),
                ("gcc", "ff", FF, CNN, random_images(MAPS), 1, None),
                ("gcc", "ff", {}, CNN, random_images(MAPS), 2, 1.0),
                ("gcc", "ff", {}, DEEP, random_images(FLAT), 3, None),
                ("clang", "ff", {"predict": "softmax"}, DEEP, random_images(FLAT), 1, None),
                ("gcc", "ff", {**FF, "predict": "softmax"}, CNN, random_images(MAPS), 1, None),
                ("clang", "hyperspherical", OPTIONS["hyperspherical"], CONV, random_images((2, 7, 6)), 16, 0.1),
                ("clang", "ff", BARE, SEPARABLE, random_images((3, 15, 16)), 2, 1.0),
                ("clang", "projection", OPTIONS["projection"], CNN, random_images(MAPS), 2, 0.5),
            )
        ),
    ],
)
def test_batches_clipping_and_batch_norm_are_pythons_bit_for_bit(
    compiler, rule, options, body, data, batch, clip, tmp_path
):
    learn_alike(compiler, build(rule, body, data, **options), data, 12 * batch, tmp_path, batch=batch, clip=clip)


@needs_gcc
@pytest.mark.parametrize(
    ("rate", "batch", "clip"),
    [(math.nan, 1, None), (-1.0, 2, None), (math.inf, 1, None), (1e6, 2, 0.5), (0.01, 2, 1e12)],
)
def test_any_rate_and_clip_is_pythons_bit_for_bit(rate, batch, clip, tmp_path):
    """The rate of a running device is any float; none overflows a sum or a bias."""
    data = random_images(FLAT)
    net, given = build("projection", MLP, data), {**SMALL_STEP, "batch_size": batch, "clip": clip}
    with torch.no_grad():
        net.row[0].rule.classifier.bias[1:3] = torch.tensor([1e9, -1e9])  # saturated from the start
    export_c(net, tmp_path, precision="int8", **given)
    images, python = data.images.numpy(), Int8Learner(make_plan(net, precision="int8", **given))
    with Host(tmp_path, flags=sanitised("gcc")) as host:
        host.set_rate(rate)
        python.update.rate = rate
        start = host.save()
        train_in_c(host, data, 1, 24)
        for image, label in zip(images[:24], data.labels[:24], strict=True):
            python.learn(image, int(label))
        assert host.save()[20:] == int8_content(python.plan, python.held)
        assert (host.save() == start) == (not rate > 0)
        assert host.close() == 0


def learn_alike(compiler, net, data, steps, folder, *, batch=1, clip=None):
    """C learns what Python learns, and scores as Python scores; also in the middle of a batch."""
    given = {**SMALL_STEP, "batch_size": batch, "clip": clip}
    export_c(net, folder, precision="int8", **given)
    images, python = data.images.numpy(), Int8Learner(make_plan(net, precision="int8", **given))
    with Host(folder, compiler=compiler, flags=sanitised(compiler)) as host:
        start = host.save()
        assert start == write_saved(net, precision="int8")
        for count in (batch, steps, 1):
            train_in_c(host, data, 1, count)
            for i in np.arange(count) % len(data):
                python.learn(images[i], int(data.labels[i]))
            assert host.save()[20:] == int8_content(python.plan, python.held)
            assert np.array_equal(host.scores(images[:10]), [python.scores(image) for image in images[:10]])
        assert host.save() != start
        assert host.close() == 0


@needs_gcc
@pytest.mark.parametrize(("rule", "body"), [("hyperspherical", MLP), ("projection", SEPARABLE), ("ff", MLP)])
def test_the_header_says_the_static_memory(rule, body, tmp_path):
    net = build(rule, body, random_images(FLAT if body is MLP else MAPS), **{**OPTIONS, "ff": FF}[rule])
    check_memory(*export_c(net, tmp_path, precision="int8", **SMALL_STEP))


@pytest.mark.parametrize("rule", OPTIONS)
@pytest.mark.parametrize(
    ("body", "batch", "clip"),
    [(MLP, 1, None), (SEPARABLE, 1, None), (MLP, 5, None), (MLP, 1, 0.1), (SEPARABLE, 3, 0.1), (CNN, 12, None)],
)
def test_a_step_is_that_of_the_floats_up_to_rounding(rule, body, batch, clip):
    """Scores, and the direction and length of one step of every weight, beside autograd of the stated loss."""
    data = random_images(FLAT if body is MLP else MAPS)
    net = build(rule, body, data, **OPTIONS[rule])
    given = {**SMALL_STEP, "learning_rate": 0.2, "clip": clip}
    python = Int8Learner(make_plan(net, batch_size=batch, precision="int8", **given))
    online = fo.training.Online(net, precision="fp32", **given)
    scores = np.array([python.scores(image) for image in data.images.numpy()])
    theirs = net.eval()(data.images).numpy()
    assert np.corrcoef(scores.ravel(), theirs.ravel())[0, 1] > 0.98
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    fine = {name: values(python, name) for name in python.held.weights}
    for image, label in zip(data.images[:batch].numpy(), data.labels[:batch], strict=True):
        python.learn(image, int(label))
    online.learn(data.images[:batch], data.labels[:batch])
    for name, old in before.items():
        if name in fine:
            step = (values(python, name) - fine[name]).ravel()
            wanted = (net.state_dict()[name] - old).numpy().ravel()
            along = step @ wanted / (np.linalg.norm(step) * np.linalg.norm(wanted))
            assert along > (0.85 if body is CNN else 0.9), name  # through four roundings, by the same statistics
            assert np.linalg.norm(step) == pytest.approx(np.linalg.norm(wanted), rel=0.25), name
    for name, running in python.held.running.items():
        found = running / 2.0 ** (python.held.exponents[name] + 8)
        wanted = net.state_dict()[name].numpy()
        wanted = np.sqrt(wanted) if name.endswith("var") else wanted
        np.testing.assert_allclose(found, wanted, atol=0.15 * np.abs(wanted).max(), err_msg=name)


@pytest.mark.parametrize("options", [FF, BARE])
def test_streams_learn_one_after_the_other_under_ff(options):
    """The goodness is that of the floats, a step raises it under the right label and lowers it under the wrong one."""
    net = build("ff", MLP, random_images(FLAT), **options)
    image, python = random_images(FLAT).images[0].numpy(), learner(net)
    theirs = net.eval()(random_images(FLAT).images[:1]).numpy()[0]
    before = python.scores(image)
    np.testing.assert_allclose(before, theirs, rtol=0.1, atol=0.05)
    wrong = (2 + 1 + next(int8.xorshift32(1)) % 3) % 4
    for _ in range(3):
        python.draws = int8.xorshift32(1)
        python.learn(image, 2)
    after = python.scores(image)
    assert after[2] - before[2] > after[wrong] - before[wrong]


def test_the_label_classifier_learns_and_draws_as_in_floats():
    """Its step beside autograd of its cross-entropy, and hard labels as often as their chances say."""
    data = random_images(FLAT)
    net = build("ff", DEEP, data)
    given = {**SMALL_STEP, "learning_rate": 0.2}
    python = Int8Learner(make_plan(net, batch_size=1, precision="int8", **given))
    online = fo.training.Online(net, precision="fp32", **given)
    names = [name for name in python.held.weights if name.startswith("label_classifier.")]
    before = {name: (values(python, name).copy(), net.state_dict()[name].clone()) for name in names}
    python.learn(data.images[0].numpy(), int(data.labels[0]))
    online.learn(data.images[:1], data.labels[:1])
    assert len(names) == 4
    for name, (ours, theirs) in before.items():
        step, wanted = (values(python, name) - ours).ravel(), (net.state_dict()[name] - theirs).numpy().ravel()
        assert step @ wanted / (np.linalg.norm(step) * np.linalg.norm(wanted)) > 0.95, name
        assert np.linalg.norm(step) == pytest.approx(np.linalg.norm(wanted), rel=0.1), name
    outputs, label = python._outputs([python.unlabelled(data.images[1].numpy())])[0], 2
    chances = np.exp(python.labels.logits(outputs) / 2.0**12)
    chances[label] = 0
    draws = int8.xorshift32(1)
    found = np.bincount([python.labels.draw(outputs, label, next(draws)) for _ in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(found, chances / chances.sum(), atol=0.03)


def values(python, name):
    """A weight or bias as floats, its error included."""
    unit = 2.0 ** -(python.held.exponents[name] + 8)
    if is_bias(name):
        return python.held.weights[name] * unit / 2**int8_arithmetic.ONE
    return (256 * python.held.weights[name] + python.held.errors[name]) * unit


def test_small_updates_add_up():
    """Error feedback: a thousand steps of a hundredth of a unit move a weight by ten units."""
    python = learner(build("projection", MLP, random_images(FLAT)))
    name = "blocks.0.body.1.weight"
    python.held.weights[name][:] = 20
    python.held.errors[name][:] = 0
    for _ in range(1000):
        python.held.move(name, np.full(python.held.weights[name].shape, 256 * 10 // 1000, np.int64))
    assert set(np.unique(256 * python.held.weights[name] + python.held.errors[name])) == {256 * 20 - 2000}
    python.held.move(name, np.full(python.held.weights[name].shape, 256 * 500, np.int64))
    assert set(np.unique(python.held.weights[name])) == {-127}


def test_rounding_is_to_the_nearest_halves_up():
    numbers = np.array([-7, -6, -5, -1, 0, 1, 5, 6, 7])
    assert int8_arithmetic.shifted(numbers, 2).tolist() == [math.floor(each / 4 + 0.5) for each in numbers]
    assert int8_arithmetic.divided(numbers, 4).tolist() == [math.floor(each / 4 + 0.5) for each in numbers]
    assert int8_arithmetic.shifted(numbers, -3).tolist() == (8 * numbers).tolist()
    assert int8_arithmetic.shifted(numbers, 80).tolist() == [0] * 9


def test_chances_are_those_of_softmax():
    generator = np.random.default_rng(0)
    for _ in range(50):
        scores = generator.normal(0, 3, 7)
        whole = np.floor(scores * 64 * 2**10 + 0.5).astype(np.int64)
        errors, up = int8_arithmetic.surprise(whole, 10, 2)
        expected = np.exp(scores) / np.exp(scores).sum() - np.eye(7)[2]
        np.testing.assert_allclose(errors / 2.0 ** (15 + up), expected, atol=0.02)
        assert 2**14 <= np.abs(errors).max() <= 2**15


def test_saved_weights_are_read_as_floats():
    data = random_images(FLAT)
    net = build("projection", MLP, data)
    saved = write_saved(net, precision="int8")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    read_saved(net, saved, precision="int8")
    for name, tensor in net.state_dict().items():
        largest = float(before[name].double().abs().max())
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=largest / 2**12 + 1e-9)
    with pytest.raises(ValueError, match=r"have .* bytes"):
        read_saved(net, saved, precision="float32")


REFUSED = {
    "objective": ("ff", MLP, {**FF, "objective": "margin"}, {}, "ff but on images, with objective threshold"),
    "all at once": ("hyperspherical", CNN, {}, {"momentum": 0.9}, "hold an auxiliary .*; more than plain sgd"),
    "momentum": ("projection", MLP, {}, {"momentum": 0.9}, "choose momentum 0"),
    "decay": ("projection", MLP, {}, HEAVY, "weight_decay 0"),
    "small rate": ("projection", MLP, {}, {"learning_rate": 1e-6}, "rate of 1e-06, .*1.5e-05 to 16"),
    "large rate": ("projection", MLP, {}, {"learning_rate": 20.0}, "rate of 20, .*1.5e-05 to 16"),
    "smoothing": ("projection", MLP, {"label_smoothing": 0.1}, {}, "hold label smoothing"),
    "prototypes": ("hyperspherical", MLP, {"prototypes_per_class": 2}, {}, "several prototypes a class"),
    "head": ("hyperspherical", SEPARABLE, {}, {}, "aux_channels 0"),
    "precision": ("projection", MLP, {}, {"precision": "int4"}, "precision must be one of float32, int8"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_defined_is_refused_before_anything_is_written(case, tmp_path):
    rule, body, options, given, says = REFUSED[case]
    net = build(rule, body, random_images(FLAT if body is MLP else MAPS), **options)
    with pytest.raises(ValueError, match=says):
        export_c(net, tmp_path / "c", **{"precision": "int8", **SMALL_STEP, **given})
    assert not (tmp_path / "c").exists()


def normed(eps):
    """A network of one block, whose batch norm gives every channel something to learn from."""
    layer = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8, eps=eps), nn.ReLU())
    nn.init.constant_(layer[2].bias, 0.5)
    data = random_images(FLAT)
    net = assemble([Layer(layer)], data.shape, fo.rules.Projection(classes=4))
    net.prepare.fit(data.images)
    return net


def test_a_batch_norm_with_almost_no_eps_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a batch norm with an eps of 1e-08, as in block 1 .*at least 1e-07"):
        export_c(normed(1e-8), tmp_path / "c", precision="int8", batch_size=2, **SMALL_STEP)
    assert not (tmp_path / "c").exists()


@needs_gcc
def test_equal_examples_behind_the_smallest_eps_are_pythons_bit_for_bit(tmp_path):
    """A batch without deviation, by whose smallest deviation the gradient is divided."""
    data = random_images(FLAT)
    equal = fo.data.Images(data.images[:1].repeat(len(data), 1, 1, 1), data.labels, tuple("abcd"), "equal")
    learn_alike("gcc", normed(int8_arithmetic.SMALLEST_EPSILON), equal, 8, tmp_path, batch=2)


def test_the_command_refuses_int8_for_a_step_as_a_graph(trained_run, tmp_path, capsys):
    capsys.readouterr()
    out = ["--out", str(tmp_path / "o")]
    words = ["export", str(trained_run), "--format", "onnx", "--what", "training-step", "--precision", "int8"]
    assert cli.main([*words, *out]) == 2
    assert "--precision is for a network with --format onnx, or a training step with" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@needs_gcc
@pytest.mark.slow
def test_digits_are_learned_in_int8(tmp_path, digits):
    net = fo.mlp(digits.train.shape, (64, 64), rule=fo.rules.Hyperspherical(classes=10))
    net.prepare.fit(digits.train.images)
    export_c(net, tmp_path, precision="int8", **SMALL_STEP)
    generator = torch.Generator().manual_seed(0)
    with Host(tmp_path) as host:
        for _ in range(6):
            order = torch.randperm(len(digits.train), generator=generator)
            host.learn(digits.train.images[order].numpy(), digits.train.labels[order].numpy())
        right = host.scores(digits.test.images.numpy()).argmax(1) == digits.test.labels.numpy()
    assert right.mean() > 0.93
