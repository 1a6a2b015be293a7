"""What docs/security.md and docs/scaling.md promise and no other test holds: no code from files, files whole or not."""

import ast
import os
import re
import stat
from pathlib import Path

import pytest

import forwardonly as fo
from forwardonly.training import Team, TrainingConfig, compatibility

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
