"""The command that writes the training step in C, and what it and the library refuse."""

import json
import math
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import forwardonly as fo
from forwardonly import cli
from forwardonly.export import export_c
from forwardonly.export.c.host import Host
from forwardonly.network.block import Block
from forwardonly.network.network import Network
from forwardonly.rules import BlockPosition

from .common import CNN, FLAT, MAPS, MLP, PLAIN, SGD, build, needs_gcc, random_images

pytestmark = needs_gcc


def numbers(shape, **options):
    """A network of features of a shape."""
    return fo.mlp(shape, (8,), rule=fo.rules.Projection(classes=4, **options))


def in_place():
    """A model that is cut in place."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 4))
    return fo.localize(model, fo.rules.Projection(classes=4), random_images(FLAT).images[:2])


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused_before_anything_is_written(precision, value, tmp_path):
    net = build("projection", MLP, random_images(FLAT))
    with torch.no_grad():
        net.row[1].body[-2].weight[3, 0] = value
    with pytest.raises(ValueError, match=r"^blocks\.1\.body\..*weight holds NaN or infinity: .* smaller learning_rate"):
        export_c(net, tmp_path / "c", precision=precision, **SGD, **PLAIN)
    assert not (tmp_path / "c").exists()


def localized(*layers):
    """A network by hand, of one block."""
    rule = fo.rules.Projection(classes=4).for_block((8,), BlockPosition(0, 1))
    return Network([Block(nn.Sequential(*layers), rule)], shape=FLAT)


REFUSED = {
    "rule": (
        lambda: build("spatial", CNN, random_images(MAPS)),
        {},
        "cannot hold the rule 'spatial': choose one of hyp",
    ),
    "optimiser": (lambda: build("projection", MLP, random_images(FLAT)), {"optimiser": "adam"}, "choose optimiser sgd"),
    "fixed": (lambda: build("ff", MLP, random_images(FLAT), negatives="fixed"), {}, "negatives hard or uniform"),
    "targets": (lambda: numbers((1, 6, 6), targets="number"), {}, "one class an example, not targets of the kind 'num"),
    "axes": (lambda: numbers((36,)), {}, r"give features as \(features, 1, 1\)"),
    "localized": (in_place, {}, "cut in place: build the network of a body"),
    "stem": (lambda: build("projection", fo.bodies.Six(width=0.1), random_images(MAPS)), {}, "has a stem"),
    "shortcut": (lambda: build("projection", fo.bodies.ResNet17(width=0.04), random_images(MAPS)), {}, "cannot hold"),
    "dropout": (
        lambda: build("projection", fo.bodies.MLP(hidden=(8, 8), dropout=0.5), random_images(FLAT)),
        {},
        "dropout, which C cannot hold: train without it",
    ),
    "layer": (
        lambda: localized(nn.Flatten(), nn.Linear(36, 8), nn.GELU()),
        {},
        "has GELU at 2.*a block may have Linear",
    ),
    "one": (lambda: build("projection", CNN, random_images((1, 8, 8))), {"batch_size": 1}, "needs 2 images"),
    "rates": (lambda: build("projection", MLP, random_images(FLAT)), {"body_rate": 0.5}, "one learning rate for all"),
    "batch": (
        lambda: build("projection", MLP, random_images(FLAT)),
        {"batch_size": 0},
        "batch_size must be at least 1",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_c_cannot_hold_is_refused_before_anything_is_written(case, tmp_path):
    make, options, says = REFUSED[case]
    with pytest.raises(ValueError, match=says):
        export_c(make(), tmp_path / "c", **{"batch_size": 2, **SGD, **options})
    assert not (tmp_path / "c").exists()


def test_a_frozen_block_is_refused(tmp_path):
    net = build("projection", MLP, random_images(FLAT))
    net.row[0].requires_grad_(False)
    with pytest.raises(ValueError, match="frozen"):
        export_c(net, tmp_path / "c", **SGD)


def test_the_command(trained_run, tmp_path, capsys, digits):
    words = ["export", str(trained_run), "--what", "training-step", "--format", "c", "--out", str(tmp_path / "c")]
    given = ["--optimiser", "sgd", "--learning-rate", "0.05", "--momentum", "0", "--batch-size", "1"]
    capsys.readouterr()
    assert cli.main([*words, *given, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["files"] == [str(tmp_path / "c/training_step.c"), str(tmp_path / "c/training_step.h")]
    with Host(tmp_path / "c") as host:
        predicted = host.scores(digits.test.images.numpy()).argmax(1)
    assert (predicted == fo.load(trained_run).predict(digits.test.images).numpy()).all()
    assert "plain SGD, an update with each call" in (tmp_path / "c/training_step.h").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "sgd, not with adamw: choose optimiser sgd"),
        (["--what", "prediction"], "add --what training-step"),
        (["--optimiser", "sgd", "--momentum", "1"], "momentum is a share"),
    ],
)
def test_the_commands_mistakes(trained_run, tmp_path, capsys, words, says):
    capsys.readouterr()
    out = ["--out", str(tmp_path / "c")]
    assert cli.main(["export", str(trained_run), "--format", "c", "--what", "training-step", *out, *words]) == 2
    printed, err = capsys.readouterr()
    assert printed == "" and says in err and err.count("\n") == 1
    assert not (tmp_path / "c").exists()


def test_what_are_no_bytes_is_refused_where_bytes_are_wanted(tmp_path):
    """A cast would make black pictures of floats from 0 to 1."""
    data = random_images(FLAT)
    export_c(build("projection", MLP, data), tmp_path, **SGD)
    pixels = data.images[:3].numpy()
    with Host(tmp_path) as host:
        assert np.array_equal(host.scores(pixels.astype(np.int64)), host.scores(pixels))
        for wrong in (pixels / 255, pixels.astype(np.int64) + 200, -pixels.astype(np.int64)):
            for ask in (host.scores, partial(host.learn, labels=data.labels[:3].numpy())):
                with pytest.raises(ValueError, match="An example is bytes from 0 to 255, not"):
                    ask(wrong)
        assert host.learn(pixels, data.labels[:3].numpy()) == ["ok"] * 3


def test_the_command_refuses_a_run_whose_bodies_learned_slowly(trained_run, tmp_path, capsys):
    run = shutil.copytree(trained_run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["training"]["body_rate"] = 0.1
    (run / "config.json").write_text(json.dumps(config))
    capsys.readouterr()
    words = ["--format", "c", "--what", "training-step", "--optimiser", "sgd"]
    assert cli.main(["export", str(run), *words]) == 2
    assert "C has one learning rate for all weights" in capsys.readouterr().err
    assert not (run / "export").exists()


def test_a_missing_compiler_is_named(tmp_path):
    export_c(build("projection", MLP, random_images(FLAT)), tmp_path, **SGD)
    with pytest.raises(ValueError, match="no C compiler 'no-such-compiler'"):
        Host(tmp_path, compiler="no-such-compiler")
