"""The command line as users type it: output, files, and the sentence for each mistake."""

import ast
import gzip
import importlib
import inspect
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import forwardonly as fo
from forwardonly import cli
from forwardonly.cli import COMMANDS, train
from forwardonly.cli.parsing import parse
from forwardonly.cli.screen import Screen

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


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small finished run on the digits."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    assert cli.main(["train", "--epochs", "8", "--validation", "200", "--out", str(out), *SMALL]) == 0
    return out


def command(*argv):
    return [sys.executable, "-m", "forwardonly", *map(str, argv)]


def npz(path="set.npz", **changes):
    """Forty images of 4 x 4 in two classes, or with some arrays changed."""
    arrays = {"x": np.random.default_rng(0).random((40, 4, 4)), "y": np.arange(40) % 2, **changes}
    np.savez(path, **arrays)
    return path


def folder_of_images(root, classes=("cat", "dog"), size=(6, 6), each=10):
    for place, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for k in range(each):
            Image.new("L", size, 40 * k % 200 + place).save(root / name / f"{k}.png")
    return root


# Help


def test_help_names_every_command(forwardonly):
    status, out, err = forwardonly("--help")
    assert (status, err) == (0, "")
    assert all(name in out and entry.does in out for name, entry in cli.COMMANDS.items())
    assert forwardonly("-h") == (0, out, "")


def test_version(forwardonly):
    assert forwardonly("--version") == (0, f"forwardonly {fo.__version__}\n", "")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_a_command(forwardonly, name):
    status, out, err = forwardonly(name, "--help")
    assert (status, err) == (0, "")
    assert f"usage: forwardonly {name}" in out and "--json" in out


def test_help_breaks_no_sentence():
    """Options of a command are shown with the line breaks of their sentences, so these have none."""
    for module in COMMANDS.values():
        tree = ast.parse(inspect.getsource(importlib.import_module(module.module)))
        for cls in (node for node in tree.body if isinstance(node, ast.ClassDef)):
            for above, below in itertools.pairwise(cls.body):
                if isinstance(above, ast.AnnAssign) and isinstance(below, ast.Expr):
                    assert "\n" not in ast.literal_eval(below.value), (module.module, ast.unparse(above.target))


def test_help_says_nothing_of_defaults_that_are_none(forwardonly):
    pages = {name: " ".join(forwardonly(name, "--help-all")[1].split()) for name in ("train", "tune", "compare")}
    assert not any("default: None" in page or "default: '')" in page for page in pages.values())
    assert pages["tune"].index("--model") < pages["tune"].index("--json")
    assert "--no-check Leave out" in " ".join(forwardonly("export", "--help")[1].split())
    assert "all of a folder" not in forwardonly("probe", "--help")[1]


def test_help_shows_the_options_of_the_chosen_rule(forwardonly):
    for argv in (["--rule", "ff"], ["--rule=ff"]):
        _, out, _ = forwardonly("train", *argv, "--help")
        assert "--rule.threshold" in out and "--rule.scale" not in out
    assert "--rule.scale" in forwardonly("train", "--help")[1]


@pytest.mark.parametrize("rule", fo.rules.TABLE)
def test_defaults_in_the_help_are_those_of_the_rule(rule):
    chosen = train.options(["--rule", rule])
    shown = {name: value for group in train.GROUPS for name, value in asdict(getattr(chosen, group)).items()}
    assert shown == asdict(fo.training.TrainingConfig.resolve(fo.rules.make(rule, classes=2)))


def options_in(page):
    """The options that a help page lists."""
    return re.findall(r"^[ │]+(?:-h, )?(--[a-z][\w.-]+)", page, flags=re.MULTILINE)


@pytest.mark.parametrize("body", fo.bodies.TABLE)
@pytest.mark.parametrize("rule", fo.rules.TABLE)
def test_help_shows_what_most_need_and_help_all_the_rest(rule, body, forwardonly):
    words = ("train", "--rule", rule, "--body", body)
    brief, everything = (options_in(forwardonly(*words, flag)[1]) for flag in ("--help", "--help-all"))
    assert len(brief) < 35 < len(everything)
    assert set(brief) < set(everything)
    assert {"--epochs", "--batch-size", "--learning-rate", "--optimiser", "--device"} <= set(brief)
    assert {"--clip", "--momentum", "--data-dir"} <= set(everything) - set(brief)


def test_an_option_that_help_hides_is_taken_and_mistakes_in_it_are_named(forwardonly, refused):
    assert forwardonly("train", "--clip", "1.5", "--epochs", 1, *SMALL, "--out", "r")[0] == 0
    assert json.loads(Path("r/config.json").read_text())["training"]["clip"] == 1.5
    assert "--momentum takes a number or none, not 'fast'" in refused("train", "--momentum", "fast")
    assert "did you mean '--warmup'" in refused("train", "--warmupp", "0.1")


@pytest.mark.parametrize("rule", fo.rules.TABLE)
def test_every_option_is_explained(rule, forwardonly):
    _, out, _ = forwardonly("train", "--rule", rule, "--help-all")
    options = re.split(r"^[ │]+(?=--[a-z]|-h)", out, flags=re.MULTILINE)[1:]
    unexplained = [option.split()[0] for option in options if not re.search(r"[a-z]{2,} [a-z]{2,}", option)]
    assert unexplained == []
    assert "--rule.classes" not in out


# Training, evaluating, predicting


def test_train_writes_a_run_and_prints_its_result(forwardonly, elsewhere):
    status, out, err = forwardonly("train", "--rule=hyperspherical", "--epochs", 2, "--json", *SMALL)
    assert (status, err) == (0, "")
    result = json.loads(out)
    run = Path("runs/digits-hyperspherical-seed0")
    assert result["run"] == str(run)
    assert {"test_accuracy", "validation_accuracy", "block_accuracy", "seconds", "peak_memory_bytes"} <= result.keys()
    assert {path.name for path in run.iterdir()} >= {"config.json", "metrics.jsonl", "result.json", "model.safetensors"}
    assert json.loads((run / "result.json").read_text()) == {k: v for k, v in result.items() if k != "run"}
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2

    again = json.loads(forwardonly("train", "--epochs", 2, "--json", *SMALL)[1])
    assert again["run"] == f"{run}-2" and again["test_accuracy"] == result["test_accuracy"]


def test_train_tells_people_what_happens(forwardonly):
    status, out, err = forwardonly("train", "--epochs", 2, "--validation", 100, "--rule", "ff", *SMALL, "--out", "mine")
    assert (status, out) == (0, "")
    assert "epoch 2: loss" in err and "validation" in err
    assert "block 1" in err and "network" in err and "forwardonly evaluate mine" in err


def test_options_of_rule_body_and_recipe_reach_the_run(forwardonly):
    argv = ["--rule", "ff", "--rule.objective=margin", "--hidden", 30, 20, "--optimiser", "sgd", "--seed", 3]
    assert forwardonly("train", *argv, "--epochs", 1, "--readout", "last", "--out", "r")[0] == 0
    config = json.loads(Path("r/config.json").read_text())
    assert config["network"]["rule"]["objective"] == "margin"
    assert config["network"]["body"]["hidden"] == [30, 20]
    assert config["network"]["readout"] == "last"
    assert config["training"]["optimiser"] == "sgd" and config["seed"] == 3


def test_a_rule_whose_blocks_start_late_trains_one_after_another_where_asked(forwardonly, elsewhere):
    line = ["train", "--data", "digits", "--rule", "best", "--hidden", "20", "20", "--epochs", "1", "--out"]
    assert forwardonly(*line, "together")[0] == forwardonly(*line, "in-turn", "--schedule", "greedy")[0] == 0
    recipes = [json.loads((elsewhere / out / "config.json").read_text())["training"] for out in ("together", "in-turn")]
    assert [recipe["delay"] for recipe in recipes] == [0.3, 0.0]


def test_evaluate_gives_what_training_gave(forwardonly, trained):
    status, out, _ = forwardonly("evaluate", trained, "--json")
    result, then = json.loads(out), json.loads((trained / "result.json").read_text())
    assert status == 0 and result["run"] == str(trained)
    assert result["test_accuracy"] == then["test_accuracy"] > 0.7
    assert result["block_accuracy"] == then["block_accuracy"]
    confusion = np.array(result["confusion"])
    assert confusion.sum() == result["images"] and confusion.trace() / confusion.sum() == result["test_accuracy"]
    status, out, err = forwardonly("evaluate", trained)
    assert (status, out) == (0, "") and "block 1" in err and "confusion" in err


def test_evaluate_adds_up_views(forwardonly, trained):
    result = json.loads(forwardonly("evaluate", trained, "--shift", 1, "--mirror", "--json")[1])
    views = fo.data.Views(shift=1, mirror=True)
    expected = fo.evaluate(fo.load(trained), fo.data.load("digits").test, views=views)
    assert (result["test_accuracy"], result["block_accuracy"]) == (expected.accuracy, expected.block_accuracy)
    assert result["views"] == {"shift": 1, "mirror": True}
    assert "several views" in forwardonly("evaluate", trained, "--shift", 1)[2]
    for shift, sentence in ((-1, "shift must be 0 or more"), (8, "less than the image's sides, 8 x 8")):
        status, _, err = forwardonly("evaluate", trained, "--shift", shift)
        assert status == 2 and sentence in err


def test_evaluate_matches_classes_by_name(forwardonly, elsewhere):
    folder_of_images(elsewhere / "pets", classes=("ant", "bee", "cat"))
    folder_of_images(elsewhere / "fewer", classes=("bee", "cat"))
    folder_of_images(elsewhere / "other", classes=("bee", "dog"))
    assert forwardonly("train", "--data", "pets", "--epochs", 1, *SMALL, "--out", "r")[0] == 0
    result = json.loads(forwardonly("evaluate", "r", "--data", "fewer", "--json")[1])
    assert result["classes"] == ["ant", "bee", "cat"]
    assert [sum(row) for row in result["confusion"]] == [0, 10, 10]
    status, out, err = forwardonly("evaluate", "r", "--data", "other")
    assert (status, out) == (2, "") and "'dog'" in err


def test_predict(forwardonly, trained, elsewhere, digits):
    (elsewhere / "some").mkdir()
    test = digits.test
    for k in range(3):
        Image.fromarray(test.images[k, 0].numpy()).save(elsewhere / "some" / f"{k}.png")
    Image.new("RGB", (20, 30)).save(elsewhere / "large [1].png")
    status, out, _ = forwardonly("predict", trained, "some", "some/0.png", "--json")
    predictions = json.loads(out)["predictions"]
    assert status == 0 and len(predictions) == 4
    assert [each["index"] for each in predictions[:3]] == fo.load(trained).predict(test.images[:3]).tolist()
    assert sum(predictions[0]["probabilities"].values()) == pytest.approx(1)
    assert max(predictions[0]["probabilities"].values()) == predictions[0]["probability"]
    status, out, err = forwardonly("predict", trained, "large [1].png")
    assert (status, out) == (0, "") and "large [1].png was resized from 20 x 30 to 8 x 8, colour made grey" in err


def test_predict_resizes_where_training_did(forwardonly, elsewhere):
    folder_of_images(elsewhere / "pets", size=(6, 9))
    Image.new("L", (20, 30)).save(elsewhere / "pet.png")
    assert forwardonly("train", "--data", "pets", "--image-size", 5, "--epochs", 1, *SMALL, "--out", "r")[0] == 0
    prediction = json.loads(forwardonly("predict", "r", "pet.png", "--json")[1])["predictions"][0]
    pixels, _ = fo.data.read_adapted([elsewhere / "pet.png"], (1, 5, 5))
    assert prediction["class"] == ("cat", "dog")[fo.load("r").predict(pixels).item()]
    assert forwardonly("evaluate", "r", "--json")[0] == 0


def test_evaluate_takes_a_folder_whole(forwardonly, elsewhere):
    folder_of_images(elsewhere / "pets", classes=("ant", "bee"), each=20)
    assert forwardonly("train", "--data", "pets", "--epochs", 1, *SMALL, "--out", "r")[0] == 0

    def evaluated(*words):
        result = json.loads(forwardonly("evaluate", "r", *words, "--json")[1])
        return result["images"], result["whole"]

    folder_of_images(elsewhere / "val", classes=("ant", "bee"), each=10)
    assert evaluated("--data", "val") == (20, True)
    assert "all 20 images of val" in forwardonly("evaluate", "r", "--data", "val")[2]
    assert evaluated() == evaluated("--data", "pets") == (8, False)  # not those that it has learned
    assert "8 test images" in forwardonly("evaluate", "r")[2]
    shutil.copytree("pets", "copy")
    assert evaluated("--data", "copy") == (8, False)
    folder_of_images(elsewhere / "one", classes=("bee",), each=3)
    assert evaluated("--data", "one") == (3, True)
    folder_of_images(elsewhere / "few", classes=("ant", "bee"), each=1)
    assert evaluated("--data", "few") == (2, True)
    for part in ("train", "test"):
        folder_of_images(elsewhere / "both" / part, classes=("ant", "bee"), each=4)
    assert evaluated("--data", "both") == (8, False)
    folder_of_images(elsewhere / "large", classes=("ant", "bee"), size=(12, 9), each=4)
    says = forwardonly("evaluate", "r", "--data", "large")[2]
    assert "are 9 x 12 and the network's 6 x 6: give --image-size 6" in says
    assert evaluated("--data", "large", "--image-size", 6) == (8, True)


def test_evaluate_takes_arrays_without_a_test_part_whole(forwardonly, trained):
    x, y = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8), np.arange(40) % 10
    for path, more, expected in (("a.npz", {}, (40, True)), ("b.npz", {"x_test": x[:9], "y_test": y[:9]}, (9, False))):
        np.savez(path, x=x, y=y, **more)
        result = json.loads(forwardonly("evaluate", trained, "--data", path, "--json")[1])
        assert (result["images"], result["whole"]) == expected


def test_a_network_from_python_is_evaluated_and_predicts(forwardonly, refused, elsewhere, digits):
    net = fo.mlp(digits.train.shape, [40], rule=fo.rules.Projection(classes=10))
    fo.fit(net, digits.train, epochs=2, out="fitted")
    fo.save(net, "saved")
    Image.fromarray(digits.test.images[0, 0].numpy()).save("one.png")
    for folder in ("fitted", "saved"):
        result = json.loads(forwardonly("evaluate", folder, "--data", "digits", "--json")[1])
        assert result["test_accuracy"] == fo.evaluate(net, digits.test).accuracy and result["classes"][9] == "9"
        predicted = json.loads(forwardonly("predict", folder, "one.png", "--json")[1])["predictions"][0]
        assert predicted["class"] == str(int(net.predict(digits.test.images[:1])))
        assert "name a set by --data" in refused("evaluate", folder)
        assert "says nothing of its data" in refused("diagnose", folder)
    fo.save(fo.mlp((1, 8, 8), [9], rule=fo.rules.Projection(classes=10)), "bare")
    assert "does not name the 10 classes" in refused("predict", "bare", "one.png")


# Data


def test_data_list(forwardonly):
    rows = json.loads(forwardonly("data", "list", "--json")[1])["data"]
    assert [row["name"] for row in rows] == list(fo.data.NAMES)
    status, out, err = forwardonly("data")
    assert (status, out) == (0, "") and all(name in err for name in ("digits", "mnist", "28x28x1"))


def test_data_verify_names_a_damaged_file(forwardonly, tmp_path):
    raw = tmp_path / "data/MNIST/raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte.gz").write_bytes(b"short")
    status, out, err = forwardonly("data", "verify")
    assert (status, out) == (2, "") and err.count("damaged") == 5
    assert err.strip().endswith("is damaged, and 3 more; repair with: forwardonly data fetch mnist")
    status, out, err = forwardonly("data", "verify", "cifar-10", "--json")
    assert status == 2 and json.loads(out)["files"][0]["status"] == "missing" and err.count("\n") == 1
    assert json.loads(forwardonly("data", "verify", "digits", "--json")[1]) == {"files": []}


def test_data_verify_finds_a_set_of_which_a_part_is_missing(forwardonly, tmp_path):
    raw = tmp_path / "data/MNIST/raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte.gz").write_bytes(b"short")
    status, _, err = forwardonly("data", "verify")
    assert status == 2 and err.count("missing") == 3 and err.count("damaged") == 2
    assert "repair with: forwardonly data fetch mnist" in err


def test_data_fetch_has_nothing_to_do_for_the_digits(forwardonly):
    fetched = json.loads(forwardonly("data", "fetch", "digits", "--json")[1])["fetched"]
    assert fetched[0]["folder"] == "scikit-learn"


# Mistakes


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


# Resuming


def test_a_run_is_resumed_by_the_command_that_started_it(refused, trained):
    says = refused("tune", "--model", "timm:resnet18", "--resume", "--out", trained)
    assert "was started by `forwardonly train`: resume it by that command" in says


def test_resuming_with_other_options_is_refused(refused, trained):
    argv = ["train", "--resume", "--out", trained]
    assert "rule margin" in refused(*argv, "--rule.margin", 0.9)
    assert "--rule hyperspherical" in refused(*argv, "--rule", "ff")
    assert "body hidden" in refused(*argv, "--hidden", 7)
    assert "validation" in refused(*argv, "--validation", 7)
    assert "epochs" in refused(*argv, "--epochs", 5)


def test_a_run_goes_on_elsewhere(forwardonly, refused, elsewhere):
    """Another folder of the data, another device, and more epochs; but not with other images."""
    pets = folder_of_images(elsewhere / "pets")
    line = ["train", "--data", "pets", "--device", "cpu", *SMALL, "--batch-size", 4, "--out", "r"]
    assert forwardonly(*line, "--epochs", 2)[0] == 0
    before = json.loads(Path("r/config.json").read_text())
    pets.rename(elsewhere / "moved")
    assert "pets" in refused("train", "--resume", "--out", "r")
    folder_of_images(elsewhere / "other", each=9)
    says = refused("train", "--resume", "--out", "r", "--data", "other", "--epochs", 3)
    assert "learned from other images" in says and "14 of other" in says
    more = ["--device", "auto", "--epochs", 4, "--validate-every", 2, "--checkpoint-every", 3, "--data-dir", "x"]
    status, _, err = forwardonly("train", "--resume", "--out", "r", "--data", "moved", *more)
    assert status == 0, err
    assert "r goes on to 4 epochs, not 2: from where it stands, the learning rate follows the schedule" in err
    after = json.loads(Path("r/config.json").read_text())
    assert after["data"]["name"] == str(elsewhere / "moved") and after["training"]["epochs"] == 4
    assert after["training"]["device"] == "auto" and after["network"] == before["network"]
    assert len(Path("r/metrics.jsonl").read_text().splitlines()) == 4
    assert forwardonly("evaluate", "r")[0] == 0


def test_a_config_that_is_not_ours_is_refused(refused, trained, elsewhere):
    config = json.loads((trained / "config.json").read_text())
    (elsewhere / "r").mkdir()
    for damage in ({"data": 3}, {"training": {"wings": 2}}, {"network": {"rule": {"name": "hyperspherical", "x": 1}}}):
        (elsewhere / "r/config.json").write_text(json.dumps({**config, **damage}))
        assert "cannot resume" in refused("train", "--resume", "--out", "r")


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_goes_on_to_the_same_end(forwardonly, elsewhere):
    options = ["--epochs", "40", "--seed", "1", "--hidden", "60", "60", "--precision", "fp32"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as in this process, so that sums are in the same order
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen(command("train", *options, "--json"), **pipes) as process:
        metrics = elsewhere / "runs/digits-hyperspherical-seed1/metrics.jsonl"
        deadline = time.monotonic() + 60
        while not metrics.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.count("\n") == 1 and "--resume" in err and "runs/digits-hyperspherical-seed1" in err
    assert not (metrics.parent / "result.json").exists()

    status, out, _ = forwardonly("train", "--resume", "--seed", "1", "--json")
    assert status == 0 and json.loads(out)["epochs"] == 40
    assert forwardonly("train", *options, "--out", "straight")[0] == 0
    assert (metrics.parent / "model.safetensors").read_bytes() == Path("straight/model.safetensors").read_bytes()


# As a process


def test_a_warning_of_the_library_is_one_line_without_a_path_of_its_code(elsewhere):
    run = ["train", "--hidden", "20", "--out", "r"]
    assert subprocess.run(command(*run, "--epochs", "2"), capture_output=True).returncode == 0
    newest = max(Path("r/checkpoint").iterdir())
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    done = subprocess.run(command(*run, "--epochs", "3", "--resume", "--json"), capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)["epochs"] == 3
    lines = [line for line in done.stderr.splitlines() if "is damaged" in line]
    assert len(lines) == 1 and lines[0].startswith("forwardonly: ") and lines[0].endswith("the one before.")
    assert "Warning" not in done.stderr and ".py" not in done.stderr


def test_a_mistake_as_a_process():
    done = subprocess.run(command("train", "--rule", "xyz"), capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("argv", [["data", "--help"], ["data", "list", "--json"]])
def test_nobody_reading_is_no_error(argv):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command(*argv), stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_progress_on_a_terminal_has_a_bar_and_the_time_left(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Screen().progress("ff on digits") as draw:
        for step in range(1, 11):
            draw(fo.training.StepEvent(step, 10, {"epoch": 0, "loss": [0.5], "seconds": 1.0} if step == 10 else None))
    err = capsys.readouterr().err
    assert "ff on digits" in err and "100%" in err and "0:00:0" in err and "epoch 1: loss 0.500" in err


def test_what_was_assumed_of_the_images_is_said_and_kept(forwardonly, elsewhere):
    rng = np.random.default_rng(0)
    np.savez(elsewhere / "masks.npz", x=rng.integers(0, 2, (60, 6, 6), dtype=np.uint8), y=np.arange(60) % 3)
    argv = ["train", "--data", "masks.npz", "--epochs", 1, "--hidden", 8, "--rule", "projection", "--out", "r"]
    status, _, err = forwardonly(*argv)
    assert status == 0 and err.count("whole numbers 0 to 1, spread over 0 to 255") == 1
    (note,) = json.loads(Path("r/config.json").read_text())["data"]["notes"]
    assert "whole numbers 0 to 1" in note
    assert forwardonly("train", "--resume", "--epochs", 2, "--out", "r")[0] == 0
