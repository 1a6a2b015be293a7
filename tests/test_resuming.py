"""Runs in folders: what a folder holds, and interruption and resumption to the same bits, or a refusal."""

import json
import os
import shutil
import signal

import pytest
import torch

import forwardonly as fo


def fit_in(folder, images, rule_name="hyperspherical", dropout=0.2, **options):
    rule = fo.rules.TABLE[rule_name](classes=4)
    net = fo.mlp(images.shape, [12, 9], rule=rule, dropout=dropout)
    fixed = {"epochs": 3, "batch_size": 16, "seed": 5, "crop": 1}
    if rule.labelled:
        fixed.update(validation=images, test=images)
    return fo.fit(net, images, out=folder, **{**fixed, **options})


def press_ctrl_c_at(step):
    def progress(at):
        if at.step == step and at.row is None:
            os.kill(os.getpid(), signal.SIGINT)

    return progress


@pytest.mark.parametrize("rule_name", fo.rules.TABLE)
@pytest.mark.parametrize("schedule", ["simultaneous", "greedy"])
@pytest.mark.parametrize("at", [1, 7])
def test_an_interrupted_run_goes_on_to_the_same_bits(images, tmp_path, rule_name, schedule, at):
    goes_on_to_the_same_bits(images, tmp_path, at, rule_name=rule_name, schedule=schedule)


@pytest.mark.parametrize("at", [3, 7])
def test_an_interrupted_run_with_blocks_that_start_late_goes_on_to_the_same_bits(images, tmp_path, at):
    goes_on_to_the_same_bits(images, tmp_path, at, rule_name="projection", delay=0.45)


@pytest.mark.parametrize("at", [1, 4, 7])
def test_an_interrupted_run_of_two_workers_goes_on_to_the_same_bits(images, tmp_path, at):
    options = {"rule_name": "projection", "dropout": 0.0, "workers": 2, "checkpoint_every": 2}
    goes_on_to_the_same_bits(images, tmp_path, at, **options)


def goes_on_to_the_same_bits(images, tmp_path, at, **options):
    whole = fit_in(tmp_path / "whole", images, **options)
    with pytest.raises(fo.training.Interrupted, match="--resume"):
        fit_in(tmp_path / "cut", images, progress=press_ctrl_c_at(at), **options)
    assert not (tmp_path / "cut" / "result.json").exists()
    resumed = fit_in(tmp_path / "cut", images, resume=True, **options)
    expected = whole.network.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.network.state_dict().items())
    timeless = [[{k: v for k, v in row.items() if k != "seconds"} for row in run.history] for run in (whole, resumed)]
    assert timeless[0] == timeless[1]


def test_a_run_folder_holds_what_the_design_says(images, tmp_path):
    run = fit_in(tmp_path / "run", images)
    files = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert files == ["checkpoint", "config.json", "metrics.jsonl", "model.safetensors", "result.json"]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    wanted = {"test_accuracy", "validation_accuracy", "block_accuracy", "seconds", "peak_memory_bytes", "seed"}
    assert wanted | {"device", "torch"} <= set(result)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["training"]["epochs"] == 3
    assert config["versions"]["torch"] == torch.__version__
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == run.history
    assert torch.equal(fo.load(tmp_path / "run").scores(images.images), run.network.scores(images.images))


def test_a_finished_run_is_not_written_over(images, tmp_path):
    fit_in(tmp_path / "run", images)
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="already holds a run"):
        fit_in(tmp_path / "run", images)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


def test_a_run_is_resumed_only_as_it_was(images, tmp_path):
    with pytest.raises(ValueError, match="no checkpoint"):
        fit_in(tmp_path / "none", images, resume=True)
    with pytest.raises(fo.training.Interrupted):
        fit_in(tmp_path / "run", images, progress=press_ctrl_c_at(2))
    with pytest.raises(ValueError, match="had batch_size 16, not 8"):
        fit_in(tmp_path / "run", images, resume=True, batch_size=8)
    with pytest.raises(ValueError, match="had seed 5, not 6"):
        fit_in(tmp_path / "run", images, resume=True, seed=6)
    (state,) = (tmp_path / "run" / "checkpoint").iterdir()
    state.write_bytes(state.read_bytes()[:500])
    with pytest.raises(ValueError, match="damaged"):
        fit_in(tmp_path / "run", images, resume=True)


@pytest.mark.parametrize(
    "others",
    [
        {"device": "auto"},
        {"checkpoint_every": 1},
        {"validate_every": 2},
        {"workers": 2},
        {"memory_budget": "8GiB"},
        {"precision": "fp32"},
        {"diagnose": True},
    ],
)
def test_what_does_not_decide_what_is_learned_may_change(images, tmp_path, others):
    began = {"rule_name": "cumulative", "dropout": 0.0, "precision": "fp32", "device": "cpu"}
    if "precision" in others:
        began = {**began, "precision": "auto"}
        others = {"precision": fo.system.precision.choose_precision("auto", torch.device("cpu"))}
    whole = fit_in(tmp_path / "whole", images, **began)
    with pytest.raises(fo.training.Interrupted):
        fit_in(tmp_path / "run", images, progress=press_ctrl_c_at(4), **began)
    resumed = fit_in(tmp_path / "run", images, resume=True, **{**began, **others})
    expected = whole.network.state_dict()
    if torch.device(resumed.network.device).type == "cpu":
        assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.network.state_dict().items())
    noted = json.loads((tmp_path / "run/config.json").read_text())["training"]
    assert {name: noted[name] for name in others} == others


def test_auto_goes_on_in_the_arithmetic_that_it_began_in(images, tmp_path):
    """As a run of a processor with bf16 does on one without, or the other way round."""
    natively = fo.system.precision.choose_precision("auto", torch.device("cpu"))
    began = "fp32" if natively == "bf16" else "bf16"
    with pytest.raises(fo.training.Interrupted):
        fit_in(tmp_path / "run", images, progress=press_ctrl_c_at(4), precision=began)
    with pytest.raises(ValueError, match=f"had precision {began}, not {natively}: resume it with that"):
        fit_in(tmp_path / "run", images, resume=True, precision=natively)
    assert fit_in(tmp_path / "run", images, resume=True, precision="auto").result["precision"] == began


@pytest.mark.parametrize("change", ["pixel", "label", "fewer", "order", "names"])
def test_a_run_is_not_resumed_with_other_images(images, tmp_path, change):
    with pytest.raises(fo.training.Interrupted):
        fit_in(tmp_path / "run", images, progress=press_ctrl_c_at(2))
    pixels, labels, names = images.images.clone(), images.labels.clone(), images.classes
    if change == "pixel":
        pixels[79, 0, 5, 5] ^= 1
    elif change == "label":
        labels[79] = 0
    elif change == "order":
        pixels, labels = pixels.flip(0), labels.flip(0)
    elif change == "names":
        names = names[::-1]
    elif change == "fewer":
        pixels, labels = pixels[:79], labels[:79]
    other = fo.data.Images(pixels, labels, names, "other")
    with pytest.raises(ValueError, match=r"learned from other images, labels or class names than these .* of other"):
        fit_in(tmp_path / "run", other, resume=True, validation=images, test=images)
    elsewhere = fo.data.Images(images.images.clone(), images.labels.clone(), images.classes, "moved")
    assert len(fit_in(tmp_path / "run", elsewhere, resume=True).history) == 3


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_goes_on_for_more_epochs(images, tmp_path, finished):
    if finished:
        fit_in(tmp_path / "run", images)
    else:
        with pytest.raises(fo.training.Interrupted):
            fit_in(tmp_path / "run", images, progress=press_ctrl_c_at(7))
    before = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    with pytest.raises(ValueError, match="had 3 epochs, not 2: resume it with as many, or with more"):
        fit_in(tmp_path / "run", images, resume=True, epochs=2)
    run = fit_in(tmp_path / "run", images, resume=True, epochs=6)
    assert run.history[: len(before)] == before
    assert [row["epoch"] for row in run.history] == list(range(6))
    whole = fit_in(tmp_path / "whole", images, epochs=6)
    assert [row["learning_rate"] for row in run.history][len(before) :] == [
        row["learning_rate"] for row in whole.history[len(before) :]
    ]
    assert run.result["epochs"] == 6
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["training"]["epochs"] == 6
    again = fit_in(tmp_path / "run", images, resume=True, epochs=6)
    assert torch.equal(again.network.scores(images.images), fo.load(tmp_path / "run").scores(images.images))


def test_blocks_that_train_in_turn_go_on_for_more_epochs_in_the_first_alone(images, tmp_path):
    fit_in(tmp_path / "done", images, schedule="greedy")
    with pytest.raises(ValueError, match="trains one block after another and has done the first with 3 epochs"):
        fit_in(tmp_path / "done", images, schedule="greedy", resume=True, epochs=4)
    with pytest.raises(fo.training.Interrupted):
        fit_in(tmp_path / "run", images, schedule="greedy", progress=press_ctrl_c_at(2))
    run = fit_in(tmp_path / "run", images, schedule="greedy", resume=True, epochs=4)
    assert [row["block"] for row in run.history] == [0] * 4 + [1] * 4


def test_a_run_is_resumed_with_its_own_network(images, tmp_path):
    with pytest.raises(fo.training.Interrupted):
        fit_in(tmp_path / "run", images, progress=press_ctrl_c_at(2))
    net = fo.mlp(images.shape, [12, 9], rule=fo.rules.Hyperspherical(classes=4, margin=0.3), dropout=0.2)
    with pytest.raises(ValueError, match=r"started with another rule margin, .* and not 0.3"):
        fo.fit(net, images, out=tmp_path / "run", resume=True, epochs=3, batch_size=16, seed=5, crop=1)


def test_validation_images_that_a_readout_is_fitted_to_are_compared_too(images, tmp_path):
    def run(held, **more):
        net = fo.mlp(images.shape, [12, 9], rule=fo.rules.Hyperspherical(classes=4), readout="validation")
        return fo.fit(net, images, validation=held, out=tmp_path / "run", epochs=2, batch_size=16, **more)

    with pytest.raises(fo.training.Interrupted):
        run(images, progress=press_ctrl_c_at(2))
    with pytest.raises(ValueError, match="learned from other images"):
        run(images.subset(torch.arange(40)), resume=True)
    assert len(run(images, resume=True).history) == 2


def test_a_run_without_a_checkpoint_starts_again_and_notes_its_new_options(images, tmp_path):
    fit_in(tmp_path / "run", images)
    for name in ("result.json", "metrics.jsonl", "model.safetensors"):
        (tmp_path / "run" / name).unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoint")
    run = fit_in(tmp_path / "run", images, resume=True, epochs=1, batch_size=20)
    assert len(run.history) == 1
    assert json.loads((tmp_path / "run/config.json").read_text())["training"]["batch_size"] == 20
