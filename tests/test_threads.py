"""How many threads a training takes: the cores that its process may use, told in the config, the same when resumed."""

import json
import os

import pytest
import torch

import forwardonly as fo
from forwardonly import cli
from forwardonly.system import cores, threads


@pytest.fixture
def four_threads(monkeypatch):
    """A machine of four cores, all of which PyTorch takes."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(4)), raising=False)
    monkeypatch.setattr(cores, "quota", lambda: None)
    with threads.using(4):
        yield


def written(root, files):
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        (  # a group inside another
            {
                "proc/self/cgroup": "0::/system.slice/run\n",
                "sys/fs/cgroup/system.slice/cpu.max": "200000 100000\n",
                "sys/fs/cgroup/system.slice/run/cpu.max": "max 100000\n",
            },
            2.0,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/docker/a\n4:memory:/docker/a\n",
                "sys/fs/cgroup/cpu/docker/a/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/docker/a/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nonsense\n"}, None),
    ],
)
def test_the_quota_of_a_container_is_read(tmp_path, files, limit):
    assert cores.quota(written(tmp_path, files)) == limit


@pytest.mark.parametrize(("quota", "expected"), [(None, 4), (2.0, 2), (1.5, 2), (0.2, 1), (8.0, 4)])
def test_pytorch_gets_no_more_threads_than_the_process_may_use_cores(four_threads, monkeypatch, quota, expected):
    monkeypatch.setattr(cores, "quota", lambda: quota)
    assert threads.own_number() == expected
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    torch.set_num_threads(3)
    assert threads.own_number() == 3


def fit(images, **options):
    seen = []
    net = fo.mlp(images.shape, [8], rule=fo.rules.Projection(classes=4))
    run = fo.fit(
        net,
        images,
        epochs=options.pop("epochs", 1),
        progress=lambda event: seen.append(torch.get_num_threads()),
        **options,
    )
    return run, set(seen)


def test_a_run_tells_its_threads_and_keeps_them_when_it_is_resumed(four_threads, images, monkeypatch, tmp_path):
    monkeypatch.setattr(cores, "quota", lambda: 2.0)
    assert fit(images, out=tmp_path / "run")[1] == {2}
    assert torch.get_num_threads() == 4
    assert json.loads((tmp_path / "run" / "config.json").read_text())["training"]["threads"] == 2

    monkeypatch.setattr(cores, "quota", lambda: None)
    assert fit(images, out=tmp_path / "run", resume=True, epochs=2)[1] == {2}
    assert fit(images, out=tmp_path / "run", resume=True, epochs=3, threads=3)[1] == {3}
    monkeypatch.setattr(cores, "quota", lambda: 1.0)
    with pytest.warns(
        fo.training.RunWarning, match="goes on with its 3 threads, to the same bits; .* threads=1 is faster"
    ):
        assert fit(images, out=tmp_path / "run", resume=True, epochs=4)[1] == {3}


def test_a_number_of_threads_is_one_at_least(images, capsys):
    with pytest.raises(ValueError, match="threads must be at least 1, not 0"):
        fit(images, threads=0)
    assert cli.main(["bench", "step", "--threads", "0"]) == 2
    assert "--threads must be at least 1, not 0" in capsys.readouterr().err
