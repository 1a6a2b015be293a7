"""Runs: their history, their schedule, and refused input.

`test_convergence.py` tests the accuracy that they reach, `test_resuming.py` how they go on.
"""

import math

import numpy as np
import pytest
import torch

import forwardonly as fo
from forwardonly.training.config import TrainingConfig
from forwardonly.training.schedule import Schedule
from forwardonly.training.update import Update


@pytest.mark.parametrize("optimiser", ["sgd", "Adam", "RMSprop", "adagrad"])
def test_any_torch_optimiser_trains(digits, optimiser):
    net = fo.mlp(digits.train.shape, [50], rule=fo.rules.Hyperspherical(classes=10))
    rate = 0.1 if optimiser == "sgd" else 0.01
    run = fo.fit(net, digits.train, epochs=4, optimiser=optimiser, learning_rate=rate, batch_size=32)
    assert run.history[-1]["loss"][0] < 0.5 * run.history[0]["loss"][0]


def test_a_history_row_says_what_happened(digits):
    net = fo.mlp(digits.train.shape, [50, 40], rule=fo.rules.Hyperspherical(classes=10))
    run = fo.fit(net, digits.train, validation=digits.validation, test=digits.test, epochs=2)
    assert [row["epoch"] for row in run.history] == [0, 1]
    for row in run.history:
        assert len(row["loss"]) == len(row["block_accuracy"]) == 2
        assert row["seconds"] > 0
    last = fo.evaluate(net, digits.validation)
    assert run.history[-1]["validation_accuracy"] == last.accuracy > run.history[0]["validation_accuracy"]
    assert run.history[-1]["block_accuracy"] == last.block_accuracy
    assert run.result["test_accuracy"] == fo.evaluate(net, digits.test).accuracy


def test_greedy_training_moves_one_block_at_a_time(images):
    net = fo.mlp(images.shape, [12, 9], rule=fo.rules.Hyperspherical(classes=4))
    seen = []

    def watch(progress):
        if progress.row is not None:
            seen.append([block.body[1].weight.detach().clone() for block in net.row])

    run = fo.fit(net, images, epochs=2, batch_size=16, schedule="greedy", progress=watch)
    assert [row["block"] for row in run.history] == [0, 0, 1, 1]
    assert torch.equal(seen[0][1], seen[1][1])
    assert not torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[1][0], seen[3][0])
    assert not torch.equal(seen[2][1], seen[3][1])


@pytest.mark.parametrize("rule_name", ["projection", "cumulative"])
def test_a_block_that_starts_late_starts_as_it_was_made(images, rule_name):
    def learned(**options):
        net = fo.mlp(images.shape, [12, 11, 10], rule=fo.rules.TABLE[rule_name](classes=4), seed=5)
        made = {name: tensor.clone() for name, tensor in net.row[-1].state_dict().items()}
        seen = {}

        def watch(progress):
            seen[progress.step] = all(torch.equal(made[name], now) for name, now in net.row[-1].state_dict().items())

        return fo.fit(net, images, batch_size=16, epochs=4, progress=watch, **options), list(seen.values())

    (whole, stood), (delayed, stood_late) = learned(), learned(delay=0.3)
    steps, first = len(stood_late), round(0.3 * len(stood_late))
    assert not any(stood)
    assert stood_late == [True] * first + [False] * (steps - first)
    losses = [[row["loss"] for row in run.history] for run in (whole, delayed)]
    assert losses[1][0][2] is None, "an epoch in which a block has not started has no loss of it"
    assert all(math.isfinite(loss) for row in losses[1][1:] for loss in row)
    assert [row[0] for row in losses[0]] == [row[0] for row in losses[1]], "the first block learns as it did"


@pytest.mark.parametrize(
    ("delay", "depth", "first_steps"),
    [(0.0, 3, [0, 0, 0]), (0.2, 3, [0, 10, 20]), (0.3, 2, [0, 30]), (0.3, 1, [0]), (0.999, 2, [0, 99])],
)
def test_blocks_start_at_even_distances(delay, depth, first_steps):
    schedule = Schedule(TrainingConfig(delay=delay, epochs=10), 10, depth)
    assert schedule.first_steps == first_steps
    assert [schedule.started(step) for step in (0, 99)] == [sum(first == 0 for first in first_steps), depth]
    assert sum(map(sum, map(schedule.steps_in_epoch, range(10)))) == sum(100 - first for first in first_steps)


OWN = {"step": {"final_rate": 0.1}}


@pytest.mark.parametrize(
    ("schedule", "warmup", "progress", "factor"),
    [
        ("constant", 0.0, 0.7, 1.0),
        ("linear", 0.0, 0.25, 0.75),
        ("cosine", 0.0, 0.5, 0.5),
        ("cosine", 0.0, 1.0, 0.0),
        ("linear", 0.2, 0.0, 1 / 200),
        ("linear", 0.2, 0.099, 0.5),
        ("cosine", 0.2, 0.199, 1.0),
        ("linear", 0.2, 0.2, 1.0),
        ("linear", 0.2, 0.6, 0.5),
        ("step", 0.0, 0.499, 1.0),
        ("step", 0.0, 0.5, 0.1),
        ("step", 0.2, 0.599, 1.0),
        ("step", 0.2, 0.6, 0.1),
    ],
)
def test_the_learning_rate_follows_its_schedule(schedule, warmup, progress, factor):
    config = TrainingConfig(lr_schedule=schedule, warmup=warmup, epochs=10, **OWN.get(schedule, {}))
    assert Schedule(config, 100, 1).rate_factor(round(1000 * progress)) == pytest.approx(factor, abs=1e-9)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "step"])
@pytest.mark.parametrize("warmup", [0.01, 0.2, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 100])
def test_every_step_of_a_warm_up_learns(schedule, warmup, steps):
    config = TrainingConfig(lr_schedule=schedule, warmup=warmup, epochs=1, **OWN.get(schedule, {}))
    rates = [Schedule(config, steps, 1).rate_factor(step) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    rising = sum(step < warmup * steps for step in range(steps))
    assert rates[:rising] == sorted(rates[:rising])


@pytest.mark.parametrize("options", [{"epochs": 1}, {"epochs": 1, "optimiser": "adamw"}, {"epochs": 2, "warmup": 0.5}])
def test_a_run_of_one_step_with_warm_up_learns(images, options):
    net = fo.mlp(images.shape, [12, 12], rule=fo.rules.make("best", classes=4))
    before = {name: weight.clone() for name, weight in net.named_parameters()}
    fo.fit(net, images, **{"warmup": 0.2, "batch_size": 80, "delay": 0.0, **options})
    for name, weight in net.named_parameters():
        if weight.dim() > 1:
            assert not torch.equal(weight, before[name]), name


def test_a_gradient_is_clipped_to_its_norm():
    linear = torch.nn.Linear(3, 2, bias=False)
    before = linear.weight.detach().clone()
    update = Update(linear, TrainingConfig(optimiser="sgd", momentum=0.0, learning_rate=1.0, clip=0.5))
    update(100 * linear(torch.ones(1, 3)).sum())
    assert (linear.weight.detach() - before).norm().item() == pytest.approx(0.5, rel=1e-4)
    assert linear.weight.grad is None


def test_numpy_s_whole_numbers_are_whole_numbers(images, tmp_path):
    net = fo.mlp(images.shape, [12], rule=fo.rules.Hyperspherical(classes=4))
    run = fo.fit(net, images, epochs=np.int64(1), batch_size=np.int32(16), out=tmp_path)
    assert len(run.history) == 1 and (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"epochs": 1.5}, "epochs must be a whole number, not 1.5"),
        ({"batch_size": "16"}, "batch_size must be a whole number, not '16'"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1"),
        ({"lr_schedule": "step"}, "choose a final_rate above 0, such as 0.1"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"schedule": "lazy"}, "schedule must be one of simultaneous, greedy"),
        ({"precision": "fp16"}, "precision must be one of auto, fp32, bf16"),
        ({"device": "abacus"}, "no device 'abacus'"),
        ({"optimiser": "adamm"}, "Unknown optimiser 'adamm': did you mean 'adam"),
        ({"epoch": 3}, "Unknown training option 'epoch': did you mean 'epochs'"),
        ({"warmup": 1.0}, "warmup is a share"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"momentum": 7}, "momentum is a share from 0 to below 1, not 7"),
        ({"weight_decay": -1}, "weight_decay must be 0 or more, not -1"),
        ({"optimiser": "lbfgs"}, "Unknown optimiser 'lbfgs'"),
        ({"delay": 1.0}, "delay is a share of the run"),
        ({"delay": 0.5, "schedule": "greedy"}, "choose delay 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(images, options, sentence):
    net = fo.mlp(images.shape, [12], rule=fo.rules.Hyperspherical(classes=4))
    with pytest.raises(ValueError, match=sentence):
        fo.fit(net, images, **options)


def test_a_rules_clip_can_be_switched_off():
    rule = fo.rules.ChannelStatic(classes=4)
    assert TrainingConfig.resolve(rule).clip == 1.0
    assert TrainingConfig.resolve(rule, given={"epochs": None}).epochs == TrainingConfig().epochs
    assert TrainingConfig.resolve(rule, given={"clip": None}).clip is None


def test_labels_beyond_the_networks_classes_are_refused(images):
    net = fo.mlp(images.shape, [12], rule=fo.rules.Hyperspherical(classes=3))
    with pytest.raises(ValueError, match="Labels must be from 0 to 2"):
        fo.fit(net, images, epochs=1)
    with pytest.raises(ValueError, match="classes 0 to 2"):
        fo.evaluate(net, images)


def test_images_of_another_shape_are_refused(images):
    net = fo.mlp((1, 5, 5), [12], rule=fo.rules.Hyperspherical(classes=4))
    with pytest.raises(ValueError, match=r"takes images of \(1, 5, 5\)"):
        fo.fit(net, images, epochs=1)


def test_a_loss_that_is_not_finite_stops_the_run_with_the_blocks_name(images, tmp_path):
    net = fo.mlp(images.shape, [12, 9], rule=fo.rules.Hyperspherical(classes=4))
    with torch.no_grad():
        net.row[1].body[1].weight[0, 0] = math.nan
    with pytest.raises(fo.training.NonFiniteLoss, match="block 1 became nan in epoch 0, step 0"):
        fo.fit(net, images, epochs=2, out=tmp_path / "run")
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_an_alternating_flip_alternates_with_each_pass_also_in_a_run_by_steps(images, monkeypatch):
    """80 images in batches of 16 are five steps a pass."""
    passes = []

    def noted(self, batch, generator, *, epoch=0, indices=None):
        passes.append(epoch)
        return batch

    monkeypatch.setattr(fo.data.Augment, "__call__", noted)
    for length in ({"steps": 15}, {"epochs": 3}):
        passes.clear()
        net = fo.mlp(images.shape, [8], rule=fo.rules.Projection(classes=4))
        fo.fit(net, images, batch_size=16, flip="alternating", **length)
        assert passes == [0] * 5 + [1] * 5 + [2] * 5
