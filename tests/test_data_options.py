"""The data of commands: the options that choose them, and what is said of them before and after."""

import json
import re
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from PIL import Image

import forwardonly as fo
from forwardonly import cli
from forwardonly.cli import cautions, compare, diagnose, evaluate, export, train
from forwardonly.data import sources
from forwardonly.training import TrainingConfig


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def folder(path, classes=("ant", "bee"), each=20, size=(8, 8), seed=0):
    rng = np.random.default_rng(seed)
    for number, name in enumerate(classes):
        (path / name).mkdir(parents=True)
        for k in range(each):
            noise = rng.integers(0, 80, size[::-1], dtype=np.uint8)
            noise[:, (size[0] // 2) * (number % 2) :][:, : size[0] // 2] += 120  # one half is light
            Image.fromarray(noise).save(path / name / f"{k}.png")


def said(capsys, *words, status=0):
    capsys.readouterr()
    assert cli.main(list(map(str, words))) == status
    out, err = capsys.readouterr()
    return json.loads(out) if "--json" in words else " ".join(err.split())


@pytest.fixture
def pets(elsewhere, capsys):
    """A run on a folder of images of 12 x 9 pixels, read as 8 x 8."""
    folder(elsewhere / "pets", size=(12, 9))
    (elsewhere / "pets/ant/notes.txt").write_text("no image")
    said(capsys, "train", "--data", "pets", "--image-size", 8, "--hidden", 16, 16, "--epochs", 3, "--out", "r")
    return elsewhere / "r"


def test_every_data_option_of_train_is_one_of_the_commands_that_measure():
    def options(cls):
        return {field.name for field in fields(cls)}

    of_train = options(train.Train) & {"data", "data_dir", "image_size", "validation", "limit"}
    assert of_train == {"data", "data_dir", "image_size", "validation", "limit"}
    assert of_train <= options(compare.Compare)
    for command in (evaluate.Evaluate, diagnose.Diagnose, export.Export):  # which learn nothing
        assert of_train - {"validation", "limit"} <= options(command)


def test_a_run_is_diagnosed_and_checked_on_other_data(pets, elsewhere, capsys):
    folder(elsewhere / "others", classes=("bee", "ant"), each=7, size=(20, 20), seed=1)
    for command in ("evaluate", "diagnose"):
        found = said(capsys, command, pets, "--data", "others", "--json")
        assert (found["images"], found["whole"], found["data"]) == (14, True, "others")
        assert found["data_notes"] == ["others: 14 images in 2 classes"]
        found = said(capsys, command, pets, "--json")
        assert (found["images"], found["whole"]) == (8, False)
        assert "1 without the suffix of an image (such as notes.txt)" in said(capsys, command, pets)
    assert said(capsys, "export", pets, "--data", "others", "--json")["images"] == 14
    folder(elsewhere / "strange", classes=("bee", "cat"), each=7)
    for command in ("evaluate", "diagnose", "export"):
        assert "has the class 'cat', which" in said(capsys, command, pets, "--data", "strange", status=2)
        assert "image_size must be at least 1" in said(capsys, command, pets, "--image-size", 0, status=2)


def test_a_network_from_python_says_at_the_start_that_it_knows_no_data(elsewhere, capsys, digits):
    net = fo.mlp(digits.train.shape, [20], rule=fo.rules.Projection(classes=10))
    net.class_names = digits.train.classes
    fo.save(net, "net")
    assert "name a set by --data" in said(capsys, "diagnose", "net", status=2)
    err = said(capsys, "export", "net", status=2)
    assert "name a set by --data" in err and "--no-check" in err
    assert not (elsewhere / "net/export").exists() and not (elsewhere / "net/diagnosis.html").exists()
    assert said(capsys, "export", "net", "--data", "digits", "--json")["agree"] == 359
    assert (elsewhere / "net/export/model.onnx").exists()
    assert len(said(capsys, "diagnose", "net", "--data", "digits", "--json")["blocks"]) == 1


def test_a_limit_takes_the_same_share_of_every_class(digits):
    whole = fo.data.load("digits", validation=200)
    part = fo.data.load("digits", validation=200, limit=300)
    assert torch.equal(part.validation.images, whole.validation.images)
    assert torch.equal(part.test.images, whole.test.images)
    assert len(part.train) == 300
    share = whole.train.labels.bincount().double() * 300 / len(whole.train)
    assert (part.train.labels.bincount() - share).abs().max() < 1
    assert len(fo.data.load("digits", limit=10).train.labels.unique()) == 10
    assert len(fo.data.load("digits", limit=5000).train) == len(fo.data.load("digits").train)
    for limit, problem in (
        (9, "a limit of 9 is less than an image for each of its 10"),
        (0, "at least 1"),
        (0.5, "whole"),
    ):
        with pytest.raises(ValueError, match=problem):
            fo.data.load("digits", limit=limit)


def test_a_limited_run_is_evaluated_and_goes_on_with_its_limit(elsewhere, capsys):
    folder(elsewhere / "pets")
    words = ["train", "--data", "pets", "--hidden", 8, "--out", "r"]
    assert "16 images of 1 x 8 x 8" in said(capsys, *words, "--epochs", 1, "--limit", 16)
    assert json.loads((elsewhere / "r/config.json").read_text())["data"]["limit"] == 16
    assert said(capsys, "evaluate", "r", "--json")["images"] == 8
    (elsewhere / "pets").rename(elsewhere / "moved")  # known by its content, so its training images are not measured
    assert said(capsys, "evaluate", "r", "--data", "moved", "--json")["images"] == 8
    assert "limit, 16 and not 20" in said(capsys, *words[:2], "moved", *words[3:], "--resume", "--limit", 20, status=2)
    assert "goes on to 2 epochs" in said(capsys, "train", "--data", "moved", "--out", "r", "--resume", "--epochs", 2)
    found = said(capsys, "compare", "--rules", "projection", "ff", "--data", "moved", "--seeds", 1, "--epochs", 1,
                 "--hidden", 8, "--limit", 16, "--out", "c", "--json")  # fmt: skip
    assert "moved: 40 images in 2 classes" in found["notes"]
    assert json.loads(next((elsewhere / "c/runs").glob("*ff*/config.json")).read_text())["data"]["limit"] == 16


def test_evaluating_tiny_imagenet_decodes_no_training_image(elsewhere, capsys, monkeypatch):
    monkeypatch.setitem(
        sources.SOURCES, "tiny-imagenet", replace(sources.SOURCES["tiny-imagenet"], classes=2, train=8, test=4)
    )
    top, rng = elsewhere / "data/tiny-imagenet-200", np.random.default_rng(0)
    names = [f"train/n0{1 + k % 2}/images/n0{1 + k % 2}_{k}.JPEG" for k in range(8)]
    for name in [*names, *(f"val/images/val_{k}.JPEG" for k in range(4))]:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(top / name)
    (top / "wnids.txt").write_text("n01\nn02\n")
    (top / "val/val_annotations.txt").write_text("".join(f"val_{k}.JPEG\tn0{1 + k % 2}\n" for k in range(4)))
    words = ["train", "--data", "tiny-imagenet", "--data-dir", "data", "--hidden", 8, "--epochs", 1, "--out", "r"]
    assert "has no words.txt, so classes are named by their numbers in WordNet" in said(capsys, *words)
    before = said(capsys, "evaluate", "r", "--json")
    for name in names:
        (top / name).write_bytes(b"not a picture")
    for command in ("evaluate", "diagnose"):
        assert said(capsys, command, "r", "--json")["images"] == 4
    assert said(capsys, "evaluate", "r", "--json")["confusion"] == before["confusion"]
    assert said(capsys, "export", "r", "--json")["agree"] == 4
    assert "damaged or not an image" in said(capsys, *words[:-1], "again", status=2)


# What a run is warned of


def images(labels, classes=("a", "b", "c")):
    pixels = torch.arange(len(labels) * 4, dtype=torch.uint8).view(-1, 1, 2, 2)
    return fo.data.Images(pixels, torch.tensor(labels), classes, "toy")


FINE = [0] * 40 + [1] * 40 + [2] * 40


@pytest.mark.parametrize(
    ("train", "test", "options", "sentences"),
    [
        (FINE, [0, 1, 2], {"batch_size": 8, "epochs": 1}, []),
        (FINE, [0, 1, 2], {"batch_size": 60, "epochs": 250}, []),  # few an epoch, but many in all
        (FINE, [0, 1, 2], {"batch_size": 60, "epochs": 9}, ["an epoch has 2 steps, so that the run has 18"]),
        (FINE, [0, 1, 2], {"batch_size": 500, "epochs": 9}, ["an epoch has 1 steps, so that the run has 9"]),
        (FINE, [0, 1, 2], {"batch_size": 60, "steps": 600, "epochs": 1}, []),
        (
            FINE,
            [0, 1, 2],
            {"batch_size": 8, "steps": 6, "epochs": 2},
            ["has 3 steps, so that the run has 6"],
        ),
        ([*FINE, 2], [0, 1, 1], {"batch_size": 8}, ["class 'c' has no test image"]),
        (FINE[:84], [0, 1, 2], {"batch_size": 8}, ["class 'c' has fewer than 5 images to learn from"]),
        (
            [0] * 4 + [1] * 4 + [2] * 4,
            [2, 2],
            {"batch_size": 1, "epochs": 100},
            ["3 classes ('a' and 'b', for example) have fewer than 5", "2 classes ('a' and 'b') have no test image"],
        ),
    ],
)
def test_what_cannot_come_out_well_is_said_before(train, test, options, sentences):
    found = cautions.before(images(train), images(test), TrainingConfig(**options))
    assert len(found) == len(sentences)
    assert all(sentence in text for sentence, text in zip(sentences, found, strict=True))


@pytest.mark.parametrize(
    ("accuracy", "blocks", "readout", "sentences"),
    [
        (0.8, [0.7, 0.8], "sum", []),
        (0.8, [0.803, 0.8], "sum", []),  # hardly below
        (0.5, [0.5], "sum", ["50.00 % is not above the share of the largest class ('b', 50.00 %)"]),
        (0.3, [0.2], "sum", ["30.00 % is not above the share"]),
        (0.8, [0.9, 0.7], "sum", ["80.00 % are below the 90.00 % of its block 1: --readout range with --validation N"]),
        (0.8, [0.7, 0.9], "range", ["80.00 % are below the 90.00 % of its block 2."]),
        (0.3, [0.6, 0.3], "last", ["not above the share", "of its block 1"]),
        (None, None, "sum", []),  # it could not be measured
    ],
)
def test_what_did_not_come_out_well_is_said_after(accuracy, blocks, readout, sentences):
    found = cautions.after({"test_accuracy": accuracy, "block_accuracy": blocks}, images([0, 1, 1, 2]), readout, "luck")
    assert len(found) == len(sentences)
    assert all(sentence in text for sentence, text in zip(sentences, found, strict=True))


def test_a_test_image_or_three_say_nothing_of_the_network():
    assert cautions.after({"test_accuracy": 0.0, "block_accuracy": [1.0]}, images([0, 1, 1]), "sum", "luck") == []


def test_the_command_says_them_and_keeps_them(elsewhere, capsys):
    rng = np.random.default_rng(0)
    np.savez("noise.npz", x=rng.integers(0, 256, (40, 6, 6)), y=np.arange(40) % 10)
    err = said(capsys, "train", "--data", "noise.npz", "--hidden", 8, "--epochs", 1, "--out", "r")
    assert "10 classes ('0' and '1', for example) have fewer than 5 images" in err
    assert "an epoch has 4 steps" in err and re.search(r"\d+ weights in bodies, \d+ in rules' heads", err)
    result = json.loads((elsewhere / "r/result.json").read_text())
    if result["test_accuracy"] <= 1 / 8:
        assert any("guessing is as good" in note for note in result["notes"])


# Pages of help, and what excludes what


@pytest.mark.parametrize(
    ("action", "own", "others"),
    [
        ("list", "what is on this machine", "checksum"),
        ("fetch", "Download", "checksum"),
        ("verify", "checksum", "Download"),
    ],
)
def test_each_data_action_has_its_own_page(capsys, action, own, others):
    assert cli.main(["data", action, "--help"]) == 0
    page = capsys.readouterr().out
    assert f"forwardonly data {action} [-h]" in page and own in page and others not in page


@pytest.mark.parametrize(
    "words", [["--resume", "--no-resume"], ["--compile", "--no-compile"], ["--diagnose", "--no-diagnose"]]
)
def test_a_flag_and_its_opposite_are_refused(pets, capsys, words):
    err = said(capsys, "train", "--out", pets, *words, status=2)
    assert "say the opposite of each other: keep one" in err


def test_an_unknown_optimiser_is_refused_before_the_first_run(elsewhere, capsys):
    for words in (["compare", "--rules", "ff", "--out", "c"], ["train", "--out", "c"]):
        assert "Unknown optimiser 'nope'" in said(capsys, *words, "--optimiser", "nope", status=2)
    assert not (elsewhere / "c").exists()
    for name in ("nope", "lbfgs"):
        with pytest.raises(ValueError, match="Unknown optimiser"):
            TrainingConfig(optimiser=name)
