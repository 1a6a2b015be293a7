"""The report of a tuning, what it measures before the first step, and a tuning that is killed early."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import forwardonly as fo
from forwardonly import cli
from forwardonly.cli import tune
from forwardonly.cli.parsing import parse
from forwardonly.data.adapting import adapted
from forwardonly.experiments import tuning

pytestmark = pytest.mark.filterwarnings("ignore")  # other libraries' own
SIDE = 32


@pytest.fixture(scope="module")
def start(walk, tmp_path_factory):
    """A folder with weights, and two sets of pictures of other classes."""
    import timm

    folder = tmp_path_factory.mktemp("start")
    torch.manual_seed(3)
    model = timm.create_model("resnet10t", num_classes=0, zero_init_last=False)
    save_file(model.state_dict(), folder / "weights.safetensors")
    generator = np.random.default_rng(0)
    for name, classes in (("task", 2), ("other", 3)):
        labels = np.arange(48) % classes
        pixels = generator.integers(0, 90, (48, SIDE, SIDE, 3)) + 80 * labels[:, None, None, None]
        np.savez(folder / f"{name}.npz", x=pixels.astype(np.uint8), y=labels)
    return folder


def words_of(start, out, *more):
    words = ["tune", "--model", "timm:resnet10t", "--weights", str(start / "weights.safetensors"), "--blocks", "2"]
    words += ["--data", str(start / "task.npz"), "--precision", "fp32", "--batch-size", "8", "--epochs", "2"]
    return [*words, "--out", str(out), *more]


def text_of(path):
    """A page's text, without its style and its tags."""
    return re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*</style>", "", path.read_text()))


@pytest.mark.slow
def test_the_report_has_the_untouched_model_beside_each_epoch(start, tmp_path, capsys):
    words = words_of(start, tmp_path / "run", "--validation", "8", "--other", str(start / "other.npz"))
    assert cli.main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["report"] == str(tmp_path / "run" / "report.html")
    page = (tmp_path / "run" / "report.html").read_text()
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]
    shown = {row[0]: row[1:] for row in rows if row}
    figures = [result["before"], *result["measured"]]
    assert len(figures) == 3
    for name, row in zip(("untouched", "epoch 1", "epoch 2"), figures, strict=True):
        expected = [f"{100 * row[each]:.2f} %" for each in ("validation_accuracy", "other_probe_accuracy")]
        assert shown[name] == expected
    blocks = [result["validation_block_accuracy"], result["block_accuracy"]]
    for index in range(2):
        assert shown[f"block {index + 1}"] == [f"{100 * own[index]:.2f} %" for own in blocks]
    assert shown["peak memory"] == [f"{result['peak_memory_bytes'] / 2**20:.0f} MiB"]
    assert page.count("<svg") == 4  # the task, what is forgotten, the blocks' losses and accuracies
    text = text_of(tmp_path / "run" / "report.html")
    assert "--validation N" not in text and "--other DATA" not in text


def test_a_folder_that_is_read_as_it_is_needed_is_tuned_on_as_one_in_memory(walk, tmp_path, capsys):
    import timm

    torch.manual_seed(3)
    generator = np.random.default_rng(0)
    for number, name in enumerate(("dark", "light")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for index in range(10):
            pixels = generator.integers(0, 90, (SIDE, SIDE, 3)) + 80 * number
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "pets" / name / f"{index}.png")
    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), weights)
    words = ["tune", "--model", "timm:test_resnet", "--weights", str(weights), "--data", str(tmp_path / "pets")]
    words += ["--image-size", str(SIDE), "--epochs", "1", "--precision", "fp32"]
    for name, more in (("loaded", []), ("streamed", ["--cache"])):
        assert cli.main([*words, *more, "--out", str(tmp_path / name)]) == 0, capsys.readouterr().err
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("loaded", "streamed"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_without_figures_the_report_says_which_options_show_them(start, tmp_path):
    assert cli.main(words_of(start, tmp_path / "run")) == 0
    text = text_of(tmp_path / "run" / "report.html")
    assert "--validation N" in text and "--other DATA" in text and "untouched" not in text


@pytest.mark.slow
def test_the_report_of_a_resumed_run_is_that_of_one_that_was_not(start, tmp_path):
    more = ["--validation", "8", "--lr-schedule", "constant", "--heads-first", "0"]
    assert cli.main([*words_of(start, tmp_path / "whole", *more), "--epochs", "3"]) == 0
    assert cli.main(words_of(start, tmp_path / "short", *more)) == 0
    assert cli.main(["tune", "--resume", "--out", str(tmp_path / "short"), "--epochs", "3"]) == 0

    def table(name):
        page = (tmp_path / name / "report.html").read_text()
        return re.findall(r"<tr><td>(?:untouched|epoch \d|block \d|network)</td>.*?</tr>", page)

    assert len(table("whole")) == 7 and table("whole") == table("short")


@pytest.mark.slow
def test_the_command_in_the_report_repeats_the_run(start, tmp_path, capsys):
    more = ["--validation", "8", "--freeze", "bn", "--flip", "random", "--layer-decay", "0.5"]
    assert cli.main(words_of(start, tmp_path / "one", *more)) == 0
    assert cli.main(["tune", "--resume", "--out", str(tmp_path / "one")]) == 0  # it is done, and reports once more
    page = (tmp_path / "one" / "report.html").read_text()
    line = re.search(r"<pre>(.*?)</pre>", page, re.DOTALL)[1].replace("\\\n", " ")
    repeated = line.split()[1:]
    assert line.split()[0] == "forwardonly" and "--out" not in repeated
    assert cli.main([*repeated, "--out", str(tmp_path / "two")]) == 0
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_the_command_has_what_was_given_and_no_default():
    argv = ["--model", "timm:resnet18", "--data", "a b", "--rule", "hyperspherical", "--heads-first", "0.3"]
    argv += ["--out", "r", "--json", "--rule.margin", "0.2"]
    chosen = parse(tune.options(argv), argv, prog="forwardonly tune", description="")
    words = tune.command(chosen)
    assert words[:2] == ["forwardonly", "tune"]
    given = dict(zip(words[2::2], words[3::2], strict=True))
    expected = {"--model": "timm:resnet18", "--data": "a b", "--rule": "hyperspherical", "--heads-first": "0.3"}
    expected["--rule.margin"] = "0.2"
    assert given == expected


def test_the_command_keeps_that_gradients_are_not_clipped():
    argv = ["--model", "timm:resnet18", "--rule", "channel-static", "--clip", "none"]
    words = tune.command(parse(tune.options(argv), argv, prog="forwardonly tune", description=""))
    assert words[words.index("--clip") + 1] == "none"
    again = parse(tune.options(words[2:]), words[2:], prog="forwardonly tune", description="")
    assert again.schedule_and_optimiser.clip is None and "clip" in again.given


def test_a_long_run_has_a_table_that_can_be_read():
    history = [{"epoch": epoch, "loss": [1.0], "validation_accuracy": 0.5} for epoch in range(300)]
    chosen = tuning._spaced(300, tuning.LISTED)
    columns, rows = tuning.measured(None, [history[index] for index in chosen])
    assert columns == ["", "validation"] and len(rows) == tuning.LISTED
    assert rows[0][0] == "epoch 1" and rows[-1] == ["epoch 300", "50.00 %"]


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--freeze", "--freeze '[' is not a regular expression: unterminated character set at position 0."),
        ("--blocks", "--blocks '[' is not a regular expression: unterminated character set at position 0."),
        ("--weights", "There is no file of weights [."),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(option, sentence, monkeypatch, tmp_path, capsys):
    def loaded(*_, **__):
        raise AssertionError("it was loaded")

    monkeypatch.setattr(fo.data, "load", loaded)
    monkeypatch.setattr("forwardonly.network.models.build", loaded)
    monkeypatch.setattr("forwardonly.network.models.pretrained", loaded)
    words = ["tune", "--model", "timm:resnet10t", "--data", "digits", "--out", str(tmp_path / "run"), option, "["]
    assert cli.main(words) == 2
    assert capsys.readouterr().err == f"forwardonly: {sentence}\n"
    assert not (tmp_path / "run").exists()


DYING = """
import os, runpy, signal
from pathlib import Path
library = runpy.run_path({models!r})["declare_torchvision_operators"]()
from forwardonly import cli
from forwardonly.training.trainer import Trainer
Trainer._step = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
cli.main({words!r})
"""


@pytest.mark.slow
def test_a_tuning_that_is_killed_before_its_first_checkpoint_starts_from_the_weights_again(start, tmp_path):
    models = str(Path(__file__).parents[1] / "benchmarks" / "models.py")
    words = words_of(start, tmp_path / "killed", "--validation", "8")
    code = DYING.format(models=models, words=words)
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["config.json"]
    assert cli.main(["tune", "--resume", "--out", str(tmp_path / "killed"), "--threads", "1"]) == 0
    assert cli.main([*words_of(start, tmp_path / "whole", "--validation", "8"), "--threads", "1"]) == 0
    killed, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("killed", "whole"))
    assert all(torch.equal(killed[name], whole[name]) for name in whole)


@pytest.mark.slow
def test_a_run_goes_on_without_its_file_of_weights(start, tmp_path):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes((start / "weights.safetensors").read_bytes())
    words = words_of(start, tmp_path / "run")
    words[words.index("--weights") + 1] = str(weights)
    assert cli.main(words) == 0
    weights.unlink()
    assert cli.main(["tune", "--resume", "--out", str(tmp_path / "run"), "--epochs", "3"]) == 0


@pytest.mark.slow
def test_other_data_may_have_another_size_and_colour(start, tmp_path, capsys):
    assert cli.main([*words_of(start, tmp_path / "run", "--other", "digits"), "--epochs", "1"]) == 0
    said = capsys.readouterr().err
    assert f"digits: resized from 8 x 8 to {SIDE} x {SIDE}, grey made RGB" in said
    assert "other data, probed" in said


@pytest.mark.parametrize("shape", [(3, 12, 12), (1, 6, 6), (1, 12, 12)])
def test_images_in_memory_are_adapted_as_files_are(tmp_path, shape):
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (3, 6, 9, 3), dtype=np.uint8)
    files = [tmp_path / f"{index}.png" for index in range(3)]
    for file, own in zip(files, pixels, strict=True):
        Image.fromarray(own).save(file)
    images = fo.data.Images(torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.arange(3) % 2, ("a", "b"), "small")
    found = adapted(images, shape)
    expected, notes = fo.data.read_adapted([str(file) for file in files], shape)
    assert torch.equal(found.images, expected)
    assert found.notes == (f"small: {notes[0]}",)
    assert adapted(found, shape) is found
    assert adapted(images, (3, 4, 5)) is images  # to squares alone
