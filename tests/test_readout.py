"""Readouts: their weights, and the split that they are fitted on."""

import numpy as np
import pytest
import torch

import forwardonly as fo
from forwardonly.network.readout import best_range, loss_aware_weights


@pytest.fixture
def scores():
    """Four blocks on 50 images in five classes: noise, half right, right, noise that is larger than all else."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (50,), generator=generator)
    right = torch.nn.functional.one_hot(labels, 5).float()
    noise = torch.randn(4, 50, 5, generator=generator)
    return torch.stack([noise[0], right + noise[1] / 2, 3 * right + noise[2] / 2, 9 * noise[3]]), labels


def test_loss_aware_weights_are_the_papers(scores):
    blocks, labels = scores
    losses = []
    for own in blocks.numpy().astype(np.float64):
        powers = np.exp(own - own.max(1, keepdims=True))
        losses.append(-np.log(powers[np.arange(50), labels] / powers.sum(1)).mean())
    expected = np.exp(-np.array(losses)) / np.exp(-np.array(losses)).sum()
    np.testing.assert_allclose(loss_aware_weights(*scores), expected, rtol=1e-5)


def test_loss_aware_weights_sum_to_one_and_prefer_the_better_block(scores):
    weights = loss_aware_weights(*scores)
    assert weights.sum().item() == pytest.approx(1.0)
    assert weights[2] > weights[1] > weights[0] > weights[3]


def test_best_range_is_the_best_of_all_by_brute_force(scores):
    blocks, labels = scores
    ranges = [(i, j) for i in range(4) for j in range(i + 1, 5)]
    right = {(i, j): int((blocks[i:j].sum(0).argmax(1) == labels).sum()) for i, j in ranges}
    found = best_range(*scores)
    assert right[found] == max(right.values())
    assert found[1] - found[0] == max(j - i for (i, j), count in right.items() if count == right[found])


def test_fixed_readouts_are_sums_of_the_blocks_they_name(scores):
    blocks = scores[0]
    for kind, expected in (("sum", blocks.sum(0)), ("skip-first", blocks[1:].sum(0)), ("last", blocks[-1])):
        readout = fo.Readout(kind, 4)
        readout.fit(*scores)
        torch.testing.assert_close(readout(blocks), expected)


def test_fitted_readouts_predict_better_than_the_sum_and_are_kept_with_the_model(scores):
    blocks, labels = scores
    for kind in ("validation", "training", "range"):
        readout = fo.Readout(kind, 4)
        torch.testing.assert_close(readout(blocks), blocks.sum(0))  # until it is fitted
        before = (readout(blocks).argmax(1) == labels).float().mean()
        readout.fit(blocks, labels)
        assert (readout(blocks).argmax(1) == labels).float().mean() > before
        again = fo.Readout(kind, 4)
        again.load_state_dict(readout.state_dict())
        assert torch.equal(again(blocks), readout(blocks))


@pytest.mark.parametrize("kind", ["validation", "training", "range"])
def test_a_run_fits_the_readout_on_the_split_that_it_names(digits, kind, tmp_path):
    network = fo.mlp(digits.train.shape, [40, 40, 40], rule=fo.rules.Projection(classes=10), readout=kind)
    run = fo.fit(network, digits.train, validation=digits.validation, epochs=2, precision="fp32", out=tmp_path / kind)
    images = digits.train if kind == "training" else digits.validation
    expected = fo.Readout(kind, 3)
    expected.fit(network.eval().scores(images.images), images.labels)
    torch.testing.assert_close(network.readout.weights, expected.weights)
    assert torch.equal(fo.load(run.folder).readout.weights, network.readout.weights)


def test_a_readout_without_the_images_it_needs_is_one_clear_sentence(digits):
    network = fo.mlp(digits.train.shape, [20], rule=fo.rules.Projection(classes=10), readout="range")
    with pytest.raises(ValueError, match="'range' is fitted to validation images: hold some out"):
        fo.fit(network, digits.train, epochs=1)


def test_an_unknown_readout_is_one_clear_sentence():
    with pytest.raises(ValueError, match="Unknown readout 'best': choose one of sum, skip-first, last, validation"):
        fo.Readout("best", 3)
