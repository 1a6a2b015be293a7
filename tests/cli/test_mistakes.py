"""Mistakes: each is one sentence, with nothing run and nothing written."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import forwardonly as fo
from forwardonly import cli
from forwardonly.cli import train
from forwardonly.cli.parsing import parse

from .conftest import SMALL, folder_of_images, npz


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", r"name a command: train, .*--help"),
        ("trian", r"unknown command 'trian': did you mean 'train'\?"),
        ("train --rule hypersphericl", r"unknown rule 'hypersphericl': did you mean 'hyperspherical'\?"),
        ("train --rule=xyzzy", r"unknown rule 'xyzzy': choose one of .*ff"),
        ("train --rule=", r"unknown rule ''"),
        ("train --rule", r"--rule needs a value"),
        ("train --body mpl", r"unknown body 'mpl': did you mean 'mlp'\?"),
        ("train --data mnits", r"'mnits': did you mean 'mnist'\?"),
        ("train --data no/such.npz", r"no/such.npz"),
        ("train --data digits --image-size 9", r"image_size .*8 x 8"),
        ("train --epocsh 3", r"unknown option '--epocsh': did you mean '--epochs'\?"),
        ("train --frobnicate 3", r"unknown option '--frobnicate'; see forwardonly train --help"),
        ("train --rule backprop --rule.qqqq 3", r"unknown option '--rule.qqqq': choose one of --rule\."),
        ("train --rule ff --rule.beat 3", r"unknown option '--rule.beat': did you mean '--rule.beta'\?"),
        ("train stray", r"unexpected 'stray'"),
        ("train --epochs many", r"--epochs takes a whole number, not 'many'"),
        ("train --learning_rate=fast", r"--learning-rate takes a number, not 'fast'"),
        ("train --hidden 10 wide", r"--hidden takes whole numbers, not '10 wide'"),
        ("train --epochs", r"--epochs needs a value"),
        ("train --precision bf61", r"--precision cannot be 'bf61': did you mean 'bf16'\?"),
        ("train --epochs 0", r"epochs must be at least 1, not 0"),
        ("train --hidden", r"hidden must name at least one layer"),
        ("train --device gpu9", r"no device 'gpu9'"),
        ("train --optimiser admw", r"'admw': did you mean 'adamw'"),
        ("train --clip x", r"--clip takes a number or none, not 'x'"),
        ("train --clip none --steps=none --threads none --epochs 0", r"epochs must be at least 1, not 0"),
        ("train --epochs none", r"--epochs takes a whole number, not 'none'"),
        ("train --rule.margin=x", r"--rule.margin takes a number, not 'x'"),
        ("train --validation 100000", r"cannot hold out 100000"),
        ("train --resume", r"runs/digits-hyperspherical-seed0 is not a run folder"),
        ("evaluate", r"RUN is missing"),
        ("reproduce", r"name one of networkff-mnist, networkff-fashion, .*, cifar-10-fast; see forwardonly reproduce"),
        ("evaluate nowhere", r"nowhere is not a run folder: it has no config.json"),
        ("predict nowhere x.png", r"nowhere is not a run folder"),
        ("data lst", r"action cannot be 'lst': did you mean 'list'\?"),
        ("data verify mnits", r"did you mean 'mnist'"),
        ("data fetch", r"name the data sets to fetch"),
    ],
)
def test_a_mistake_is_one_clear_sentence(refused, line, says):
    assert re.search(says, refused(*line.split()))


@pytest.mark.parametrize("words", ["--memory-budget none", "--memory-budget=none", "--memory-budget none --clip none"])
def test_none_is_no_value_in_options_of_text_and_of_numbers(words):
    argv = [*words.split(), "--flip", "none"]
    chosen = parse(train.options(argv), argv, prog="forwardonly train", description="")
    assert chosen.memory_and_processes.memory_budget is None and chosen.schedule_and_optimiser.clip is None
    assert chosen.augmentation.flip == "none"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"x": np.full((40, 4, 4), np.nan)}, "NaN"),
        ({"x": np.full((40, 4, 4), 3.5)}, "0 to 1"),
        ({"y": np.arange(40) % 2 - 1}, "label -1"),
        ({"y": np.arange(40) % 2 * 2}, "class 1 has no examples"),
        ({"y": np.arange(30) % 2}, "30 labels"),
        ({"y": np.arange(40) % 2 / 2}, "whole numbers"),
        ({"x_test": np.ones((4, 4, 4)), "y_test": np.array([0, 1, 2, 3])}, "label 3 is out of range"),
        ({"x_test": np.ones((4, 5, 5)), "y_test": np.array([0, 1, 0, 1])}, "must agree"),
        ({"y": np.array([None] * 40)}, "set.npz"),
    ],
)
def test_arrays_that_cannot_be_learned_from(refused, changes, says):
    assert says in refused("train", "--data", npz(**changes))


def test_a_truncated_file(refused, tmp_path):
    whole = Path(npz()).read_bytes()
    Path("cut.npz").write_bytes(whole[: len(whole) // 2])
    assert "cut.npz" in refused("train", "--data", "cut.npz")
    raw = tmp_path / "data/MNIST/raw"
    raw.mkdir(parents=True)
    images = gzip.compress(bytes([0, 0, 8, 3, 0, 0, 0, 9, 0, 0, 0, 28, 0, 0, 0, 28]) + bytes(9 * 784))
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte.gz").write_bytes(images[:-20])
    assert "train-images-idx3-ubyte.gz" in refused("train", "--data", "mnist")


def test_folders_that_cannot_be_learned_from(refused, elsewhere):
    (elsewhere / "empty").mkdir()
    assert "empty" in refused("train", "--data", "empty")
    pets = folder_of_images(elsewhere / "pets")
    (pets / "eel").mkdir()
    assert "'eel' has no examples" in refused("train", "--data", "pets")
    (pets / "eel").rmdir()
    Image.new("L", (7, 6)).save(pets / "dog/odd.png")
    assert re.search(r"odd.png: it is 7 x 6 .*--image-size", refused("train", "--data", "pets"))
    (pets / "dog/odd.png").write_bytes((pets / "dog/1.png").read_bytes()[:40])
    assert "odd.png" in refused("train", "--data", "pets")


def test_a_folder_that_cannot_be_written_is_found_before_training(refused, trained, elsewhere):
    (elsewhere / "file").write_text("in the way")
    assert "Cannot write to file/run" in refused("train", "--out", "file/run")
    assert "Cannot write to file" in refused("train", "--out", "file")
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    assert "already holds a run" in refused("train", "--out", trained)
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_a_run_that_cannot_be_used(refused, trained, elsewhere):
    Image.new("L", (9, 9)).save("nine.png")
    says = refused("predict", trained, "nine.png", "--exact")
    assert "nine.png: it would have to be resized from 9 x 9 to 8 x 8, which --exact forbids" in says
    Path("not.png").write_text("not an image")
    assert "not.png" in refused("predict", trained, "not.png")
    assert "nothere.png" in refused("predict", trained, "nothere.png")
    assert "name at least one image" in refused("predict", trained)
    (elsewhere / "empty").mkdir()
    assert "empty: there is no image" in refused("predict", trained, "empty")
    npz()
    assert "1 x 8 x 8" in refused("evaluate", trained, "--data", "set.npz")
    assert "--batch-size" in refused("evaluate", trained, "--batch-size", 0)
    copy = elsewhere / "copy"
    copy.mkdir()
    (copy / "config.json").write_bytes((trained / "config.json").read_bytes())
    assert "model.safetensors" in refused("evaluate", "copy")
    (copy / "model.safetensors").write_bytes((trained / "model.safetensors").read_bytes()[:-100])
    assert "damaged" in refused("evaluate", "copy")
    fo.save(fo.load(trained), "bare")
    assert "says nothing of its data" in refused("evaluate", "bare")
    from forwardonly.estimator import ForwardOnlyClassifier, ForwardOnlyRegressor

    X = np.random.default_rng(0).random((20, 4))
    ForwardOnlyClassifier(epochs=1, hidden=(8,)).fit(X, np.arange(20) % 2).save("e")
    assert "ForwardOnlyClassifier.load" in refused("predict", "e", "nine.png")
    ForwardOnlyRegressor(epochs=1, hidden=(8,)).fit(X, X[:, 0]).save("r")
    assert "ForwardOnlyRegressor.load" in refused("predict", "r", "nine.png")


def test_losses_that_explode_stop_the_run(forwardonly):
    argv = ["--rule", "backprop", "--epochs", 3, "--learning-rate", 1e30, "--precision", "fp32", "--json", *SMALL]
    status, out, err = forwardonly("train", *argv)
    assert (status, out) == (2, "") and err.count("\n") == 1 and "learning rate" in err


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    def broken(*_):
        raise RuntimeError("ours")

    monkeypatch.setattr("forwardonly.cli.data.run", broken)
    with pytest.raises(RuntimeError, match="ours"):
        cli.main(["data", "list"])


def test_ctrl_c_before_training(monkeypatch, forwardonly):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("forwardonly.cli.train.run", stopped)
    assert forwardonly("train") == (130, "", "forwardonly: interrupted\n")
