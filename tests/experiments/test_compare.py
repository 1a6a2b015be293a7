"""Comparisons: from the command line, killed midway and resumed, and refused input."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field

import pytest

from forwardonly.cli import compare as compare_command
from forwardonly.cli import main
from forwardonly.cli.parsing import parse
from forwardonly.data.sources import SOURCES
from forwardonly.experiments import diagnosis, recipes
from forwardonly.experiments.batch import Job, run_all
from forwardonly.experiments.compare import parse_arm
from forwardonly.experiments.reproduce import find, sentences

SMALL = ["--data", "digits", "--seeds", "2", "--epochs", "4", "--hidden", "16", "12", "--validation", "100"]
RULES = ["--rules", "hyperspherical", "cumulative:remedy=mgc,gamma=1"]


def command(out, *more):
    return [
        sys.executable,
        "-m",
        "forwardonly",
        "compare",
        *RULES,
        *SMALL,
        "--out",
        str(out),
        "--jobs",
        "2",
        "--json",
        *more,
    ]


def figures(result):
    """What must be the same whenever and however it was computed."""
    return [
        {key: arm[key] for key in ("rule", "data", "seeds", "test_accuracy", "mean", "std")} for arm in result["arms"]
    ]


@pytest.mark.slow
def test_a_comparison_killed_in_the_middle_goes_on_to_the_same_table(tmp_path):
    whole = json.loads(subprocess.run(command(tmp_path / "whole"), capture_output=True, check=True).stdout)
    started = subprocess.Popen(command(tmp_path / "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    runs = tmp_path / "killed" / "runs"
    deadline = time.monotonic() + 60
    while not list(runs.glob("*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.02)
    started.send_signal(signal.SIGKILL)
    started.wait()
    time.sleep(1)  # the lifeline: no run outlives the comparison
    marks = [path.stat().st_mtime_ns for path in sorted(runs.glob("*/*"))]
    time.sleep(1)
    assert marks == [path.stat().st_mtime_ns for path in sorted(runs.glob("*/*"))]
    finished = {path: path.stat().st_mtime_ns for path in runs.glob("*/result.json")}
    assert len(finished) < 4
    again = json.loads(subprocess.run(command(tmp_path / "killed"), capture_output=True, check=True).stdout)
    assert figures(again) == figures(whole)
    assert again["tests"] == whole["tests"]
    assert {path: path.stat().st_mtime_ns for path in finished} == finished

    page = (tmp_path / "whole" / "report.html").read_text()
    assert not re.search(r"(src|href)\s*=|@import|url\(|https?://", page)
    assert page.count('class="dot') == 4 and "prefers-color-scheme: dark" in page
    assert "forwardonly train --rule cumulative --rule.remedy mgc --rule.gamma 1 --data digits --seed 1" in page
    test = whole["tests"][0]
    assert (test["a"], test["b"]) == ("cumulative:remedy=mgc,gamma=1", "hyperspherical")
    assert test["difference"] == pytest.approx(whole["arms"][1]["mean"] - whole["arms"][0]["mean"])


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--rules", "hypersferical"], "unknown rule 'hypersferical': did you mean 'hyperspherical'?"),
        (["--rules", "ff:remedy"], "not of the form RULE:option=value"),
        (["--rules", "ff:thresold=1"], "unknown option '--rule.thresold': did you mean '--rule.threshold'?"),
        (["--rules", "cumulative:gamma=-1"], "gamma must be 0 or more"),
        (["--rules", "ff", "ff"], "'ff' is named twice"),
        (["--rules", "ff", "--seeds", "0"], "at least one rule, one data set and one seed"),
        (["--rules", "ff", "--epochs", "0"], "epochs must be at least 1"),
        (["--rules", "ff", "--jobs", "0"], "jobs must be at least 1"),
        (["--rules", "ff", "--data", "no-such-set"], "no-such-set"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, capsys, words, complaint):
    assert main(["compare", *words, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert said.out == "" and complaint in said.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--epochs", "0"], "epochs must be at least 1"),
        (["--delay", "0.2", "--schedule", "greedy"], "do not go together"),
        (["--crop=-1"], "crop must be 0 or more"),
    ],
)
def test_training_options_that_make_no_sense_are_refused_before_the_first_run(tmp_path, capsys, words, complaint):
    assert main(["compare", "--rules", "ff", "best", *words, "--out", str(tmp_path / "out")]) == 2
    assert complaint in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_folder_of_other_runs_is_refused(tmp_path, capsys):
    folder = tmp_path / "out" / "runs" / "digits-ff-seed0"
    folder.mkdir(parents=True)
    (folder / "command.json").write_text(json.dumps({"options": ["--rule", "ff", "--epochs", "9"]}))
    assert main(["compare", "--rules", "ff", "--seeds", "1", "--epochs", "2", "--out", str(tmp_path / "out")]) == 2
    assert "choose another folder" in capsys.readouterr().err


@dataclass(frozen=True)
class Group:
    off: bool = False


@dataclass(frozen=True)
class Flags:
    on: bool = True
    group: Group = field(default_factory=Group)


@pytest.mark.parametrize("words", [["--on"], ["--group.no-off"], ["--on", "--group.no-off"], []])
def test_a_resumed_run_may_repeat_a_flag_that_is_its_default_by_now(words):
    assert parse(Flags(), words, prog="x", description="") == Flags()
    with pytest.raises(ValueError, match=r"unknown option .--no-group\.off"):
        parse(Flags(), [*words, "--no-group.off"], prog="x", description="")


def test_arms_and_progress(tmp_path):
    assert parse_arm("ff").options == ("--rule", "ff")
    options = parse_arm("ff:normalise_input=False,label-value=2").options
    assert options == ("--rule", "ff", "--rule.no-normalise-input", "--rule.label-value", "2")
    assert parse_arm("ff:normalise-input=true").options[2:] == ("--rule.normalise-input",)
    job = Job(("--rule", "ff"), tmp_path)
    assert job.share() == 0 and job.command == f"forwardonly train --rule ff --out {tmp_path}"
    (tmp_path / "config.json").write_text(json.dumps({"training": {"schedule": "greedy", "epochs": 4}}))
    (tmp_path / "metrics.jsonl").write_text((json.dumps({"loss": [1.0, 2.0]}) + "\n") * 6)
    assert job.share() == 6 / 8


def test_a_batch_of_finished_runs_says_so(tmp_path):
    job = Job(("--rule", "ff"), tmp_path / "run")
    job.folder.mkdir()
    (job.folder / "command.json").write_text(json.dumps({"options": list(job.options)}))
    (job.folder / "result.json").write_text(json.dumps({"test_accuracy": 0.5}))
    said = []
    assert [run.result["test_accuracy"] for run in run_all([job], report=said.append)] == [0.5]
    assert said == [(1.0, 1, 1)]


@pytest.mark.parametrize("row", [{"free_riding": 3}, {"free_riding": {}, "epoch": 0}, {"free_riding": {"blocks": [1]}}])
def test_a_diagnosis_refuses_damaged_metrics(tmp_path, row):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"loss": [1.0], **row}))
    with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged: \w+ in a row\."):
        diagnosis.write(tmp_path, {"blocks": [], "law_slope": None, "assignments": []})


@pytest.mark.parametrize("name", recipes.TABLE)
@pytest.mark.parametrize("scale", ["full", "quick"])
def test_every_recipe_is_made_of_options_that_train_takes(name, scale):
    from forwardonly.cli.compare import check

    table = recipes.TABLE[name](scale)
    assert table.says and {row.name for row in table.rows}
    assert {table.data[arm.name] for arm in table.arms} <= SOURCES.keys()
    assert {arm for group in table.compared for arm in group} <= {arm.name for arm in table.arms}
    for arm in {arm.options: arm for arm in table.arms}.values():
        check(arm.options)


@pytest.mark.slow
def test_a_table_is_reproduced_and_a_run_diagnosed(tmp_path, capsys, monkeypatch):
    from forwardonly.experiments.recipes import free_riding

    def table(scale):
        small = ("--rule", "cumulative", "--validation", "100", "--diagnose", "--epochs", "2")
        monkeypatch.setattr(free_riding, "PLAIN", small)
        monkeypatch.setattr(free_riding, "LENGTH", {"quick": ("--batch-size", "64")})
        monkeypatch.setattr(free_riding, "SETTINGS", {"quick": ((free_riding.Setting("digits"), 4),)})
        return free_riding.table(scale)

    monkeypatch.setitem(recipes.TABLE, "free-riding", table)
    command = ["reproduce", "free-riding", "--seeds", "1", "--out", str(tmp_path), "--json"]
    one = [*command, "--arms", "per-block, 4 layers, digits"]
    assert main(one) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) == 3  # starvation, separation and accuracy; ratios need none's run too
    assert main([*command, "--jobs", "2"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["scale"] == "quick" and len(result["rows"]) == 19
    assert result["says"][-1] == "Seeds: 1."
    control = next(row for row in result["rows"] if row["name"].startswith("starvation") and "per-block" in row["name"])
    assert control in rows
    assert main(one) == 0  # what is finished stays in the table
    assert json.loads(capsys.readouterr().out) == result == json.loads((tmp_path / "reproduction.json").read_text())
    assert (control["paper"], control["mean"], control["n"]) == (0.0, 0.0, 1)
    run = next(path for path in (tmp_path / "runs").iterdir() if "none" in path.name)
    assert main(["diagnose", str(run), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    keys = {"margin", "prior_margin", "attenuation", "starvation", "separation", "accuracy"}
    assert len(said["blocks"]) == 4 and set(said["blocks"][0]) == keys and "law_slope" in said
    page = (run / "diagnosis.html").read_text()
    assert page.count("<svg") == 6 and os.fspath(run / "diagnosis.html") == said["report"]


@pytest.mark.parametrize(
    ("name", "scale"), [("networkff-mnist", "quick"), ("lorberbom", "full"), ("free-riding", "quick"), ("lcca", "cpu")]
)
def test_the_seeds_that_are_said_are_those_that_run(name, scale):
    table = find(name, scale)
    assert sentences(table, 7)[-1] == f"Seeds: 7, where the scale has {table.seeds}."
    assert sentences(table, None)[-1] == sentences(table, table.seeds)[-1] == f"Seeds: {table.seeds}."
    assert not any("seed" in sentence for sentence in sentences(table, 7)[:-1])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["networkff-mnist", "--scale", "cpu"], "networkff-mnist has no scale 'cpu': choose one of full, quick"),
        (["networkff-mnist", "--arms", "FFF"], "This table has no arm 'FFF', but these: FF; F-CFF; A-CFF;"),
    ],
)
def test_a_scale_or_arm_that_is_not_there_is_one_clear_sentence(options, says, capsys):
    assert main(["reproduce", *options]) == 2
    assert says in capsys.readouterr().err


def test_a_folder_of_mixed_sizes_can_be_compared():
    words = ["--rules", "projection", "--out", "o", "--data", "photos", "--image-size", "32"]
    chosen = parse(compare_command.options(words), words, prog="forwardonly compare", description="")
    assert compare_command.train_options(chosen) == ["--image-size", "32"]
