"""Training, evaluating, predicting and data sets as users type them: output and files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import forwardonly as fo

from .conftest import SMALL, folder_of_images


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


def test_what_was_assumed_of_the_images_is_said_and_kept(forwardonly, elsewhere):
    rng = np.random.default_rng(0)
    np.savez(elsewhere / "masks.npz", x=rng.integers(0, 2, (60, 6, 6), dtype=np.uint8), y=np.arange(60) % 3)
    argv = ["train", "--data", "masks.npz", "--epochs", 1, "--hidden", 8, "--rule", "projection", "--out", "r"]
    status, _, err = forwardonly(*argv)
    assert status == 0 and err.count("whole numbers 0 to 1, spread over 0 to 255") == 1
    (note,) = json.loads(Path("r/config.json").read_text())["data"]["notes"]
    assert "whole numbers 0 to 1" in note
    assert forwardonly("train", "--resume", "--epochs", 2, "--out", "r")[0] == 0
