"""What docs/security.md and docs/scaling.md promise and no other test holds: no code from files, files whole or not."""

import ast
import json
import os
import re
import stat
import sys
import weakref
from pathlib import Path

import pytest
import torch

import forwardonly as fo
from forwardonly.training import Team, TrainingConfig, compatibility
from forwardonly.training.batch import Batch
from forwardonly.training.distributed.messages import Pipe
from forwardonly.training.progress import Position
from forwardonly.training.session import open_session
from forwardonly.training.step import Context, train_step

ROOT = Path(__file__).parent.parent
SOURCES = sorted(Path(fo.__file__).parent.rglob("*.py"))
RUN_CODE = {"eval", "exec", "compile", "__import__"}
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "runpy", "imp"}


def dangerous(source):
    """Calls and imports in some source that run what a file holds."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] in UNPICKLERS]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module] if (node.module or "").partition(".")[0] in UNPICKLERS else []
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            found += [name] if name in RUN_CODE or name in ("torch.load", "torch.jit.load") else []
            found += [
                name for word in node.keywords if word.arg == "allow_pickle" and ast.unparse(word.value) != "False"
            ]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_source_unpickles_or_runs_what_it_reads(path):
    assert dangerous(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(f, weights_only=True)",
        "eval(x)",
        "np.load(f, allow_pickle=1)",
    ],
)
def test_what_runs_a_file_is_found(source):
    assert dangerous(source)


@pytest.mark.parametrize("page", ["security.md", "scaling.md"])
def test_the_tests_that_a_page_names_exist(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for name in re.findall(r"`(tests/[\w/.]+)`", text):
        assert (ROOT / name).exists(), name


def test_loading_a_network_opens_nothing_outside_its_folder(images, tmp_path):
    """Whatever paths and names a config holds."""
    folder, elsewhere = tmp_path / "net", tmp_path / "elsewhere.npz"
    fo.save(fo.mlp(images.shape, [8], rule=fo.rules.Projection(classes=4)), folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"data": {"name": str(elsewhere), "data_dir": str(tmp_path)}, "import": "antigravity", "model": "../a"}
    (folder / "config.json").write_text(json.dumps(config))
    watching, opened = True, []

    def hook(event, given):  # cannot be taken away again
        if watching and event in ("open", "os.listdir", "os.scandir", "import"):
            opened.append(str(given[0]))

    sys.addaudithook(hook)
    fo.load(folder)
    watching = False
    assert str(folder / "config.json") in opened
    assert "antigravity" not in opened
    assert not [name for name in opened if name.startswith(str(tmp_path)) and not name.startswith(f"{folder}/")]


@pytest.fixture
def calls(monkeypatch):
    """Syncs and renames in their order."""
    log, sync, replace = [], os.fsync, Path.replace

    def fsync(handle):
        log.append("sync folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "sync file")
        sync(handle)

    def rename(self, target):
        log.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    return log


def test_every_file_of_a_run_is_synced_then_renamed_then_its_folder_synced(images, tmp_path, calls):
    network = fo.mlp(images.shape, [8], rule=fo.rules.Projection(classes=4))
    fo.fit(network, images, epochs=1, out=tmp_path / "run")
    assert len(calls) >= 3 * 3 and calls == ["sync file", "rename", "sync folder"] * (len(calls) // 3)


def test_only_the_first_process_writes(images, tmp_path, monkeypatch):
    team = Team()
    monkeypatch.setattr(Team, "leads", False)
    network = fo.mlp(images.shape, [8], rule=fo.rules.Projection(classes=4))
    fo.fit(network, images, epochs=1, out=tmp_path / "run", team=team)
    assert list(tmp_path.rglob("*.*")) == []


@pytest.mark.parametrize(("sharing", "name"), [({"workers": 3}, "workers"), ({"stages": 3}, "processes")])
def test_more_workers_or_stages_than_blocks_are_refused(images, sharing, name):
    team = Team()
    team.stages = sharing.pop("stages", 1)
    network = fo.mlp(images.shape, [8, 8], rule=fo.rules.Projection(classes=4))
    setting = compatibility.Setting(TrainingConfig(**sharing), network, None, team)
    with pytest.raises(ValueError, match=f"3 {name} cannot share 2 block"):
        compatibility.check_counts(setting, len(images))


class Transfer:
    """Something that is sent or summed, and counted until it is waited for."""

    flying = most = 0

    def __init__(self):
        Transfer.flying += 1
        Transfer.most = max(Transfer.most, Transfer.flying)

    def wait(self):
        Transfer.flying -= 1


@pytest.fixture
def transfers(monkeypatch):
    monkeypatch.setattr(Transfer, "flying", 0)
    monkeypatch.setattr(Transfer, "most", 0)
    return Transfer


def team_of(replicas=1, stages=1, replica=0, stage=0):
    """A team as one of its processes sees it, without the others."""
    team = Team()
    team.world, team.replicas, team.stages = replicas * stages, replicas, stages
    team.replica, team.stage = replica, stage
    return team


def test_at_most_two_gradient_buffers_exist(images, monkeypatch):
    """Of a row of six blocks, while they learn from three batches."""
    buffers, most = [], []

    class Sum:
        def wait(self):
            pass

    def all_reduce(gradient, **_):
        buffers.append(weakref.ref(gradient))
        most.append(sum(buffer() is not None for buffer in buffers))
        return Sum()

    monkeypatch.setattr("forwardonly.training.distributed.team.dist.all_reduce", all_reduce)
    network = fo.mlp(images.shape, [7] * 6, rule=fo.rules.Projection(classes=4))
    team = team_of(replicas=2)
    updates = [team.update(block, TrainingConfig(), 8) for block in network.row]
    for _ in range(3):
        train_step(network.row, updates, Batch(torch.rand(8, 36), torch.arange(8) % 4), Context("fp32"))
        team.finish()
        assert not any(buffer() is not None for buffer in buffers)
    assert len(most) == 18 and max(most) == 2


@pytest.mark.parametrize("direction", ["send", "receive"])
def test_two_batches_are_under_way_in_each_direction(transfers, monkeypatch, direction):
    batch, headers = Batch(torch.rand(4, 3), torch.arange(4)), []
    dist = "forwardonly.training.distributed.messages.dist"
    monkeypatch.setattr(f"{dist}.isend", lambda part, *_, **__: transfers())
    monkeypatch.setattr(f"{dist}.irecv", lambda part, *_, **__: transfers())
    monkeypatch.setattr(f"{dist}.send", lambda header, *_: headers.append(header))
    monkeypatch.setattr(f"{dist}.recv", lambda header, *_: header.copy_(headers[0]))
    pipe, tensors = Pipe(team_of(stages=2), torch.device("cpu")), 2
    pipe.send(batch)
    pipe.flush()
    transfers.most = 0
    seen = []
    for number in range(6):
        if direction == "send":
            pipe.send(batch)
        else:
            pipe.receive(more=number < 5)
        seen.append(transfers.flying // tensors)
    pipe.flush()
    assert transfers.flying == 0 and transfers.most == 2 * tensors
    assert seen == ([1, 2, 2, 2, 2, 2] if direction == "send" else [1, 1, 1, 1, 1, 0])


def test_dropout_is_drawn_from_the_seed_and_the_place_of_a_block(images):
    """Whichever process has the block, and whatever was drawn before it."""
    network = fo.mlp(images.shape, [20, 20, 20], rule=fo.rules.Projection(classes=4), dropout=0.5)
    updates, drawn = [team_of().update(block, TrainingConfig(), 8) for block in network.row], []
    for block in network.row:
        block.register_forward_pre_hook(lambda *_: drawn.append(torch.initial_seed()))
    for first in range(3):
        torch.rand(first + 1)
        arrived = Batch(torch.rand(8, 20 if first else 36), torch.arange(8) % 4)
        train_step(network.row[first:], updates[first:], arrived, Context("fp32", seed=9, first=first))
    assert len(set(drawn[:3])) == 3
    assert drawn[3:] == drawn[1:3] + drawn[2:3]


def test_replicas_have_dropout_masks_of_their_own_and_their_stages_share_them(images):
    network = fo.mlp(images.shape, [8], rule=fo.rules.Projection(classes=4))
    config, places = TrainingConfig(), [Position(0, step // 5, step % 5, step, False) for step in range(10)]
    seeds = {}
    for replica, stage in ((0, 0), (0, 1), (1, 0), (1, 1)):
        team = team_of(2, 2, replica, stage)
        feed = open_session(network, images, config, torch.device("cpu"), 3, team, len(images)).feed
        seeds[replica, stage] = [feed.dropout_seed(place) for place in places]
    assert seeds[0, 0] == seeds[0, 1] and seeds[1, 0] == seeds[1, 1]
    assert len({*seeds[0, 0], *seeds[1, 0]}) == 20
