"""Runs of many processes: the same weights as in one process, and a clear end when one of them is lost."""

import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from itertools import combinations, pairwise

import pytest
import torch

import forwardonly as fo
from forwardonly.training import LostPeer, Team, TrainingConfig, join
from forwardonly.training.batch import Batch
from forwardonly.training.distributed.heartbeat import Heartbeat
from forwardonly.training.distributed.messages import _header, _in_memory_order, _shapes
from forwardonly.training.session import open_session
from forwardonly.training.step import Context, train_step
from forwardonly.training.strategies.pipeline import balance, spread

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="crew.py forks its processes")


def test_many_processes_give_the_weights_of_one(tmp_path, crew):
    seen = crew("same", tmp_path)
    assert len(seen) == 20
    for name, found in seen.items():
        assert "weights" in found, (name, found)
        stages, world = map(int, re.findall(r"\d+", name.rpartition(",")[2]))
        if stages == world:  # nothing is summed over replicas
            assert found == {"weights": 0.0, "losses": 0.0}, name
        else:
            assert found["weights"] < 1e-5 and found["losses"] < 1e-5, (name, found)


def test_a_run_goes_on_with_any_number_of_processes(tmp_path, crew):
    seen = crew("regroup", tmp_path)
    assert seen["stages"] == {"weights": 0.0, "losses": 0.0}  # nothing is summed over replicas
    assert 0 < seen["all"]["weights"] < 1e-5 and seen["all"]["losses"] < 1e-5


def test_processes_that_would_choose_another_precision_take_the_leaders(tmp_path, crew):
    assert crew("measure-otherwise", tmp_path) == {"status": [0, 0], "said": ["", ""], "weights": 0.0}


@pytest.mark.slow
def test_frozen_blocks_stay_and_the_others_learn_as_in_one_process(tmp_path, crew):
    seen = crew("frozen", tmp_path)
    assert len(seen) == 15
    for name, found in seen.items():
        assert not any(found["status"]), (name, found)
        assert found["moved"] == [index for index in range(4) if index not in found["frozen"]], (name, found)
        if name.endswith("2 stages of 2"):
            assert found["weights"] == 0.0, (name, found)
        elif not name.startswith("norms"):  # each process has its own part of a batch
            assert found["weights"] < 1e-5, (name, found)


@pytest.mark.parametrize(
    ("way", "rank"),
    [("data", 1), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (("data", 0), ("layers", 1)))],
)
def test_a_process_that_cannot_measure_loses_no_result(tmp_path, way, rank, crew):
    """Out of memory in one process, between epochs and at the end; the others must not wait for its part for ever."""
    seen = crew(f"fails-{way}-{rank}", tmp_path)
    reason = f"failed: no room for a thousand images (on rank {rank} of 2)"
    assert seen["status"] == [0, 0]
    assert seen["weights"] < (1e-5 if way == "data" else 1e-20)
    for row in seen["history"]:
        assert row["notes"] == [f"After an epoch, measuring the validation accuracy {reason}"]
    works = ["fitting the readout 'range'", "measuring the validation accuracy", "measuring the test accuracy"]
    assert seen["result"]["notes"] == [f"After training, {work} {reason}" for work in works]
    assert seen["result"]["test_accuracy"] is None and seen["readout"] == [1.0] * 4


@pytest.mark.slow
@pytest.mark.parametrize("way", ["alone", "data", "layers"])
def test_a_run_killed_at_twenty_random_moments_ends_in_the_same_bits(tmp_path, way, crew):
    seen = crew(f"kill-{way}", tmp_path)
    assert seen["kills"] == 20
    assert len(set(seen["epochs"])) >= 3, "the kills came all at one place"
    assert seen["runs"] and all(run == [0.0, True] for run in seen["runs"])


@pytest.mark.parametrize("way", ["data", pytest.param("layers", marks=pytest.mark.slow)])
def test_a_process_that_dies_or_hangs_is_named(tmp_path, way, crew):
    for name, found in crew(f"lose-{way}", tmp_path).items():
        assert found["status"] == [2, 2], (name, found)
        assert found["said"][0] == found["said"][2] == "Rank 1 of 3 died or hangs: the last checkpoint is kept."


@pytest.mark.parametrize(
    ("costs", "stages", "slices"),
    [
        ([1, 1, 1, 1], 2, [(0, 2), (2, 4)]),
        ([5, 1, 1, 1, 1, 1], 2, [(0, 1), (1, 6)]),
        ([1, 2, 3, 4], 3, [(0, 2), (2, 3), (3, 4)]),
        ([1, 1, 9], 3, [(0, 1), (1, 2), (2, 3)]),
        ([3], 1, [(0, 1)]),
    ],
)
def test_blocks_are_spread_so_that_the_slowest_stage_is_fastest(costs, stages, slices):
    assert [(part.start, part.stop) for part in balance(costs, stages)] == slices


def test_the_balance_is_as_good_as_any(seeds=20):
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        costs = torch.rand(7, generator=generator).tolist()
        for stages in range(1, 8):
            parts = balance(costs, stages)
            assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])] and parts[-1].stop == 7
            every = [[0, *cuts, 7] for cuts in combinations(range(1, 7), stages - 1)]
            best = min(max(sum(costs[a:b]) for a, b in pairwise(c)) for c in every)
            assert math.isclose(max(sum(costs[part]) for part in parts), best)


def test_preparing_a_batch_counts_as_work_of_the_first_stage():
    net = fo.mlp((1, 4, 4), [8, 8, 8, 8], rule=fo.rules.Projection(classes=3))
    team = Team(world=2, stages=2)
    team.all_reduce = lambda costs: costs

    def prepare(seconds):
        time.sleep(seconds)
        return Batch(torch.rand(8, 16), torch.arange(8) % 3)

    config = TrainingConfig(precision="fp32", device="cpu")
    images = fo.data.Images(torch.zeros(8, 1, 4, 4, dtype=torch.uint8), torch.arange(8) % 3, ("a", "b", "c"), "blank")
    session = open_session(net, images, config, torch.device("cpu"), 0, team, 8)
    assert spread(session, lambda: prepare(0.5)) == [slice(0, 1), slice(1, 4)]


def test_a_batch_arrives_with_the_order_in_memory_that_it_had():
    """Maps sorted by channel would go through other kernels: slower ones, and other bits."""
    maps = torch.randn(2, 3, 4, 5, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    sent = Batch((maps, torch.randn(2, 6, 1, 1), torch.randn(2, 7).T), torch.arange(2))
    for part, (shape, dtype, order) in zip([*sent.signal, sent.labels], _shapes(_header(sent)), strict=True):
        there = torch.empty(shape, dtype=dtype, memory_format=order)
        assert _in_memory_order(part).is_contiguous() and _in_memory_order(part).shape == _in_memory_order(there).shape
        _in_memory_order(there).copy_(_in_memory_order(part))
        assert torch.equal(there, part)
        if part.dim() == 4:
            assert there.stride() == part.stride()


def test_gradients_are_added_up_while_the_next_block_computes(monkeypatch):
    events = []

    class Adding:
        def __init__(self, gradient):
            self.block = next(k for k, block in enumerate(net.row) if gradient.numel() == size(block))
            events.append(("starts to add", self.block))

        def wait(self):
            events.append(("waits for", self.block))

    def size(block):
        return sum(parameter.numel() for parameter in block.parameters())

    def note(block, _):
        events.append(("computes", list(net.row).index(block)))

    net = fo.mlp((1, 4, 4), [7, 6, 5], rule=fo.rules.Projection(classes=3))
    team = Team()
    team.replicas = 2
    updates = [team.update(block, TrainingConfig(), 8) for block in net.row]
    monkeypatch.setattr("forwardonly.training.distributed.team.dist.all_reduce", lambda gradient, **_: Adding(gradient))
    for block in net.row:
        block.register_forward_pre_hook(note)
    train_step(net.row, updates, Batch(torch.rand(8, 16), torch.arange(8) % 3), Context("fp32"))
    team.finish()
    assert events == [
        ("computes", 0), ("starts to add", 0),
        ("computes", 1), ("starts to add", 1), ("waits for", 0),
        ("computes", 2), ("starts to add", 2), ("waits for", 1),
        ("waits for", 2),
    ]  # fmt: skip


def test_running_statistics_of_a_model_in_place_are_averaged_over_replicas(monkeypatch):
    norm = torch.nn.BatchNorm1d(4)
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), norm, torch.nn.Linear(4, 3))
    network = fo.localize(model, fo.rules.Projection(classes=3), torch.randn(5, 6), blocks=1)
    team = Team()
    team.world = team.replicas = 2
    monkeypatch.setattr(f"{join.__module__}.dist.broadcast", lambda first, *_, **__: None)
    monkeypatch.setattr(
        f"{join.__module__}.dist.all_reduce", lambda apart, **_: apart.add_(2.0)
    )  # the other's is 2 more
    before = norm.running_mean.clone()
    team.sync(network, [slice(0, len(network.row))])
    assert torch.equal(norm.running_mean, before + 1)


def test_replicas_share_a_batch_without_gap_or_overlap():
    for count, replicas in ((16, 3), (7, 7), (100, 8)):
        teams = []
        for rank in range(replicas):
            team = Team()
            team.replicas, team.replica = replicas, rank
            teams.append(team)
        parts = [team.part(count) for team in teams]
        assert [k for part in parts for k in range(count)[part]] == list(range(count))
        assert sum(team.weight(count) for team in teams) == pytest.approx(1)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"stages": 2}, "There is only one process for 2 stages: start more with `torchrun"),
        ({"stages": 0}, "There is only one process for 0 stages"),
        ({"timeout": 0.0}, "must be positive"),
    ],
)
def test_ways_of_sharing_that_make_no_sense_are_refused(monkeypatch, how, sentence):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ValueError, match=sentence), join(**how):
        pass


def test_a_slow_download_is_waited_for_and_a_dead_one_is_not(monkeypatch):
    monkeypatch.setattr("forwardonly.training.distributed.heartbeat.BEAT", 0.05)
    monkeypatch.setenv("LOCAL_RANK", "0")
    store = torch.distributed.HashStore()
    beats = [Heartbeat(store, rank, 2) for rank in range(2)]
    first, second = (Team(rank, 2, 1, beats[rank], timeout=0.5) for rank in range(2))

    def download():
        with first.first_on_machine():
            begun.set()
            time.sleep(1.0)  # twice the timeout

    begun, slow = threading.Event(), threading.Thread(target=download)
    slow.start()
    begun.wait()
    monkeypatch.setenv("LOCAL_RANK", "1")
    with second.first_on_machine():
        assert store.check(["first/0"])
    slow.join()
    beats[0].stop()
    store.delete_key("first/0")
    with pytest.raises(LostPeer, match="Rank 0 of 2 died or hangs"), second.first_on_machine():
        pass
    beats[1].stop()


def test_processes_that_make_no_whole_pipelines_are_refused():
    with pytest.raises(ValueError, match="3 processes cannot make pipelines of 2: choose a divisor of 3"):
        Team(0, 3, 2)


def test_a_process_that_never_comes_ends_the_wait(monkeypatch):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(LostPeer, match="Not all 2 processes came"), join(timeout=1.0):
        pass


@pytest.mark.slow
def test_torchrun_starts_a_run_again_after_a_worker_was_killed(tmp_path):
    """As a user runs it: the second attempt goes on from the checkpoint, to the bits of a run of one process."""
    killer = tmp_path / "killer.py"
    killer.write_text(
        "import os, runpy, signal, sys, threading, time\n"
        "from pathlib import Path\n"
        f"out = Path({str(tmp_path / 'run')!r})\n"
        "def strike():\n"
        "    while not list(out.glob('checkpoint/*-*')): time.sleep(0.005)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "if os.environ['RANK'] == '1' and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':\n"
        "    threading.Thread(target=strike, daemon=True).start()\n"
        "runpy.run_module('forwardonly', run_name='__main__', alter_sys=True)\n"
    )
    options = ["train", "--data", "digits", "--epochs", "12", "--hidden", "20", "20", "--precision", "fp32", "--json"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    many = subprocess.run(
        [*start, str(killer), *options, "--stages", "2", "--out", str(tmp_path / "run")],
        env=env, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert many.returncode == 0, many.stderr[-3000:]
    assert "Signal 9" in many.stderr or "exitcode: -9" in many.stderr, many.stderr[-3000:]
    result = json.loads(many.stdout)
    assert result["processes"] == 2
    one = subprocess.run(
        [sys.executable, "-m", "forwardonly", *options, "--out", str(tmp_path / "alone")],
        env=env, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert one.returncode == 0, one.stderr
    expected = fo.load(tmp_path / "alone").state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in fo.load(tmp_path / "run").state_dict().items())
    assert json.loads(one.stdout)["test_accuracy"] == result["test_accuracy"]
