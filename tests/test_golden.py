"""Golden run folders, written by an earlier commit, load, predict, evaluate and resume; older ones are refused in a
sentence.

`golden/make.py` made them and describes each. Do not make them anew to turn a test green: users' folders cannot be.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import forwardonly as fo
from forwardonly import cli
from forwardonly.estimator import ForwardOnlyClassifier

GOLDEN = Path(__file__).parent / "golden"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
RUNS = [kind for kind in EXPECTED if kind != "estimator"]
OLDER = GOLDEN / "older"


@pytest.fixture(scope="module")
def shown():
    """The images that the networks were asked about."""
    with np.load(GOLDEN / "images.npz") as kept:
        images, labels = (torch.from_numpy(kept[name]) for name in ("images", "labels"))
    return fo.data.Images(images, labels.long(), tuple("0123456789"), "golden")


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", RUNS)
def test_a_network_says_what_it_said(shown, kind):
    network, expected = fo.load(GOLDEN / kind), EXPECTED[kind]
    assert network.predict(shown.images).tolist() == expected["classes"]
    scores = network(shown.images[: len(expected["scores"])])
    torch.testing.assert_close(scores, torch.tensor(expected["scores"]), rtol=1e-3, atol=1e-3)
    found = fo.evaluate(network, shown, precision="fp32")
    assert found.accuracy == pytest.approx(expected["accuracy"])
    one_image = 1.01 / len(shown)  # a single block may be undecided
    assert found.block_accuracy == pytest.approx(expected["block_accuracy"], abs=one_image)


@pytest.mark.parametrize("kind", RUNS)
def test_the_command_line_evaluates_it_to_what_it_measured_then(capsys, kind):
    then = json.loads((GOLDEN / kind / "result.json").read_text())
    assert cli.main(["evaluate", str(GOLDEN / kind), "--precision", "fp32", "--json"]) == 0
    now = json.loads(capsys.readouterr().out)
    rounding = 1.01 / now["images"]  # one image
    assert now["test_accuracy"] == pytest.approx(then["test_accuracy"], abs=rounding)
    assert now["block_accuracy"] == pytest.approx(then["block_accuracy"], abs=rounding)


def test_the_classifier_says_what_it_said(shown):
    classifier, expected = ForwardOnlyClassifier.load(GOLDEN / "estimator"), EXPECTED["estimator"]
    X = shown.images.flatten(1).numpy() / 255 * 16
    assert classifier.predict(X).tolist() == [f"digit {label}" for label in expected["classes"]]
    scores = classifier.decision_function(X[: len(expected["scores"])])
    np.testing.assert_allclose(scores, expected["scores"], rtol=1e-3, atol=1e-3)


def test_an_interrupted_run_goes_on_to_the_end_of_the_whole_one(capsys, tmp_path):
    """The same end to the bit where the processor rounds as the one that began it, near it elsewhere."""
    folder = shutil.copytree(GOLDEN / "interrupted", tmp_path / "run")
    before, whole = (folder / "metrics.jsonl").read_text(), rows(GOLDEN / "one-pass")
    assert cli.main(["train", "--resume", "--out", str(folder), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (folder / "metrics.jsonl").read_text().startswith(before)
    assert [row["epoch"] for row in rows(folder)] == [row["epoch"] for row in whole]
    for ours, theirs in zip(rows(folder), whole, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.02)
    then = json.loads((GOLDEN / "one-pass/result.json").read_text())
    assert result["test_accuracy"] == pytest.approx(then["test_accuracy"], abs=0.01)


@pytest.mark.parametrize("kind", ["one-pass", "estimator"])
def test_a_folder_of_an_older_version_is_refused(kind):
    load = ForwardOnlyClassifier.load if kind == "estimator" else fo.load
    with pytest.raises(ValueError, match="older version") as refusal:
        load(OLDER / kind)
    assert str(refusal.value).count("\n") == 0 and str(OLDER / kind) in str(refusal.value)


@pytest.mark.parametrize("words", [["evaluate", "one-pass"], ["train", "--resume", "--out", "interrupted"]])
def test_the_command_line_refuses_it_too(capsys, tmp_path, words):
    folder = shutil.copytree(OLDER / words[-1], tmp_path / "run")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert cli.main([*words[:-1], str(folder)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "older version" in err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("number", [None, 1, 10**6, "two", -1])
def test_a_format_of_another_number_is_refused(tmp_path, number):
    """None: a folder of before there were numbers. A number above ours is of a newer version."""
    folder = shutil.copytree(GOLDEN / "one-pass", tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    del config["format"]
    (folder / "config.json").write_text(json.dumps(config if number is None else {**config, "format": number}))
    says = {None: "older version", 1: "older version", 10**6: "newer version"}.get(number, "format")
    with pytest.raises(ValueError, match=says):
        fo.load(folder)


def test_golden_folders_stay_small():
    for folder in (*(path for path in GOLDEN.iterdir() if path.is_dir()), OLDER):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
        assert size < 64 << 10, folder
