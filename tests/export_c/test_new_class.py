"""A class added on the device: the same prototypes as Python's, what is refused, and the saved weights."""

import copy
import json
import re

import numpy as np
import pytest
import torch

import forwardonly as fo
from forwardonly import cli
from forwardonly.export import export_c, read_saved, write_saved
from forwardonly.export.c.host import Host

from .common import (
    CNN,
    FLAT,
    HEAVY,
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


def grown(body, data, **options):
    """A network with statistics of its four classes."""
    net = build("hyperspherical", body, data, **options)
    net.class_names = tuple("abcd")
    fo.summarise(net, data)
    return net


@pytest.mark.parametrize(
    ("compiler", "body", "options", "batch", "training"),
    [
        ("gcc", MLP, {}, 1, PLAIN),
        pytest.param("clang", MLP, {}, 1, PLAIN, marks=pytest.mark.slow),
        pytest.param("gcc", MLP, {}, 4, HEAVY, marks=pytest.mark.slow),
        pytest.param("gcc", CNN, {"aux_channels": 8}, 4, {**HEAVY, "learning_rate": 0.001}, marks=pytest.mark.slow),
        pytest.param("clang", SEPARABLE, {"aux_channels": 0}, 1, PLAIN, marks=pytest.mark.slow),
    ],
)
def test_a_class_is_added_as_in_python_and_learning_goes_on(compiler, body, options, batch, training, tmp_path):
    data = random_images(SHAPES[body])
    net, training = grown(body, data, **options), {**SGD, **training}
    export_c(net, tmp_path, batch_size=batch, spare_classes=3, **training)
    images = data.images.numpy()
    with Host(tmp_path, compiler=compiler, flags=sanitised(compiler)) as host:
        before = host.scores(images[:5])
        assert np.isneginf(before[:, 4:]).all() and host.learn(images[:1], [4]) == ["bad label"]
        for name, rows in (("e", slice(0, 10)), ("f", slice(10, 11))):
            assert host.add_class(images[rows]) == "ok"
            fo.add_class(net, data.images[rows], name)
        scores, saved = host.scores(images), host.save()
        np.testing.assert_array_equal(scores[:5, :4], before[:, :4])
        torch.testing.assert_close(torch.from_numpy(scores[:, :6]), net.eval()(data.images), rtol=1e-5, atol=2e-5)
        assert np.isneginf(scores[:, 6]).all()
        same = copy.deepcopy(net)
        read_saved(same, saved, spare_classes=1)
        for ours, theirs in zip(net.row, same.row, strict=True):
            new, found = (block.rule.prototypes[4:].detach() for block in (ours, theirs))
            torch.testing.assert_close(found, new, rtol=0, atol=1e-5 * float(new.abs().max()))
        six = fo.data.Images(data.images, torch.arange(len(data)) % 6, net.class_names, "six")
        train_in_c(host, six, batch, 100)
        learned, predicted = host.save(), host.scores(images[:5])
        assert host.close() == 0
    train_in_python(net, six, batch, 100, **training)
    torch.testing.assert_close(torch.from_numpy(predicted[:, :6]), net.eval()(data.images[:5]), rtol=1e-4, atol=1e-4)
    read_saved(same, learned, spare_classes=1)
    state = same.state_dict()
    for name, ours in net.state_dict().items():
        if name.startswith("blocks.") and ours.is_floating_point():
            assert float((ours - state[name]).abs().max()) <= 1e-5 * max(1.0, float(ours.abs().max())), name


@pytest.mark.parametrize("body", [MLP, CNN])
def test_the_header_says_the_memory(body, tmp_path):
    net = grown(body, random_images(SHAPES[body]))
    source, header = export_c(net, tmp_path, batch_size=2, spare_classes=2, **{**SGD, **PLAIN})
    check_memory(source, header)
    sizes = re.findall(r"static const float (?:matrix|within|base|ones|means)_\d+\[(\d+)\]", source.read_text())
    numbers = len(net.row) + sum(map(int, sizes))  # `spread` is one
    assert f"constants take {4 * numbers:,} bytes more" in header.read_text()


@pytest.fixture
def device(tmp_path):
    data = random_features()
    net = grown(fo.bodies.MLP(hidden=(8, 8)), data)
    export_c(net, tmp_path / "c", spare_classes=2, **SGD, **PLAIN)
    with Host(tmp_path / "c", flags=STRICT) as host:
        yield net, data, host


def test_what_cannot_be_added_changes_nothing(device):
    net, data, host = device
    before, ten = host.save(), data.images[:10].numpy()
    spoilt = ten.copy()
    spoilt[9, 0, 0, 3] = np.nan
    assert host.add_class(spoilt) == host.add_class(ten[:0]) == "bad input"
    assert host.save() == before
    assert [host.add_class(ten) for _ in range(3)] == ["ok", "ok", "no room"]
    full = host.save()
    assert host.load(before) == "ok" and np.isneginf(host.scores(ten)[:, 4:]).all()
    assert host.load(full) == "ok" and np.isfinite(host.scores(ten)).all()
    [*net.row[1].body.parameters()][-1].data.fill_(np.inf)  # of its bias
    broken = write_saved(net, spare_classes=2)
    assert host.load(broken) == "ok" and host.add_class(ten) == "diverged" and host.save() == broken


def test_saved_weights_go_both_ways_with_their_classes(device):
    net, data, host = device
    assert host.save() == write_saved(net, spare_classes=2)
    assert host.add_class(data.images[:10].numpy()) == "ok"
    saved, other = host.save(), copy.deepcopy(net)
    read_saved(other, saved, spare_classes=2)
    assert other.classes == 5 and other.class_names == (*net.class_names, "4") and other.rule.added == 1
    np.testing.assert_allclose(host.scores(data.images.numpy())[:, :5], other.eval()(data.images), rtol=1e-5, atol=1e-5)
    assert write_saved(other, spare_classes=1) == saved
    assert host.load(write_saved(net, spare_classes=2)) == "ok" and host.load(saved) == "ok"
    with pytest.raises(ValueError, match="of 4 classes, and the network has 5"):
        read_saved(other, write_saved(net, spare_classes=2), spare_classes=1)


def test_a_grown_network_is_exported_without_room(tmp_path):
    data = random_images(FLAT)
    net = grown(MLP, data)
    fo.add_class(net, data.images[:10], "e")
    export_c(net, tmp_path, **SGD, **PLAIN)
    with Host(tmp_path, flags=STRICT) as host:
        np.testing.assert_allclose(host.scores(data.images.numpy()), net.eval()(data.images), rtol=1e-5, atol=2e-5)
        with pytest.raises(ValueError, match="no room for more classes"):
            host.add_class(data.images.numpy())
    with pytest.raises(ValueError, match="int8 has no prototypes of any length"):
        export_c(net, tmp_path, precision="int8", **SGD, **PLAIN)


@pytest.mark.parametrize(
    ("make", "options", "says"),
    [
        (lambda: build("projection", MLP, random_images(FLAT)), {}, "Only hyperspherical can add a class"),
        (lambda: build("hyperspherical", MLP, random_images(FLAT)), {}, "call fo.summarise"),
        (lambda: grown(MLP, random_images(FLAT)), {"precision": "int8"}, "export in float32"),
        (lambda: grown(MLP, random_images(FLAT)), {"spare_classes": -1}, "spare_classes must be at least 0"),
    ],
)
def test_spare_classes_that_c_cannot_hold_are_refused(make, options, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        export_c(make(), tmp_path / "c", **{"spare_classes": 1, **SGD, **PLAIN, **options})
    assert not (tmp_path / "c").exists()


def test_the_command(trained_run, tmp_path, capsys, digits):
    words = ["export", str(trained_run), "--what", "training-step", "--spare-classes", "2"]
    given = ["--format", "c", "--optimiser", "sgd", "--momentum", "0", "--batch-size", "1"]
    capsys.readouterr()
    assert cli.main([*words, *given, "--out", str(tmp_path / "c"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["files"]) == 2
    with Host(tmp_path / "c") as host:
        assert host.spare == 2 and host.classes == 12
        assert host.add_class(digits.test.images.numpy()[:10]) == "ok"
    assert cli.main([*words, "--out", str(tmp_path / "onnx")]) == 2
    assert "--spare-classes is for --format c" in capsys.readouterr().err
