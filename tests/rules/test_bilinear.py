"""The bilinear head against numpy written from its definition."""

import itertools

import numpy as np
import pytest
import torch

import forwardonly as fo
from forwardonly.ops.pooling import grid_pool, product_pool
from forwardonly.rules import Bilinear, BlockPosition
from forwardonly.rules.bilinear import CENTRE, LENGTH
from forwardonly.training.config import TrainingConfig
from forwardonly.training.update import parameter_groups


def products(maps, group, window):
    """Every product of two channels of a group, averaged over every window, written out; length 1."""
    batch, channels, height, width = maps.shape
    high, wide = (-(-side // -(-side // window)) for side in (height, width))
    padded = np.zeros((batch, -(-channels // group) * group, -(-height // high) * high, -(-width // wide) * wide))
    padded[:, :channels, :height, :width] = maps
    found = []
    for y, x in itertools.product(range(0, height, high), range(0, width, wide)):
        piece = padded[:, :, y : y + high, x : x + wide]
        for first in range(0, channels, group):
            for i, j in itertools.product(range(first, first + group), repeat=2):
                found.append((piece[:, i] * piece[:, j]).mean((1, 2)))
    found = np.stack(found, axis=1)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("shape", "group", "window"), [((8, 6, 6), 4, 3), ((6, 7, 5), 4, 4), ((3, 4, 4), 32, 8), ((5, 1, 1), 2, 8)]
)
def test_product_pool_is_every_product_of_a_group_in_every_window(shape, group, window):
    maps = np.random.default_rng(0).normal(size=(4, *shape))
    expected = 2.5 * products(maps, min(group, shape[0]), window)
    np.testing.assert_allclose(product_pool(torch.tensor(maps), group, window, 2.5), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_its_gradient_is_autograds_with_the_length_held(layout):
    maps = torch.randn(3, 6, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    maps = maps.contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(3, 4 * 3 * 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (product_pool(maps, 2, 4) * weight).sum().backward()
    padded = torch.nn.functional.pad(maps, (0, 1, 0, 1))  # 5 x 7 in windows of 3 x 4
    pieces = [padded[:, :, y : y + 3, x : x + 4].flatten(2) for y in (0, 3) for x in (0, 4)]
    found = torch.cat(
        [torch.einsum("bip,bjp->bij", p[:, g : g + 2], p[:, g : g + 2]).flatten(1) for p in pieces for g in (0, 2, 4)],
        1,
    )
    held = found / found.detach().norm(dim=1, keepdim=True)
    (expected,) = torch.autograd.grad((held * weight).sum(), maps)
    torch.testing.assert_close(maps.grad, expected)


def test_an_image_without_contrast_has_no_products():
    flat = torch.zeros(2, 4, 3, 3, requires_grad=True)
    pooled = product_pool(flat, 4, 8)
    pooled.sum().backward()
    assert not pooled.any()
    assert not flat.grad.any()


def test_scores_are_linear_maps_joined_by_log_sum_exp():
    maps = np.random.default_rng(0).normal(size=(4, 6, 9, 9)).astype(np.float32)
    torch.manual_seed(0)
    rule = Bilinear(classes=3, features=24, group=4, window=5, maps_per_class=2, label_smoothing=0.1)
    rule = rule.for_block((6, 9, 9), BlockPosition(0, 1))
    features = np.concatenate([grid_pool(torch.tensor(maps), 2), LENGTH * products(maps - CENTRE, 4, 5)], axis=1)
    with torch.no_grad():
        rule.logit_scale.fill_(0.3)
    weight, bias = (value.detach().numpy() for value in (rule.classifier.weight, rule.classifier.bias))
    scores = np.log(np.exp((np.exp(0.3) * (features @ weight.T) + bias).reshape(4, 3, 2)).sum(2))
    np.testing.assert_allclose(rule.scores(torch.tensor(maps)).detach(), scores, rtol=1e-4, atol=1e-4)
    labels = np.array([0, 1, 2, 0])
    logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    expected = -(0.9 * logs[np.arange(4), labels] + 0.1 * logs.mean(1)).mean()
    assert rule.loss(torch.tensor(maps), torch.tensor(labels)).item() == pytest.approx(expected, rel=1e-4)


def test_muon_moves_the_maps_and_keeps_their_length_so_the_scale_learns(digits):
    network = fo.build(fo.bodies.CNN(width=0.25), digits.train.shape, rule=Bilinear(classes=10))
    before = [block.rule.classifier.weight.detach().clone() for block in network.row]
    fo.fit(network, digits.train, epochs=1, batch_size=50)
    for block, weight in zip(network.row, before, strict=True):
        assert not torch.equal(block.rule.classifier.weight, weight)
        torch.testing.assert_close(block.rule.classifier.weight.norm(), weight.norm())
        assert block.rule.logit_scale.item() > 0  # ten classes need more than a fresh map's length says


@pytest.mark.parametrize("optimiser", ["muon", "sgd", "adamw"])
def test_the_maps_rate_is_a_multiple_of_the_blocks(optimiser):
    network = fo.build(fo.bodies.CNN(width=0.25), (1, 8, 8), rule=Bilinear(classes=10, map_rate=3.0))
    block = network.row[0]
    groups = parameter_groups(block, TrainingConfig(optimiser=optimiser, learning_rate=0.1))[optimiser]
    rates = {id(parameter): group.get("lr", 0.1) for group in groups for parameter in group["params"]}
    assert rates[id(block.rule.classifier.weight)] == pytest.approx(0.3)
    assert rates[id(block.body[0].weight)] == 0.1


def test_maps_of_rate_0_stay(digits):
    network = fo.build(fo.bodies.CNN(width=0.25), digits.train.shape, rule=Bilinear(classes=10, map_rate=0.0))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fo.fit(network, digits.train, epochs=1, batch_size=50)
    after = network.state_dict()
    assert torch.allclose(after["blocks.0.rule.classifier.weight"], before["blocks.0.rule.classifier.weight"])
    assert not torch.allclose(after["blocks.0.body.0.weight"], before["blocks.0.body.0.weight"])


def test_its_one_map_sees_what_no_linear_map_of_means_can():
    """Two channels that have one sign, or two: every mean is 0, and their product tells the classes apart."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(256, 1, 8, 8, generator=generator).sign()
    labels = torch.arange(256) % 2
    maps = torch.cat([first, first * (1 - 2 * labels.float()).view(-1, 1, 1, 1)], dim=1)
    maps = torch.cat([maps, -maps], dim=3)  # means of 0 over the map
    accuracy = {}
    for name, rule in (
        ("bilinear", Bilinear(classes=2, features=2, maps_per_class=1, window=16)),
        ("projection", fo.rules.Projection(classes=2, features=2)),
    ):
        rule = rule.for_block((2, 8, 16), BlockPosition(0, 1))
        optimiser = torch.optim.SGD(rule.parameters(), lr=0.05)
        for _ in range(50):
            optimiser.zero_grad()
            rule.loss(maps[:128], labels[:128]).backward()
            optimiser.step()
        accuracy[name] = (rule.scores(maps[128:]).argmax(1) == labels[128:]).float().mean().item()
    assert accuracy["bilinear"] == 1.0
    assert accuracy["projection"] < 0.7


def test_on_flat_activations_it_is_linear_maps_alone(digits):
    network = fo.mlp(digits.train.shape, [60, 60], rule=Bilinear(classes=10))
    assert [block.rule.classifier.weight.shape for block in network.row] == [(80, 60), (80, 60)]


@pytest.mark.parametrize(("classes", "maps"), [(2, 8), (10, 8), (20, 4), (80, 1), (200, 1)])
def test_many_classes_have_fewer_maps_each(classes, maps):
    rule = Bilinear(classes=classes)
    assert rule.options()["maps_per_class"] == maps
    rule = rule.for_block((6, 9, 9), BlockPosition(0, 1))
    assert len(rule.classifier.weight) == classes * maps
    assert rule.scores(torch.zeros(3, 6, 9, 9)).shape == (3, classes)


@pytest.mark.parametrize("name", ["group", "window", "maps_per_class"])
def test_a_head_of_no_size_is_one_clear_sentence(name):
    with pytest.raises(ValueError, match=f"{name} of a bilinear head must be at least 1, not 0"):
        Bilinear(classes=3, **{name: 0})


def test_a_negative_rate_is_one_clear_sentence():
    with pytest.raises(ValueError, match="map_rate of a bilinear head must be at least 0, not -1"):
        Bilinear(classes=3, map_rate=-1)
