"""Assignments as `diagnose` shows them."""

import json

import numpy as np
import torch

import forwardonly as fo


def test_channels_are_sorted_by_class_and_sureness():
    network = fo.mlp((1, 4, 4), [12, 9], rule=fo.rules.ChannelLearnable(classes=3))
    generator = torch.Generator().manual_seed(0)
    for block in network.row:
        block.rule.votes.data = 20 * torch.randn(block.rule.votes.shape, generator=generator)
    for found, block in zip(fo.measure.assignments(network), network.row, strict=True):
        own = block.rule.assignment().detach()
        torch.testing.assert_close(found.weights, own[found.channels])
        chosen, sure = found.weights.argmax(1).tolist(), found.weights.max(1).values.tolist()
        assert list(zip(chosen, [-s for s in sure], strict=True)) == sorted(
            zip(chosen, [-s for s in sure], strict=True)
        )
        assert found.channels_per_class == np.bincount(chosen, minlength=3).tolist()
        weights = own.double().numpy()
        np.testing.assert_allclose(found.entropy, -(weights * np.log(weights)).sum(1).mean(), rtol=1e-4)
        json.dumps(found.as_json())


def test_fixed_groups_have_no_entropy_and_other_rules_no_assignment():
    static = fo.mlp((1, 4, 4), [7], rule=fo.rules.ChannelStatic(classes=3))
    (found,) = fo.measure.assignments(static)
    assert found.entropy == 0.0
    assert sorted(found.channels_per_class) == [2, 2, 3]
    assert fo.measure.assignments(fo.mlp((1, 4, 4), [7], rule=fo.rules.Projection(classes=3))) == []
