"""Goodness under every label: with a shared first layer it equals that of a full pass per label."""

import pytest
import torch

import forwardonly as fo
from forwardonly.bench.speed import one_label
from forwardonly.bodies import MLP, Conv, ResNet17, Transformer
from forwardonly.network import candidates

BODIES = [
    MLP(hidden=(20, 12)),
    Conv(depth=2, channels=6),
    ResNet17(width=0.06),
    Transformer(depth=1, channels=8, heads=2),
]


def network(body, rule=None, shape=(1, 8, 8)):
    net = fo.build(body, shape, rule=rule or fo.rules.ForwardForward(classes=5)).eval()
    return net, torch.rand(7, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("options", [{"normalise_input": False}, {}, {"label_placement": "everywhere"}])
def test_a_full_pass_a_label_gives_the_same(body, options):
    net, images = network(body, fo.rules.ForwardForward(classes=5, **options))
    with torch.no_grad():
        plain = torch.stack([torch.stack(one_label(net, images, label)) for label in range(5)], dim=2)
    assert torch.allclose(net.scores(images), plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 14, 21, 10_000])
def test_how_many_candidates_go_together_does_not_matter(monkeypatch, rows):
    net, images = network(BODIES[0])
    whole = net.scores(images)
    monkeypatch.setattr(candidates, "ROWS", rows)
    assert torch.allclose(net.scores(images), whole, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("body", BODIES[:2])
def test_the_first_layers_product_is_computed_once(body):
    net, images = network(body)
    products = []
    first = next(m for m in net.row[0].body if isinstance(m, torch.nn.Linear | torch.nn.Conv2d))
    first.register_forward_hook(lambda *_: products.append(1))
    net.scores(images)
    assert len(products) == 1


def test_layers_that_are_not_affine_first_are_left_whole():
    relu = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(3, 3))
    wrapped = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"))
    assert candidates.leading_affine(relu)[0] is None
    assert candidates.leading_affine(wrapped)[0] is None
    assert candidates.leading_affine(torch.nn.Linear(3, 3))[0] is None
