"""Recipes for convolutional networks: `forwardonly train` accepts every line, for 10, 100 and 200 classes."""

from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import forwardonly as fo
from forwardonly.cli import train
from forwardonly.cli.parsing import parse
from forwardonly.data.sources import SOURCES as SOURCES_OF_DATA
from forwardonly.experiments.recipes import locality, tinycnn
from forwardonly.experiments.recipes.convolutional import SOURCES
from forwardonly.experiments.reproduce import find

SCALES = ("quick", "cpu", "full")
LINES = {
    "tinycnn": tinycnn.lines,
    "price-of-locality": locality.lines,
    **{name: make for name, (make, _, _) in SOURCES.items()},
}


def parsed(words):
    return parse(train.options(words), words, prog="forwardonly train", description="")


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", LINES)
def test_every_line_is_a_command_whose_network_suits_its_data(name, scale):
    rows = LINES[name](scale)
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        chosen = parsed(["--data", row.data, *row.options_of_train()])
        assert (chosen.rule, chosen.data, chosen.body) == (row.rule, row.data, row.body)
        held = 1_000 if (scale, row.name) == ("cpu", "channel-learnable, cifar-10, six convolutions") else 5_000
        assert chosen.validation == held or row.options.get("readout", "sum") in ("sum", "last", "skip-first")
        source = SOURCES_OF_DATA[row.data]
        images = SimpleNamespace(shape=source.shape, classes=range(source.classes))
        with torch.device("meta"):  # shapes without weights
            assert chosen.build(images, chosen.make_rule(images)).classes == source.classes


@pytest.mark.parametrize("name", ["tinycnn", "lcca", "deeperforward"])
def test_no_row_learns_from_mirrored_digits(name):
    rows = [row for row in LINES[name]("cpu") if row.data == "mnist"]
    assert {parsed(["--data", row.data, *row.options_of_train()]).augmentation.flip for row in rows} == {"none"}


@pytest.mark.parametrize("data", ["cifar-100", pytest.param("tiny-imagenet", marks=pytest.mark.slow)])
def test_sets_that_are_not_here_are_exercised_on_generated_ones(data, tmp_path):
    """100 and 200 classes of two images each, through the same options at their smallest."""
    classes, generator = SOURCES_OF_DATA[data].classes, np.random.default_rng(0)
    labels = np.tile(np.arange(classes), 2)
    images = generator.integers(0, 256, (len(labels), 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "made.npz", x=images, y=labels, x_test=images[:20], y_test=labels[:20])
    for row in [row for row in SOURCES["lcca"][0]("quick") if row.data == data]:
        options = {
            **row.options,
            "validation": 0,
            "readout": "sum",
            "width": classes / 64,
            "epochs": 1,
            "batch-size": classes,
        }
        chosen = parsed(
            ["--data", str(tmp_path / "made.npz"), "--rule", row.rule, "--body", "cnn"]
            + [word for name, value in options.items() for word in (f"--{name}", str(value))]
        )
        images_of = fo.data.load(chosen.data)
        rule = fo.rules.TABLE[row.rule](classes=classes)
        network = fo.build(fo.bodies.CNN(**asdict(chosen.network)), images_of.train.shape, rule=rule)
        run = fo.fit(network, images_of.train, test=images_of.test, epochs=1, batch_size=classes, precision="fp32")
        assert len(run.history[0]["loss"]) == len(network.row)
        assert np.isfinite(run.history[0]["loss"]).all()
        right = network.predict(images_of.test.images) == images_of.test.labels
        assert run.result["test_accuracy"] == right.float().mean()
        assert network.scores(images_of.test.images).shape == (len(network.row), 20, classes)


@pytest.mark.parametrize("scale", ["quick", "cpu", "full"])
@pytest.mark.parametrize("name", SOURCES)
def test_reproduce_knows_them(name, scale):
    table = find(name, scale)
    assert [row.name for row in table.rows] == [arm.name for arm in table.arms] == list(table.data)
