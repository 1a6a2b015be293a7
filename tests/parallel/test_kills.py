"""Convolutional runs that die at every moment in turn, by SIGKILL, and go on each time: the bits of one left alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import forwardonly as fo

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="matrix.py forks its processes")
HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
MOMENTS = [
    *("in-an-epoch", "half-a-checkpoint", "unnamed-checkpoint", "checkpoint-without-metrics", "first-step"),
    *("final-evaluation", "half-a-network", "network-without-result"),
]
BODIES = ("conv", "six", "vgg8b", "resnet17", "resnet18")
ALL = "sgd adamw muon rmsprop nadam adafactor"
ENDS = {"weights": 0.0, "history": True, "result": True, "left": []}


@pytest.mark.parametrize(
    ("way", "body", "optimisers"),
    [
        ("alone", "conv", "adamw"),
        *(pytest.param("alone", body, ALL, marks=pytest.mark.slow) for body in BODIES),
        *(
            pytest.param(way, body, "adamw muon", marks=pytest.mark.slow)
            for way in ("data", "layers", "budget")
            for body in BODIES
        ),
    ],
)
def test_a_run_that_dies_at_every_moment_ends_in_the_same_bits(way, body, optimisers):
    words = ["--ways", way, "--bodies", body, "--optimisers", *optimisers.split()]
    done = subprocess.run(
        [sys.executable, str(HERE / "matrix.py"), *words], env=ENVIRONMENT, capture_output=True, text=True, timeout=900
    )
    seen = json.loads(done.stdout or "{}")
    assert len(seen) == len(optimisers.split()), done.stderr[-3000:]
    for name, found in seen.items():
        assert found.pop("died") == dict.fromkeys(MOMENTS, -9), (name, found)
        assert found == ENDS, (name, found)
    assert done.returncode == 0


@pytest.fixture
def words(tmp_path):
    """The options of a small run of convolutions by the command line."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (120, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", x=pixels, y=np.arange(120) % 4)
    options = {"data": tmp_path / "set.npz", "validation": 20, "body": "conv", "depth": 3, "channels": 6}
    options |= {"rule": "projection", "optimiser": "adamw", "epochs": 2, "batch-size": 16, "checkpoint-every": 2}
    return ["train", *(word for name, value in options.items() for word in (f"--{name}", str(value))), "--json"]


def killed_alone(words, out, moments):
    """The command, started again with --resume after each death, as a person would."""
    for start in range(len(moments) + 1):
        resume = ["--resume"] if (out / "config.json").exists() else []
        done = subprocess.run(
            [sys.executable, str(HERE / "moments.py"), ",".join(moments), *words, "--out", str(out), *resume],
            env={**ENVIRONMENT, "FORWARDONLY_START": str(start)}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == (-9 if start < len(moments) else 0), done.stderr
    return json.loads(done.stdout)


def killed_by_torchrun(words, out, moments):
    """torchrun with two processes, which starts both again after each death."""
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    restarts = ["--max-restarts", str(len(moments)), "--monitor-interval", "0.1"]
    done = subprocess.run(
        [*start, *restarts, str(HERE / "moments.py"), ",".join(moments), *words, "--out", str(out)],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("exitcode: -9") >= len(moments), done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "more"),
    [
        (killed_alone, []),
        (killed_alone, ["--memory-budget", "2GiB"]),
        (killed_by_torchrun, []),
        (killed_by_torchrun, ["--stages", "2"]),
    ],
    ids=["alone", "budget", "data", "layers"],
)
def test_the_command_that_dies_at_every_moment_ends_in_the_same_bits(words, tmp_path, way, more):
    moments = MOMENTS if way is killed_alone else ["in-an-epoch", "unnamed-checkpoint", "final-evaluation"]
    results = [way([*words, *more], tmp_path / name, given) for name, given in (("killed", moments), ("whole", []))]
    weights, expected = (fo.load(tmp_path / name).state_dict() for name in ("killed", "whole"))
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    assert results[0]["test_accuracy"] == results[1]["test_accuracy"]
    assert not list((tmp_path / "killed").rglob(".*"))
