"""The tables of the authors' nets: one recipe for all arms, figures of other readouts, and a whole quick table."""

import dataclasses
import json
import os

import pytest

from forwardonly.cli import main, train
from forwardonly.cli.parsing import parse
from forwardonly.experiments import recipes
from forwardonly.experiments.batch import Job, read_run
from forwardonly.experiments.recipes import locality
from forwardonly.experiments.recipes.table import reread

SCALES = ("quick", "cpu", "full")


def training(line):
    """A run's options of training, the delay apart, which only rules with several blocks have."""
    words = ["--data", line.data, *line.options_of_train()]
    chosen = parse(train.options(words), words, prog="forwardonly train", description="")
    groups = {name: dict(vars(vars(chosen)[name])) for name in train.GROUPS}
    groups["schedule_and_optimiser"].pop("delay")
    return groups, chosen.validation, chosen.limit


@pytest.mark.parametrize("scale", ["cpu", "full"])
@pytest.mark.parametrize("net", locality.PUBLISHED)
def test_local_rules_and_backprop_are_trained_alike(net, scale):
    ours = [line for line in locality.lines(scale) if line.body == net and "paper" not in line.name]
    assert [line.rule for line in ours] == ["backprop", *("best", "bilinear", "projection") * 2]
    assert all(training(line) == training(ours[0]) for line in ours)
    assert {line.options.get("rule.label-smoothing") for line in ours} == {0.05}
    walls = [line.options.get("walls") for line in ours]
    assert walls == [None, 5, 5, 5, None, None, None]


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("tinycnn", {79.49, 99.50, 91.83}),
        ("price-of-locality", {95.15, 89.06, 95.68, 89.59}),
    ],
)
@pytest.mark.parametrize("scale", SCALES)
def test_the_papers_figures_stand_beside_ours_at_every_scale(name, published, scale):
    table = recipes.TABLE[name](scale)
    assert {row.paper for row in table.rows} - {None} == published
    assert len({row.name for row in table.rows}) == len(table.rows)
    assert table.seeds == (1 if scale == "quick" else 3)


def test_ablations_differ_from_the_learnable_rule_by_the_part_that_they_leave_out():
    arms = {arm.name: arm.options for arm in recipes.TABLE["tinycnn"]("cpu").arms}
    whole = arms["channel-learnable, cifar-10"]
    for part in ("entropy", "orthogonality"):
        assert arms[f"channel-learnable, cifar-10, without {part}"] == (*whole, f"--rule.{part}-weight", "0.0")


def test_another_readout_of_a_run_is_measured_on_its_network(trained_run):
    run = read_run(Job(("--data", "digits"), trained_run))
    figures = {readout: reread("it", readout).of({"it": run}) for readout in ("sum", "last", "skip-first")}
    assert figures["sum"] == pytest.approx(100 * run.result["test_accuracy"])
    assert figures["last"] == pytest.approx(100 * run.result["block_accuracy"][-1])
    assert figures["skip-first"] == figures["last"] != figures["sum"]  # of two blocks the second


@pytest.mark.parametrize("name", ["price-of-locality", "tinycnn"])
@pytest.mark.slow
def test_the_quick_table_is_whole(name, tmp_path, capsys, monkeypatch):
    """On the digits, which are here; with CIFAR-10 the same commands take as long."""
    whole = recipes.TABLE[name]("quick")
    held = ("--validation", "100") if name == "tinycnn" else ()
    small = dataclasses.replace(
        whole,
        arms=tuple(dataclasses.replace(arm, options=(*arm.options, *held)) for arm in whole.arms),
        data=dict.fromkeys(whole.data, "digits"),
    )
    monkeypatch.setitem(recipes.TABLE, name, lambda scale: small)
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    assert main(["reproduce", name, "--out", str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["name"] for row in rows] == [row.name for row in whole.rows]
    assert all(row["n"] == 1 and 0 < row["mean"] < 100 for row in rows)
    assert any(row["paper"] for row in rows)
