"""NT-Xent against numpy written from arXiv 2002.05709, equation 1."""

import numpy as np
import pytest
import torch

import forwardonly as fo
from forwardonly.rules.simclr import nt_xent


def reference(one, other, temperature):
    z = np.concatenate([one, other])
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    count, losses = len(one), []
    for i in range(2 * count):
        j = (i + count) % (2 * count)
        total = sum(np.exp(z[i] @ z[k] / temperature) for k in range(2 * count) if k != i)
        losses.append(-np.log(np.exp(z[i] @ z[j] / temperature) / total))
    return np.mean(losses)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_is_the_papers(temperature):
    one, other = np.random.default_rng(0).normal(size=(2, 5, 8))
    loss = nt_xent(torch.tensor(one), torch.tensor(other), temperature)
    assert loss.item() == pytest.approx(reference(one, other, temperature), rel=1e-6)


def test_the_whole_body_is_one_block_and_its_head_learns_too(images):
    net = fo.mlp(images.shape, [12, 9], rule=fo.rules.SimCLR(features=4))
    assert len(net.row) == 1
    before = {name: own.clone() for name, own in net.row[0].named_parameters()}
    fo.fit(net, images, epochs=1, batch_size=16, crop=1)
    assert [name for name, own in net.row[0].named_parameters() if torch.equal(own, before[name])] == []


def test_its_streams_are_two_augmented_views(images):
    generator = torch.Generator().manual_seed(0)
    rule = fo.rules.SimCLR()
    assert rule.views == 2
    first, second = torch.rand(2, 3, 1, 6, 6, generator=generator)
    assert rule.pair(first, second, generator) == (first, second)


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="temperature must be positive"):
        fo.rules.SimCLR(temperature=0.0)
