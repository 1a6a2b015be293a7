"""Channel-class rules against numpy written from the equations of arXiv 2606.09928 and of DeeperForward and CwC."""

import numpy as np
import pytest
import torch

from forwardonly.ops.assignments import entropy, group_index, orthogonality
from forwardonly.ops.norms import group_norm, instance_norm
from forwardonly.ops.pooling import channel_scores
from forwardonly.rules import BlockPosition, ChannelLearnable, ChannelStatic
from forwardonly.training.config import TrainingConfig
from forwardonly.training.update import parameter_groups


@pytest.fixture
def maps():
    return np.random.default_rng(0).normal(size=(5, 12, 4, 6)).astype(np.float32)


def softmax(x):
    powers = np.exp(x - x.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def cross_entropy(scores, labels, smoothing=0.0):
    target = np.full(scores.shape, smoothing / scores.shape[1])
    target[np.arange(len(labels)), labels] += 1 - smoothing
    return -(target * np.log(softmax(scores))).sum(1).mean()


def learnable(shape=(12, 4, 6), classes=4, **options):
    return ChannelLearnable(classes=classes, **options).for_block(shape, BlockPosition(0, 1))


@pytest.mark.parametrize("goodness", ["mean", "squared"])
@pytest.mark.parametrize("classes", [3, 4, 5])
def test_static_scores_and_loss_are_the_groups_means(maps, goodness, classes):
    rule = ChannelStatic(classes=classes, goodness=goodness, scale=2.0).for_block(maps.shape[1:], BlockPosition(0, 1))
    values = maps**2 if goodness == "squared" else maps
    groups = np.arange(12) * classes // 12
    expected = 2 * np.stack([values[:, groups == c].mean((1, 2, 3)) for c in range(classes)], axis=1)
    sizes = np.bincount(groups)
    expected = (
        expected
        if len(set(sizes)) == 1
        else 2 * np.stack([values[:, groups == c].mean((2, 3)).mean(1) for c in range(classes)], axis=1)
    )
    np.testing.assert_allclose(rule.scores(torch.tensor(maps)), expected, rtol=1e-4, atol=1e-6)
    labels = np.arange(5) % classes
    loss = rule.loss(torch.tensor(maps), torch.tensor(labels))
    assert loss.item() == pytest.approx(cross_entropy(expected, labels), rel=1e-5)


def test_groups_differ_by_at_most_one_channel():
    for channels, classes in ((10, 10), (100, 10), (64, 10), (205, 200)):
        sizes = torch.bincount(group_index(channels, classes))
        assert len(sizes) == classes
        assert sizes.max() - sizes.min() <= 1


def test_fewer_channels_than_classes_is_one_clear_sentence():
    with pytest.raises(ValueError, match="8 channels: too few for 10 classes"):
        ChannelStatic(classes=10).for_block((8, 4, 4), BlockPosition(0, 1))


@pytest.mark.parametrize("shape", [(3, 12, 4, 6), (3, 12)])
@pytest.mark.parametrize("classes", [4, 5])
def test_group_norm_standardises_each_group(shape, classes):
    activation = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3 + 1
    groups = group_index(12, classes)
    normed = group_norm(activation, groups, classes)
    for group in range(classes):
        own = normed[:, groups == group].flatten(1)
        torch.testing.assert_close(own.mean(1), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(own.var(1, unbiased=False), torch.ones(3), atol=1e-2, rtol=0)


def test_instance_norm_leaves_no_mean_to_read():
    activation = torch.rand(3, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(instance_norm(activation).mean((2, 3)), torch.zeros(3, 5), atol=1e-5, rtol=0)
    for flat in (torch.rand(3, 5), torch.rand(3, 5, 1, 1)):
        assert instance_norm(flat).shape == flat.shape
        torch.testing.assert_close(instance_norm(flat).flatten(1).mean(1), torch.zeros(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels_last", [False, True])
def test_channel_scores_have_autograds_gradient(channels_last):
    maps = torch.randn(3, 5, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    maps = (maps.to(memory_format=torch.channels_last) if channels_last else maps).requires_grad_()
    weights = torch.randn(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    expected = 0.9 * maps.mean((2, 3)) + 0.06 * maps.amax((2, 3)) - 0.05 * maps.amin((2, 3))
    scores = channel_scores(maps, 0.9, 0.06, -0.05)
    torch.testing.assert_close(scores, expected)
    torch.testing.assert_close(scores.detach(), channel_scores(maps.detach(), 0.9, 0.06, -0.05))
    gradients = [torch.autograd.grad((own * weights).sum(), maps)[0] for own in (scores, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("ours", "torchs"),
    [
        (instance_norm, torch.nn.functional.instance_norm),
        (lambda maps: group_norm(maps, group_index(12, 4), 4), lambda maps: torch.nn.functional.group_norm(maps, 4)),
    ],
    ids=["instance", "group"],
)
def test_norms_and_their_gradients_are_torchs(channels_last, ours, torchs):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 12, 4, 6, generator=generator, dtype=torch.double) * 2 + 5
    maps = maps.to(memory_format=torch.channels_last) if channels_last else maps
    torch.testing.assert_close(ours(maps), torchs(maps))  # no gradient wanted
    maps.requires_grad_()
    normed, expected = ours(maps), torchs(maps)
    torch.testing.assert_close(normed, expected)
    weights = torch.randn(expected.shape, generator=generator, dtype=torch.double)
    torch.testing.assert_close(*(torch.autograd.grad((own * weights).sum(), maps)[0] for own in (normed, expected)))


def test_groups_of_two_sizes_have_autograds_gradient():
    maps = torch.randn(2, 7, 3, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: group_norm(values, group_index(7, 3), 3), maps)


@pytest.mark.parametrize("epoch", [0, 25, 80])
@pytest.mark.parametrize("as_published", [False, True])
def test_learnable_loss_is_the_papers(maps, epoch, as_published):
    generator = np.random.default_rng(1)
    votes = generator.normal(size=(12, 4)) * 5
    rule = learnable(as_published=as_published, entropy_weight=0.3, orthogonality_weight=0.2, temperature=3.0)
    rule.votes.data = torch.tensor(votes, dtype=torch.float32)
    rule.start_epoch(epoch)
    assignment = softmax(votes / (3.0 * 0.995**epoch))
    pooled = 0.94 * maps.mean((2, 3)) + 0.06 * maps.max((2, 3)) - 0.05 * maps.min((2, 3))
    scores = pooled @ assignment
    np.testing.assert_allclose(rule.scores(torch.tensor(maps)).detach(), scores, rtol=1e-4, atol=1e-6)
    chaos = -(assignment * np.log(assignment)).sum(1).mean()
    columns = assignment / np.linalg.norm(assignment, axis=0)
    overlap = ((columns.T @ columns - np.eye(4)) ** 2).mean() / (4**2 * 12 if as_published else 1)
    labels = np.arange(5) % 4
    expected = cross_entropy(scores, labels, 0.1) + 0.3 * chaos + 0.2 * min(1, epoch / 50) * overlap
    loss = rule.loss(torch.tensor(maps), torch.tensor(labels))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_votes_of_regions_are_those_of_their_means(maps):
    generator = np.random.default_rng(1)
    rule = learnable(features=48, scale=3.0, label_smoothing=0.0, entropy_weight=0.0, orthogonality_weight=0.0)
    assert rule.votes.shape == (12 * 2 * 2, 4) and rule.regions == 4
    votes = generator.normal(size=(48, 4))
    rule.votes.data = torch.tensor(votes, dtype=torch.float32)
    rule.log_temperature.data.zero_()
    halves = [maps[:, :, :, :3], maps[:, :, :, 3:]]
    means = np.stack([half[:, :, rows].mean((2, 3)) for rows in (slice(0, 2), slice(2, 4)) for half in halves], axis=2)
    scores = 3 * 4 / 48 * (means.reshape(5, 48) @ softmax(votes))
    np.testing.assert_allclose(rule.scores(torch.tensor(maps)).detach(), scores, rtol=1e-4, atol=1e-6)
    labels = np.arange(5) % 4
    loss = rule.loss(torch.tensor(maps), torch.tensor(labels))
    assert loss.item() == pytest.approx(cross_entropy(scores, labels), rel=1e-5)


def test_regions_of_one_channel_start_with_its_lead():
    rule = learnable(features=48, lead=3.0)
    assert rule.votes.argmax(1).tolist() == [c for c in range(4) for _ in range(3 * 4)]


def test_regions_lead_where_channels_are_fewer_than_classes():
    shape, classes = (4, 4, 4), 10
    rule = ChannelLearnable(classes=classes, lead=3.0, features=64).for_block(shape, BlockPosition(0, 1))
    leads = rule.votes.detach().argmax(1)
    counts = leads.bincount(minlength=classes)
    assert len(leads) == 64 and counts.min() >= 6 and counts.max() <= 7
    with pytest.raises(ValueError, match="A layer has 16 regions: too few for 20 classes"):
        ChannelLearnable(classes=20, lead=3.0, features=16).for_block(shape, BlockPosition(0, 1))


def test_without_a_norm_of_the_rules_activations_go_on_as_they_are(maps):
    activation = torch.tensor(maps)
    assert learnable(norm="none").pass_on(activation) is activation
    assert learnable().normalises and not learnable(norm="none").normalises


def test_one_hot_assignment_is_the_static_rule(maps):
    activation = torch.tensor(maps)
    static = ChannelStatic(classes=4).for_block(maps.shape[1:], BlockPosition(0, 1))
    rule = learnable(mean_weight=1.0, max_weight=0.0, min_weight=0.0)
    one_hot = torch.nn.functional.one_hot(static.groups, 4).float()
    rule.votes.data = 1e4 * one_hot
    # Static takes the mean of a class's 3 channels, the assignment their sum.
    torch.testing.assert_close(rule.scores(activation), 3 * static.scores(activation))


def test_rows_of_the_assignment_sum_to_one_and_start_uniform():
    rule = learnable()
    torch.testing.assert_close(rule.assignment(), torch.full((12, 4), 0.25))
    rule.votes.data.normal_(std=50)
    torch.testing.assert_close(rule.assignment().sum(1), torch.ones(12))


def test_entropy_and_orthogonality_at_known_matrices():
    uniform, one_hot = torch.full((12, 4), 0.25), torch.eye(4).repeat(3, 1)
    assert entropy(uniform).item() == pytest.approx(np.log(4))
    assert entropy(one_hot).item() == 0.0
    assert orthogonality(uniform).item() == pytest.approx(12 / 16)  # all columns equal: 12 of 16 pairs are off by 1
    assert orthogonality(one_hot).item() == pytest.approx(0.0, abs=1e-12)


def test_temperature_is_kept_within_its_bounds_and_cools():
    rule = learnable()
    rule.votes.data.normal_()
    for log_temperature, temperature in ((-20.0, 0.1), (0.0, 1.0), (20.0, 100.0)):
        rule.log_temperature.data.fill_(log_temperature)
        for epoch in (0, 10):
            rule.start_epoch(epoch)
            expected = torch.softmax(rule.votes / (temperature * 0.995**epoch), dim=1)
            torch.testing.assert_close(rule.assignment(), expected)


def test_the_published_start_has_equal_scores_and_still_learns(maps):
    rule, activation = learnable(), torch.tensor(maps)
    scores = rule.scores(activation)
    torch.testing.assert_close(scores, scores[:, :1].expand(-1, 4))
    rule.loss(activation, torch.arange(5) % 4).backward()
    assert rule.votes.grad.abs().max() > 1e-4


def test_a_temperature_out_of_bounds_is_one_clear_sentence():
    with pytest.raises(ValueError, match=r"temperature must be from 0.1 to 100"):
        ChannelLearnable(classes=4, temperature=0.0)


def test_the_history_keeps_the_assignments_entropy_and_temperature():
    rule = learnable()
    assert rule.watched() == {"assignment_entropy": pytest.approx(np.log(4)), "temperature": pytest.approx(10.0)}


def test_scaled_scores_of_a_one_hot_assignment_are_the_static_rules(maps):
    static = ChannelStatic(classes=4, scale=20.0).for_block(maps.shape[1:], BlockPosition(0, 1))
    pure = {"mean_weight": 1.0, "max_weight": 0.0, "min_weight": 0.0}
    rule = learnable(scale=20.0, lead=100.0, temperature=0.1, **pure)
    torch.testing.assert_close(rule.scores(torch.tensor(maps)), static.scores(torch.tensor(maps)))


def test_votes_have_a_rate_of_their_own():
    layer = torch.nn.Sequential(torch.nn.Conv2d(3, 12, 3))
    block = torch.nn.ModuleDict({"body": layer, "rule": learnable(votes_rate=0.02)})
    groups = parameter_groups(block, TrainingConfig(optimiser="muon", learning_rate=0.1))
    assert [group["params"] for group in groups["muon"]] == [[layer[0].weight]]
    assert [group["params"] for group in groups["sgd"]] == [[layer[0].bias]]
    rule = block["rule"]
    assert {id(group["params"][0]) for group in groups["adamw"]} == {id(rule.votes), id(rule.log_temperature)}
    assert {group["lr"] for group in groups["adamw"]} == {0.02}


@pytest.mark.parametrize("option", ["scale", "votes_rate"])
def test_a_factor_or_rate_that_is_not_positive_is_one_clear_sentence(option):
    with pytest.raises(ValueError, match=f"{option} must be positive or none, not 0"):
        ChannelLearnable(classes=4, **{option: 0.0})
