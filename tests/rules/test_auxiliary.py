"""The auxiliary head against numpy written from its definition."""

import math

import numpy as np
import pytest
import torch

import forwardonly as fo
from forwardonly.rules import Auxiliary, BlockPosition


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def standardised(x, axes):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)


def convolved(maps, weight, centres):
    padded = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows, columns = centres
    return np.stack(
        [
            np.stack([np.einsum("bkij,okij->bo", padded[:, :, y : y + 3, x : x + 3], weight) for x in columns], axis=2)
            for y in rows
        ],
        axis=2,
    )


def centres(maps, stride):
    return [range(0, side, stride) for side in maps.shape[2:]]


def test_scores_are_a_linear_map_behind_convolutions_of_its_own():
    maps = np.random.default_rng(0).normal(size=(4, 3, 9, 9))
    torch.manual_seed(0)
    rule = (
        Auxiliary(classes=2, convolutions=3, channels=5, depth=0, features=5)
        .for_block((3, 9, 9), BlockPosition(0, 1))
        .double()
    )
    hidden = maps
    for convolution, stride in zip(list(rule.convolved)[::3], (2, 2, 1), strict=True):  # 9 -> 5 -> 3, and 3 is kept
        weight = convolution.weight.detach().numpy()
        hidden = gelu(standardised(convolved(hidden, weight, centres(hidden, stride)), (0, 2, 3)))
    assert hidden.shape == (4, 5, 3, 3)
    logits = (
        hidden.mean((2, 3)) @ rule.classifier.weight.detach().numpy().T.astype(np.float32)
        + rule.classifier.bias.detach().numpy()
    )
    rule.classifier.float()  # scores are computed in float32
    np.testing.assert_allclose(rule.scores(torch.tensor(maps)).detach(), logits, rtol=1e-4, atol=1e-5)
    labels = np.array([0, 1, 1, 0])
    expected = (np.log(np.exp(logits).sum(1)) - logits[np.arange(4), labels]).mean()
    assert rule.loss(torch.tensor(maps), torch.tensor(labels)).item() == pytest.approx(expected, rel=1e-4)


def coarser(maps):
    """The middles of 3x3 windows two pixels apart that halve a map, an odd side to the smaller half."""
    return [range(side % 2, side - side % 2, 2) for side in maps.shape[2:]]


def means(maps, centres):
    """Of the pixels that each 3x3 window has inside the map."""
    rows, columns = ([slice(max(at - 1, 0), at + 2) for at in places] for places in centres)
    return np.stack([np.stack([maps[:, :, y, x].mean((2, 3)) for x in columns], axis=2) for y in rows], axis=2)


@pytest.mark.parametrize(
    ("sides", "pooled", "read"),
    [((15, 15), True, (3, 3)), ((6, 13), True, (3, 6)), ((16, 8), True, (8, 4)), ((5, 7), False, (5, 7))],
)
def test_a_tapered_head_behind_the_third_block_reads_coarse_maps(sides, pooled, read):
    maps = np.random.default_rng(0).normal(size=(4, 3, *sides))
    torch.manual_seed(0)
    rule = Auxiliary(classes=2, convolutions=2, head="tapered", channels=5, depth=0, features=5)
    rule = rule.for_block((3, *sides), BlockPosition(2, 4)).double()
    hidden = means(maps, coarser(maps)) if pooled else maps
    for part in rule.convolved:
        if isinstance(part, torch.nn.Conv2d):
            small = min(hidden.shape[2:]) < 6  # half of it would have fewer than 3 pixels
            places = centres(hidden, 1) if small else coarser(hidden)
            hidden = gelu(standardised(convolved(hidden, part.weight.detach().numpy(), places), (0, 2, 3)))
    assert hidden.shape == (4, 5, *read)
    logits = hidden.mean((2, 3)) @ rule.classifier.weight.detach().numpy().T + rule.classifier.bias.detach().numpy()
    rule.classifier.float()
    np.testing.assert_allclose(rule.scores(torch.tensor(maps)).detach(), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("index", "full"), [(0, True), (1, True), (2, False), (3, False), (4, False)])
def test_the_first_two_tapered_heads_are_full_ones(index, full):
    def scores(head):
        torch.manual_seed(0)
        rule = Auxiliary(classes=2, convolutions=2, channels=5, head=head)
        rule = rule.for_block((3, 15, 15), BlockPosition(index, 5))
        return rule.scores(torch.linspace(-1, 1, 4 * 3 * 15 * 15).cos().view(4, 3, 15, 15))

    assert torch.equal(scores("tapered"), scores("uniform")) == full


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_last_tapered_head_is_a_linear_classifier(depth):
    rule = Auxiliary(classes=3, channels=4, head="tapered")
    network = fo.build(fo.bodies.Conv(depth=depth, channels=26), (1, 2, 2), rule=rule)
    *others, last = (dict(block.rule.named_modules()) for block in network.row)
    assert all(len(modules["convolved"]) and len(modules["hidden"]) for modules in others)
    assert not any(len(last[name]) for name in ("convolved", "hidden"))
    activation = torch.randn(5, 26, 2, 2)
    logits = activation.flatten(1) @ last["classifier"].weight.T + last["classifier"].bias
    torch.testing.assert_close(network.row[-1].rule.scores(activation), logits)


def test_maps_are_pooled_for_dense_hidden_layers():
    maps = np.random.default_rng(0).normal(size=(6, 3, 8, 8))
    torch.manual_seed(0)
    rule = (
        Auxiliary(classes=2, convolutions=0, units=7, depth=2, features=12)
        .for_block((3, 8, 8), BlockPosition(0, 1))
        .double()
    )
    hidden = maps.reshape(6, 3, 2, 4, 2, 4).mean((3, 5)).reshape(6, 12)
    for dense in list(rule.hidden)[::3]:
        hidden = gelu(standardised(hidden @ dense.weight.detach().numpy().T, 0))
    logits = hidden @ rule.classifier.weight.detach().numpy().T + rule.classifier.bias.detach().numpy()
    rule.classifier.float()
    np.testing.assert_allclose(rule.scores(torch.tensor(maps)).detach(), logits, rtol=1e-4, atol=1e-5)


def test_flat_activations_are_read_through_hidden_layers(digits):
    network = fo.mlp(digits.train.shape, [60, 60], rule=Auxiliary(classes=10, units=40, depth=1, label_smoothing=0.1))
    assert [block.rule.classifier.in_features for block in network.row] == [40, 40]


def test_the_heads_gradient_stays_in_its_block():
    network = fo.build(fo.bodies.CNN(width=0.1), (1, 16, 16), rule=Auxiliary(classes=3, channels=4))
    pixels = torch.randint(0, 256, (6, 1, 16, 16), dtype=torch.uint8)
    images = fo.data.Images(pixels, torch.arange(6) % 3, ("a", "b", "c"), name="random")
    assert fo.measure.leaks(network, images) == []


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [
        ("units", 0, 1),
        ("channels", 0, 1),
        ("depth", -1, 0),
        ("convolutions", -1, 0),
    ],
)
def test_a_head_of_no_size_is_one_clear_sentence(name, value, least):
    with pytest.raises(ValueError, match=f"{name} of an auxiliary head must be at least {least}, not {value}"):
        Auxiliary(classes=3, **{name: value})


def test_the_heads_weights_are_counted_apart():
    network = fo.build(fo.bodies.Conv(depth=2, channels=8), (3, 8, 8), rule=Auxiliary(classes=5, channels=4, units=6))
    bodies = 3 * 9 * 8 + 8 + 8 * 9 * 8 + 8
    dense = 4 * 4 * 4 * 6 + 2 * 6  # of a 4 x 4 map
    head = 8 * 9 * 4 + 2 * 4 + dense + (6 * 5 + 5)  # convolution and batch norm, dense layer, linear map
    assert fo.measure.weights(network) == (bodies, 2 * head)
