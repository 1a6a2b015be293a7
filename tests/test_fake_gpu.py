"""A GPU that is not there: no tensor on the wrong device, and the order of copies when blocks are offloaded.

What can be checked without a GPU; `make gpu-check` runs the rest on one.
"""

import argparse
import contextlib
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import forwardonly as fo
from forwardonly.training import TrainingConfig
from forwardonly.training.batch import Batch
from forwardonly.training.memory.offload import HostStore, Offload
from forwardonly.training.step import Context
from forwardonly.training.strategies import whole_step
from forwardonly.training.update import Update


@pytest.mark.parametrize("kind", ["few", pytest.param("all", marks=pytest.mark.slow)])
def test_every_rule_trains_with_all_tensors_on_the_gpu(kind):
    script = Path(__file__).with_name("fake_gpu.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), kind], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert {name: problem for name, problem in seen.items() if problem != "ok"} == {}
    assert {name.split()[0] for name in seen} >= set(fo.rules.TABLE)


class Stream:
    """A stream that notes what is asked of it."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    def wait_stream(self, other):
        self.log.append(("waits", self.name, other.name))


@pytest.fixture
def log(monkeypatch):
    """What happens on the streams of a GPU whose place the CPU takes."""
    log = []
    main = Stream("main", log)

    @contextlib.contextmanager
    def stream(chosen):
        log.append(("on", chosen.name))
        yield
        log.append(("on", "main"))

    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: main)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: log.append(("all wait",)))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, used: None)
    return log


def test_offloading_orders_its_copies_and_nobody_reads_one_under_way(log):
    network = fo.mlp((1, 4, 4), [6, 6, 6], rule=fo.rules.Projection(classes=4))
    moves = [Update(block, TrainingConfig(precision="fp32")) for block in network.row]
    room = Offload(network, moves, torch.device("cpu"))
    room.stores = [HostStore(block, move, torch.device("cpu")) for block, move in zip(network.row, moves, strict=True)]
    for index, store in enumerate(room.stores):
        store.stream = Stream(f"side {index}", log)
    room.device = SimpleNamespace(type="cuda")
    for index, block in enumerate(network.row):
        block.body.register_forward_hook(lambda *_, index=index: log.append(("computes", index)))
    images, labels = torch.randint(0, 256, (5, 1, 4, 4), dtype=torch.uint8), torch.arange(5) % 4
    with room:
        assert log[-1] == ("all wait",)  # or a checkpoint would be loaded into what is still copied
        log.clear()
        whole_step(network, moves, Batch(network.present(images, labels), labels), Context("fp32"))
        for index in range(3):
            load, compute = log.index(("waits", "main", f"side {index}")), log.index(("computes", index))
            assert log.index(("on", f"side {index}")) < load < compute
        for index in range(2):
            unload = log.index(("waits", f"side {index}", "main"))
            assert log.index(("computes", index)) < unload and log[unload + 1] == ("on", f"side {index}")
        log.clear()
        network.state_dict()
        assert log and set(log) == {("all wait",)}  # or it would hold what is not copied yet
    assert log[-1] == ("all wait",)


@pytest.mark.slow
def test_gpu_check_runs_and_record_takes_its_line(tmp_path, monkeypatch):
    """On a CPU and of few runs, two of them of two processes: what `make gpu-check` is ready for."""
    benchmarks = Path(__file__).parent.parent / "benchmarks"
    words = [
        sys.executable,
        str(benchmarks / "gpu_check.py"),
        "--device",
        "cpu",
        "--quick",
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "out").read_text())
    assert json.loads(done.stdout) == content and content["options"]["failed"] == []
    assert all(own["seconds"] > 0 for own in content["arms"].values())
    monkeypatch.syspath_prepend(str(benchmarks))
    record = importlib.import_module("record")
    chosen = argparse.Namespace(id="gpu/check", machine="a CPU", alone=False, precision=None, note=None)
    assert record.timing_line(content, "abc", chosen)["arms"] == content["arms"]
