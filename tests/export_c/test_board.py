"""The C file on an emulated Cortex-M4 without an operating system: the same weights as here."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import forwardonly as fo
from forwardonly.export import export_c, write_saved
from forwardonly.export.c.host import Host
from forwardonly.export.c.int8 import Int8Learner
from forwardonly.export.c.reading import make_plan
from forwardonly.export.c.saved import int8_content

from .common import CNN, FLAT, MLP, PLAIN, SEPARABLE, build, random_images, xorshift32

ROOT = Path(__file__).parents[2]
GIVEN = {"optimiser": "sgd", "learning_rate": 0.02, **PLAIN, "weight_decay": 0.0}
NETS = {
    "hyperspherical": (MLP, FLAT, {}, {}),
    "projection": (SEPARABLE, (2, 6, 7), {"features": 30}, {}),
    "channel-static": (MLP, FLAT, {}, {"batch_size": 4, "clip": 0.5}),
    "ff": (CNN, (1, 12, 12), {}, {"batch_size": 3}),  # with batch norm and label classifier
}


def device():
    """benchmarks/device.py, which builds for the board and runs the emulator."""
    spec = importlib.util.spec_from_file_location("device", ROOT / "benchmarks/device.py")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules["device"] = loaded  # its dataclasses look there
    spec.loader.exec_module(loaded)
    return loaded


DEVICE = device()
pytestmark = pytest.mark.skipif(DEVICE.missing_tools() is not None, reason=str(DEVICE.missing_tools()))


def on_the_board(folder):
    """The weights that the board has learned, as saved."""
    said = DEVICE.emulated(DEVICE.built(folder, Path(__file__).with_name("board.c")))
    return bytes.fromhex(said.strip())


def examples(net, count=60):
    """The examples and labels that board.c draws."""
    draws = xorshift32(7)
    for _ in range(count):
        pixels = np.array([next(draws) & 0xFF for _ in range(int(np.prod(net.shape)))], np.uint8)
        yield pixels.reshape(net.shape), next(draws) % net.classes


@pytest.mark.parametrize("rule", NETS)
def test_int8_learns_the_same_bits(rule, tmp_path):
    body, shape, options, training = NETS[rule]
    given = {**GIVEN, "batch_size": 1, "clip": None, **training}
    net = build(rule, body, random_images(shape), **options)
    export_c(net, tmp_path, precision="int8", **given)
    python = Int8Learner(make_plan(net, precision="int8", **given))
    for image, label in examples(net):
        python.learn(image, label)
    saved = on_the_board(tmp_path)
    assert saved != write_saved(net, precision="int8")
    assert saved[20:] == int8_content(python.plan, python.held)


@pytest.mark.parametrize("rule", NETS)
def test_float32_learns_the_same_up_to_rounding(rule, tmp_path):
    body, shape, options, training = NETS[rule]
    net = build(rule, body, random_images(shape), **options)
    export_c(net, tmp_path, **GIVEN, **training)
    with Host(tmp_path) as host:
        for image, label in examples(net):
            assert host.learn(image[None], [label]) == ["ok"]
        here = np.frombuffer(host.save()[20:], np.float32)
    there = np.frombuffer(on_the_board(tmp_path)[20:], np.float32)
    np.testing.assert_allclose(there, here, rtol=1e-5, atol=1e-5)


def test_the_benchmark_measures_a_net(tmp_path):
    net = DEVICE.Net(fo.bodies.MLP(hidden=(16, 16)), (1, 8, 8), "projection")
    local, theirs = (DEVICE.measure(net, rule, "float32") for rule in ("projection", "backprop"))
    assert local["in_all"] <= local["static_bytes"] < local["in_all"] + 256  # errno of the C library
    assert 1000 < local["code_bytes"] < 65536 and 0 < local["stack_bytes"] < 4096
    weights = 64 * 16 + 16 * 16 + 2 * 16 * 10
    assert local["instructions_learn"] > 2 * weights
    assert local["instructions_predict"] < local["instructions_learn"]
    assert local["activations_of_one_block"] < theirs["activations_of_one_block"]


def test_the_benchmark_measures_a_new_class():
    net = DEVICE.Net(fo.bodies.MLP(hidden=(16, 16)), (1, 8, 8), "projection")
    found = DEVICE.measure(net, "hyperspherical", "float32", DEVICE.SPARE)
    assert found["constants"] == 2 * 4 * (16 * 17 + (2 + 10) * 16 + 1)
    assert found["constants"] < found["code_bytes"] < found["constants"] + 65536 and 0 < found["stack_bytes"] < 4096
    forward, covariances = 10 * (64 * 16 + 16 * 16), 2 * 10 * 16 * 17  # multiplications and additions
    assert forward + covariances < found["instructions_add_class"] < 50 * (forward + covariances)
    assert "instructions_learn" not in found  # labels of classes that are not there yet are refused
