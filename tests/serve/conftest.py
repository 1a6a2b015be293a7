"""A service around a small trained network, in this process and at a real address."""

import subprocess
import sys
import urllib.request
from contextlib import contextmanager

import pytest
import torch
from PIL import Image

import forwardonly as fo
from forwardonly import cli

from .browser import wait


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A finished run on the digits."""
    folder = tmp_path_factory.mktemp("served") / "digits"
    words = ["train", "--epochs", "6", "--hidden", "60", "60", "60", "--precision", "fp32", "--out", str(folder)]
    torch.set_num_threads(1)
    assert cli.main(words) == 0
    return folder


@pytest.fixture(scope="session")
def picture(tmp_path_factory, digits):
    """A seven, eight times as large as the network sees it, and its label."""
    place = (digits.test.labels == 7).nonzero()[0].item()
    path = tmp_path_factory.mktemp("picture") / "seven.png"
    small = Image.fromarray(digits.test.images[place, 0].numpy())
    small.resize((64, 64), Image.Resampling.BOX).convert("RGB").save(path)
    return path


@pytest.fixture
def network(run):
    return fo.load(run)


@pytest.fixture(scope="session")
def address(run, tmp_path_factory):
    """Where `forwardonly serve` answers for the digits."""
    with serving(run, tmp_path_factory.mktemp("service")) as at:
        yield at


@contextmanager
def serving(run, folder):
    """Where `forwardonly serve` answers, as a process of its own that writes its log into the folder."""
    log = folder / "log"
    with log.open("wb") as sink:
        words = [sys.executable, "-m", "forwardonly", "serve", str(run), "--port", "0", "--device", "cpu"]
        process = subprocess.Popen(words, stdout=sink, stderr=sink)
        try:
            line = wait(
                lambda: [each for each in log.read_text().splitlines() if "http://" in each], "the service", 120
            )
            at = line[0].split("answers at ")[1].split()[0]
            with urllib.request.urlopen(f"{at}/health", timeout=60) as reply:
                assert reply.status == 200
            yield at
        finally:
            process.terminate()
            process.wait(30)
