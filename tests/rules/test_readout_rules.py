"""Projection, similarity and spatial against numpy written from their equations."""

import numpy as np
import pytest
import torch

from forwardonly.ops.pooling import grid_pool, grid_size
from forwardonly.rules import BlockPosition, Hyperspherical, Projection, Similarity, Spatial
from forwardonly.rules.similarity import similarity_loss


@pytest.fixture
def maps():
    return np.random.default_rng(0).normal(size=(6, 8, 6, 6)).astype(np.float32)


def for_block(rule, shape):
    return rule.for_block(shape, BlockPosition(0, 1))


def cross_entropy(scores, labels):
    scores = scores - scores.max(1, keepdims=True)
    return -(scores - np.log(np.exp(scores).sum(1, keepdims=True)))[np.arange(len(labels)), labels].mean()


def similarities(features):
    centred = features - features.mean(1, keepdims=True)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    return unit @ unit.T


def quarters(maps):
    """(B, K, 6, 6) -> means of its four quarters, (B, K * 4), written out."""
    return np.stack([maps[:, :, y : y + 3, x : x + 3].mean((2, 3)) for y in (0, 3) for x in (0, 3)], axis=2).reshape(
        len(maps), -1
    )


def test_grid_pool_covers_odd_maps():
    row = torch.arange(7.0).view(1, 1, 1, 7).expand(1, 1, 7, 7)
    assert grid_pool(row, 2).tolist() == [[1.5, 5.0, 1.5, 5.0]]  # means of 0..3 and 4..6
    assert grid_pool(torch.ones(2, 3, 1, 1), 4).shape == (2, 3)
    assert grid_pool(torch.ones(2, 5), 4).shape == (2, 5)


@pytest.mark.parametrize("side", range(1, 12))
@pytest.mark.parametrize("grid", range(1, 6))
def test_grid_size_is_what_grid_pool_makes(side, grid):
    pooled = grid_pool(torch.rand(1, 3, side, side + 1), grid)
    assert pooled.shape[1] == grid_size((3, side, side + 1), grid)


def test_projection_is_cross_entropy_of_a_pooled_linear_map(maps):
    rule = for_block(Projection(classes=3, features=4 * maps.shape[1]), maps.shape[1:])
    labels = np.arange(6) % 3
    weight, bias = (value.detach().numpy() for value in (rule.classifier.weight, rule.classifier.bias))
    scores = quarters(maps) @ weight.T + bias
    np.testing.assert_allclose(rule.scores(torch.tensor(maps)).detach(), scores, rtol=1e-4, atol=1e-5)
    loss = rule.loss(torch.tensor(maps), torch.tensor(labels))
    assert loss.item() == pytest.approx(cross_entropy(scores, labels), rel=1e-5)


@pytest.mark.parametrize("prediction", [0.01, 0.6])
def test_similarity_matches_the_labels_similarities(maps, prediction):
    rule, labels = for_block(Similarity(classes=3, prediction=prediction), maps.shape[1:]), np.arange(6) % 3
    transformed = torch.nn.functional.conv2d(torch.tensor(maps), rule.transform.weight, padding=1).detach().numpy()
    features = transformed.reshape(6, 8, 36).std(2, ddof=1)
    matching = ((similarities(features) - similarities(np.eye(3)[labels])) ** 2).mean()
    scores = rule.scores(torch.tensor(maps)).detach().numpy()
    expected = (1 - prediction) * matching + prediction * cross_entropy(scores, labels)
    loss = rule.loss(torch.tensor(maps), torch.tensor(labels))
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_similarity_loss_is_zero_where_features_are_the_labels():
    labels = torch.arange(6) % 3
    one_hot = torch.eye(3)[labels]
    assert similarity_loss(one_hot, labels, 3).item() == pytest.approx(0.0, abs=1e-6)


def test_similarity_of_flat_activations_is_matched_after_a_linear_layer():
    flat, labels = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32), np.arange(6) % 3
    rule = for_block(Similarity(classes=3), (8,))
    features = flat @ rule.transform.weight.detach().numpy().T
    matching = ((similarities(features) - similarities(np.eye(3)[labels])) ** 2).mean()
    scores = rule.scores(torch.tensor(flat)).detach().numpy()
    loss = rule.loss(torch.tensor(flat), torch.tensor(labels))
    assert loss.item() == pytest.approx(0.99 * matching + 0.01 * cross_entropy(scores, labels), rel=1e-4)


def test_spatial_is_a_fixed_projection_of_standardised_energy(maps):
    rule, labels = for_block(Spatial(classes=3, grid=2, scale=4.0), maps.shape[1:]), np.arange(6) % 3
    energy = quarters(maps**2)
    standard = (energy - energy.mean(1, keepdims=True)) / np.sqrt(energy.var(1, keepdims=True) + 1e-5)
    scores = 4.0 * standard @ rule.projection.numpy()
    np.testing.assert_allclose(rule.scores(torch.tensor(maps)), scores, rtol=1e-4, atol=1e-5)
    loss = rule.loss(torch.tensor(maps), torch.tensor(labels))
    assert loss.item() == pytest.approx(cross_entropy(scores, labels), rel=1e-5)
    assert not list(rule.parameters())
    assert "projection" in rule.state_dict()


def test_hyperspherical_reads_maps_through_its_auxiliary_convolution(maps):
    rule = for_block(Hyperspherical(classes=3, aux_channels=5, grid=2), maps.shape[1:])
    seen = torch.nn.functional.conv2d(torch.tensor(maps), rule.auxiliary[0].weight, stride=2, padding=1).relu()
    features = seen.detach().numpy()  # 3 x 3: windows of 2 and of 1
    pooled = np.stack(
        [features[:, :, y : y + 2, x : x + 2].mean((2, 3)) for y in (0, 2) for x in (0, 2)], axis=2
    ).reshape(6, -1)
    prototypes = rule.prototypes.detach().numpy()[:, 0]
    expected = (pooled / np.linalg.norm(pooled, axis=1, keepdims=True)) @ (
        prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True)
    ).T
    np.testing.assert_allclose(rule.scores(torch.tensor(maps)).detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "features", "windows"), [((64, 15, 15), 2048, 25), ((256, 7, 7), 2048, 9), ((8, 6, 6), 16, 1)]
)
def test_projection_reads_about_as_many_features_as_it_is_told_to(shape, features, windows):
    rule = for_block(Projection(classes=3, features=features), shape)
    assert rule.classifier.in_features == shape[0] * windows


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        (Projection, {"features": 0}),
        (Projection, {"label_smoothing": 1.0}),
        (Spatial, {"grid": 0}),
        (Spatial, {"label_smoothing": 1.0}),
    ],
)
def test_options_out_of_range_are_one_clear_sentence(rule, options):
    with pytest.raises(ValueError, match=r"(grid|features) must be at least 1, .*label_smoothing from 0 to below 1\.$"):
        rule(classes=3, **options)
