"""Hyperspherical FF against numpy written from section 4 of the paper and its reconstruction."""

import numpy as np
import pytest
import torch

from forwardonly.rules import BlockPosition, Hyperspherical


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference_goodness(features, prototypes, tau):
    cosine = np.einsum("bd,cqd->bcq", unit(features), unit(prototypes))
    return np.log(np.mean(np.exp(tau * cosine), axis=2)) / tau


def reference_loss(goodness, labels, scale, margin):
    losses = []
    for row, label in zip(goodness, labels, strict=True):
        others = [np.exp(scale * (row[c] - row[label] + margin)) for c in range(len(row)) if c != label]
        losses.append(np.log(1 + sum(others)))
    return np.mean(losses)


@pytest.mark.parametrize("per_class", [1, 3])
@pytest.mark.parametrize("shape", [(20,), (5, 2, 2)])
def test_scores_and_loss_are_those_of_the_equations(per_class, shape):
    torch.manual_seed(0)
    options = {"scale": 12.0, "tau": 9.0, "margin": 0.2, "aux_channels": 0, "grid": 2}
    rule = Hyperspherical(classes=4, prototypes_per_class=per_class, **options).for_block(shape, BlockPosition(0, 1))
    activation, labels = torch.randn(7, *shape), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    goodness = reference_goodness(activation.flatten(1).numpy(), rule.prototypes.detach().numpy(), 9.0)
    np.testing.assert_allclose(rule.scores(activation).detach(), goodness, rtol=1e-4, atol=1e-5)
    expected = reference_loss(goodness, labels.tolist(), 12.0, 0.2)
    assert rule.loss(activation, labels).item() == pytest.approx(expected, rel=1e-4)


def test_without_margin_and_with_one_prototype_it_is_cosine_softmax():
    torch.manual_seed(0)
    rule = Hyperspherical(classes=4, margin=0.0).for_block((20,), BlockPosition(0, 1))
    activation, labels = torch.randn(7, 20), torch.arange(7) % 4
    cosine = torch.nn.functional.cosine_similarity(activation[:, None], rule.prototypes[None, :, 0], dim=2)
    expected = torch.nn.functional.cross_entropy(16.0 * cosine, labels)
    torch.testing.assert_close(rule.loss(activation, labels), expected)


def test_scores_do_not_depend_on_the_features_length():
    rule = Hyperspherical(classes=4).for_block((20,), BlockPosition(0, 1))
    activation = torch.randn(7, 20)
    torch.testing.assert_close(rule.scores(activation), rule.scores(5 * activation), rtol=1e-4, atol=1e-5)


def test_every_block_has_prototypes_of_its_own():
    template = Hyperspherical(classes=4)
    first, second = (template.for_block((20,), BlockPosition(index, 2)) for index in range(2))
    assert not torch.equal(first.prototypes, second.prototypes)
    assert not list(template.parameters())


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="scale"):
        Hyperspherical(classes=4, scale=-1.0)
    with pytest.raises(ValueError, match="at least 2 classes"):
        Hyperspherical(classes=1)
