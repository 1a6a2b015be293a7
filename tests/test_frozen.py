"""Frozen blocks: one without trained parameters stays as it is, its norms too, and the others learn."""

import pytest
import torch
from torch import nn

import forwardonly as fo
from forwardonly.export import training_step
from forwardonly.training import Online

ORDERS = [{}, {"schedule": "greedy"}, {"workers": 2}, {"memory_budget": "4GiB"}, {"clip": 1.0}]


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (48, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return fo.data.Images(pixels, torch.arange(48) % 4, tuple("abcd"), "noise")


def state_of(block):
    return {name: value.clone() for name, value in block.state_dict().items()}


def moved(block, before):
    return [name for name, value in block.state_dict().items() if not torch.equal(value, before[name])]


def train(network, images, **options):
    try:
        return fo.fit(network, images, epochs=1, batch_size=16, delay=0.0, device="cpu", **options)
    except ValueError as problem:
        if "do not go together" not in str(problem):
            raise
        pytest.skip(str(problem))


@pytest.mark.parametrize("options", ORDERS, ids=str)
@pytest.mark.parametrize(
    "rule", ["ff", "cff-fixed", "cff-adaptive", "layer-collaboration", "cumulative", "projection", "auxiliary"]
)
@pytest.mark.parametrize("frozen", [0, 3])
def test_a_frozen_block_stays_and_the_others_learn(pictures, rule, frozen, options):
    plain = {"negatives": "uniform"} if rule in ("ff", "cff-fixed", "cff-adaptive", "layer-collaboration") else {}
    network = fo.build(fo.bodies.CNN(width=0.1), pictures.shape, rule=fo.rules.make(rule, classes=4, **plain))
    network.row[frozen].requires_grad_(False)
    before = [state_of(block) for block in network.row]
    run = train(network, pictures, **options)
    assert not moved(network.row[frozen], before[frozen])
    for index, block in enumerate(network.row):
        assert index == frozen or "body.0.weight" in moved(block, before[index])
    assert all(loss is not None for loss in run.history[0]["loss"])


@pytest.mark.parametrize("rule", ["ff", "cff-fixed", "layer-collaboration", "cumulative", "hyperspherical"])
def test_a_frozen_stage_of_a_users_model(pictures, rule):
    stages = [nn.Sequential(nn.Conv2d(fan_in, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()) for fan_in in (1, 8, 8)]
    model = nn.Sequential(*stages)
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    network = fo.localize(model, fo.rules.make(rule, classes=4), pictures.images[:2], blocks=3)
    before = [state_of(stage) for stage in model]
    train(network, pictures)
    assert [bool(moved(stage, kept)) for stage, kept in zip(model, before, strict=True)] == [False, True, False]
    model.requires_grad_(True)
    train(network, pictures)
    assert all(moved(stage, kept) for stage, kept in zip(model, before, strict=True))


def test_a_frozen_rule_keeps_the_statistics_of_its_own_norms(pictures):
    network = fo.build(fo.bodies.CNN(width=0.1), pictures.shape, rule=fo.rules.Auxiliary(classes=4))
    network.row[1].rule.requires_grad_(False)
    before = state_of(network.row[1])
    train(network, pictures)
    names = moved(network.row[1], before)
    assert any(name.startswith("body.") for name in names) and not any(name.startswith("rule.") for name in names)


def test_nothing_left_to_learn(pictures):
    network = fo.mlp(pictures.shape, [8], rule=fo.rules.Projection(classes=4)).requires_grad_(False)
    with pytest.raises(ValueError, match="Every weight of the network is frozen"):
        fo.fit(network, pictures, epochs=1)


@pytest.mark.parametrize("rule", ["projection", "cumulative", "auxiliary"])
def test_the_exported_step_keeps_a_frozen_block_too(pictures, rule):
    network = fo.build(fo.bodies.CNN(width=0.1), pictures.shape, rule=fo.rules.make(rule, classes=4))
    network.row[1].requires_grad_(False)
    step = training_step(network, batch_size=8, clip=1.0)
    assert not any(name.startswith("blocks.1.") for name in step.state)
    assert any(name.startswith("blocks.2.") for name in step.state)
    given = {"images": pictures.images[:8], "labels": pictures.labels[:8], "learning_rate": torch.tensor(0.1)}
    if "wrong_labels" in step.inputs:
        given["wrong_labels"] = (pictures.labels[:8] + 1) % 4
    losses, following = step(step.state, **given)
    assert len(losses) == 4 and not torch.equal(
        following["blocks.2.body.0.weight"], step.state["blocks.2.body.0.weight"]
    )


def test_online_learning_beside_a_frozen_block(pictures):
    network = fo.build(fo.bodies.CNN(width=0.1), pictures.shape, rule=fo.rules.make("layer-collaboration", classes=4))
    network.row[3].requires_grad_(False)
    before = state_of(network.row[3])
    online = Online(network)
    with torch.no_grad():
        online.learn(pictures.images[:16], pictures.labels[:16])
    assert not moved(network.row[3], before)
