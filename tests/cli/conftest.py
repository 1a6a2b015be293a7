"""The command line in this process or another, a folder of its own for each test, and small data."""

import sys

import numpy as np
import pytest
from PIL import Image

from forwardonly import cli

SMALL = ["--hidden", "40", "--batch-size", "64"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test in a folder of its own, with no data sets about and no way to a network."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FORWARDONLY_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def forwardonly(capsys):
    """Runs a command in this process: (exit status, standard output, standard error)."""

    def run(*argv):
        status = cli.main([str(word) for word in argv])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def refused(forwardonly, elsewhere):
    """Runs a command that must fail as promised: status 2, one line, empty standard output, nothing written."""

    def run(*argv):
        before = sorted(elsewhere.rglob("*"))
        status, out, err = forwardonly(*argv)
        assert (status, out) == (2, "")
        assert err.count("\n") == 1 and err.startswith("forwardonly: ") and len(err) < 500
        assert sorted(elsewhere.rglob("*")) == before
        return err.removeprefix("forwardonly: ").strip()

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A small finished run on the digits."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    assert cli.main(["train", "--epochs", "8", "--validation", "200", "--out", str(out), *SMALL]) == 0
    return out


def command(*argv):
    """The words that run a command in a process of its own."""
    return [sys.executable, "-m", "forwardonly", *map(str, argv)]


def npz(path="set.npz", **changes):
    """Forty images of 4 x 4 in two classes, or with some arrays changed."""
    arrays = {"x": np.random.default_rng(0).random((40, 4, 4)), "y": np.arange(40) % 2, **changes}
    np.savez(path, **arrays)
    return path


def folder_of_images(root, classes=("cat", "dog"), size=(6, 6), each=10):
    """A folder with a directory a class, and so many images in each."""
    for place, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for k in range(each):
            Image.new("L", size, 40 * k % 200 + place).save(root / name / f"{k}.png")
    return root
