"""Networks: scores, predictions, readouts, and refused input."""

import numpy as np
import pytest
import torch

import forwardonly as fo
from forwardonly.network.block import Block
from forwardonly.network.build import from_config
from forwardonly.rules import BlockPosition

LABELLED = [name for name, entry in fo.rules.TABLE.items() if fo.rules.rule_class(entry).labelled]


@pytest.mark.parametrize("rule_name", LABELLED)
def test_scores_are_blocks_by_batch_by_classes(images, rule_name):
    net = fo.mlp(images.shape, [12, 9], rule=fo.rules.TABLE[rule_name](classes=4)).eval()
    scores = net.scores(images.images[:7])
    assert scores.shape == (1 if rule_name == "backprop" else 2, 7, 4)
    assert scores.dtype == torch.float32
    assert not scores.requires_grad
    assert torch.equal(net.predict(images.images[:7]), scores.sum(0).argmax(1))


def test_the_score_of_a_class_is_the_goodness_under_its_label(images):
    net = fo.mlp(images.shape, [12, 9], rule=fo.rules.ForwardForward(classes=4, label_value=None))
    flat = images.images[:5].flatten(1).numpy() / np.float32(255)
    flat = flat / np.sqrt((flat**2).mean(1, keepdims=True) + 1e-6)
    for label in range(4):
        x = flat.copy()
        x[:, :4] = np.eye(4)[label]
        for index, block in enumerate(net.row):
            linear = block.body[1]
            h = np.maximum(x @ linear.weight.detach().numpy().T + linear.bias.detach().numpy(), 0)
            goodness = (h**2).mean(1)
            np.testing.assert_allclose(net.scores(images.images[:5])[index, :, label], goodness, rtol=1e-4)
            x = h / np.sqrt((h**2).mean(1, keepdims=True) + 1e-6)


def test_uint8_and_float_images_are_the_same_to_a_network(images):
    net = fo.mlp(images.shape, [12], rule=fo.rules.Hyperspherical(classes=4))
    net.prepare.fit(images.images)
    torch.testing.assert_close(net.scores(images.images), net.scores(images.images.float() / 255))


def test_prepared_training_images_have_zero_mean_and_unit_deviation(images):
    net = fo.mlp(images.shape, [12], rule=fo.rules.Hyperspherical(classes=4))
    net.prepare.fit(images.images)
    prepared = net.prepare(images.images)
    assert prepared.mean().abs() < 1e-4
    assert (prepared.std() - 1).abs() < 1e-3
    assert prepared.max() <= net.prepare.high
    net.prepare.fit(images.images // 2)  # a second fit must not move a trained network's input
    assert torch.equal(net.prepare(images.images), prepared)


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (torch.zeros(2, 1, 5, 5, dtype=torch.uint8), "takes images of 1 x 6 x 6 .* not 1 x 5 x 5"),
        (torch.full((2, 1, 6, 6), float("nan")), "NaN or infinite"),
        (torch.zeros(2, 1, 6, 6, dtype=torch.int64), "must be uint8 or float"),
    ],
)
def test_images_that_the_network_cannot_take_are_refused(images, bad, sentence):
    net = fo.mlp(images.shape, [12], rule=fo.rules.Hyperspherical(classes=4))
    with pytest.raises(ValueError, match=sentence):
        net.predict(bad)


def test_predicting_switches_dropout_off_and_back(images):
    net = fo.mlp(images.shape, [12, 9], rule=fo.rules.Hyperspherical(classes=4), dropout=0.5).train()
    assert torch.equal(net.predict(images.images), net.predict(images.images))
    assert net.training


@pytest.mark.parametrize(("kind", "weights"), [("sum", [1, 1, 1]), ("skip-first", [0, 1, 1]), ("last", [0, 0, 1])])
def test_readouts_join_blocks(kind, weights):
    scores = torch.randn(3, 5, 4)
    expected = np.einsum("l,lbc->bc", weights, scores.numpy())
    np.testing.assert_allclose(fo.Readout(kind, 3)(scores), expected, rtol=1e-5, atol=1e-6)


def test_probabilities_are_the_softmax_that_the_loss_takes(images):
    net = fo.mlp(images.shape, [12], rule=fo.rules.Hyperspherical(classes=4, margin=0.0))
    probabilities = net.probabilities(images.images)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(80))
    chosen = probabilities.gather(1, images.labels[:, None])
    activation = net.row[0](net.prepare(images.images))
    torch.testing.assert_close(-chosen.log().mean(), net.row[0].rule.loss(activation, images.labels).detach())


def test_a_network_of_one_block_is_always_read():
    scores = torch.randn(1, 5, 4)
    for kind in ("sum", "skip-first", "last"):
        assert torch.equal(fo.Readout(kind, 1)(scores), scores[0])


def test_backprop_is_a_network_of_one_block(images):
    net = fo.mlp(images.shape, [12, 9, 7], rule=fo.rules.Backprop(classes=4))
    assert len(net.row) == 1
    linears = [module for module in net.modules() if isinstance(module, torch.nn.Linear)]
    assert [linear.out_features for linear in linears] == [12, 9, 7, 4]


def test_the_same_seed_builds_the_same_network_whatever_was_drawn_before(images):
    first = fo.mlp(images.shape, [12], rule=fo.rules.Hyperspherical(classes=4), seed=3)
    before = torch.get_rng_state()
    second = fo.mlp(images.shape, [12], rule=fo.rules.Hyperspherical(classes=4), seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_networks_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="at least one layer"):
        fo.mlp((1, 6, 6), [], rule=fo.rules.Hyperspherical(classes=4))
    with pytest.raises(ValueError, match="at least one block"):
        fo.Network([], shape=(1, 6, 6))
    rules = [fo.rules.Hyperspherical(classes=4), fo.rules.ForwardForward(classes=4)]
    blocks = [Block(torch.nn.Linear(6, 6), rule.for_block((6,), BlockPosition(i, 2))) for i, rule in enumerate(rules)]
    with pytest.raises(ValueError, match="mix"):
        fo.Network(blocks, shape=(1, 1, 6))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rule": {"name": "hypersperical", "classes": 4}}, "Unknown rule .* did you mean 'hyperspherical'"),
        ({"rule": {"name": "hyperspherical", "classes": 4, "scales": 3}}, "no option 'scales': did you mean 'scale'"),
        ({"body": {"name": "nothing"}}, "Unknown body"),
        ({"body": "mlp"}, "not one that forwardonly wrote"),
        ({"shape": None}, "not one that forwardonly wrote"),
    ],
)
def test_a_config_that_names_what_is_not_there_is_refused(images, change, sentence):
    config = fo.mlp(images.shape, [12], rule=fo.rules.Hyperspherical(classes=4)).config
    with pytest.raises(ValueError, match=sentence):
        from_config({**config, **change})
