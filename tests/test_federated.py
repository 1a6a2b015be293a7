"""The benchmark of federated averaging: how it parts the images, and that averaging is what it says."""

import importlib.util
from pathlib import Path

import pytest
import torch

import forwardonly as fo

SCRIPT = Path(__file__).parents[1] / "benchmarks/federated.py"


@pytest.fixture
def federated():
    spec = importlib.util.spec_from_file_location("federated_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("split", ["equal", "skewed"])
def test_every_image_has_one_client(federated, split):
    labels = torch.arange(10).repeat(200)
    parts = federated.SPLITS[split](labels, torch.Generator().manual_seed(0))
    assert len(parts) == federated.CLIENTS
    assert torch.equal(torch.cat(parts).sort()[0], torch.arange(len(labels)))
    counts = torch.stack([labels[part].bincount(minlength=10) for part in parts]).float()
    if split == "equal":
        assert {len(part) for part in parts} == {100}
    else:  # the deviation of a share from Dirichlet(0.5) of 20 is about 1.3 times its mean
        assert counts.std() / counts.mean() > 0.9


def one_client(federated, monkeypatch, **setting):
    """The benchmark with one client that has all images and takes three steps a round."""
    monkeypatch.setattr(federated, "CLIENTS", 1)
    monkeypatch.setattr(federated, "LOCAL_STEPS", 3)
    monkeypatch.setitem(federated.SETTINGS, "equal", federated.Setting(local={"learning_rate": 0.01}, **setting))
    train, _, test = fo.data.load("digits")
    net = federated.network(train, "hyperspherical", 0)
    net.prepare.fit(train.images)
    generator = torch.Generator().manual_seed(0)
    order = federated.equal_parts(train.labels, generator)[0]
    return train, test, net, (train.images[order], train.labels[order])


def test_one_client_with_all_images_learns_what_plain_steps_learn(federated, monkeypatch):
    train, test, net, own = one_client(federated, monkeypatch, asked=1, epochs=0.02, momentum=0.9)
    found = federated.federated(train, test, "hyperspherical", "equal", 0)
    before = [weight.detach().clone() for weight in net.parameters()]
    federated.local_steps(net, *own, 0, {"learning_rate": 0.01})
    for weight, old in zip(net.parameters(), before, strict=True):
        weight.data.add_(weight.data - old, alpha=0.9)  # Nesterov's step: the momentum of the first round is its own
    assert found["rounds"] == 1 and found["images"] == 3 * federated.LOCAL_BATCH
    assert found["accuracy"] == pytest.approx(100 * fo.evaluate(net, test).accuracy)
    assert found["bytes_a_round"] == 2 * 4 * sum(weight.numel() for weight in net.parameters())


def test_the_rate_falls_and_the_momentum_lasts(federated, monkeypatch):
    train, test, net, own = one_client(federated, monkeypatch, asked=1, epochs=0.1, momentum=0.5)
    found = federated.federated(train, test, "hyperspherical", "equal", 0)
    assert found["rounds"] == 2
    speed = [torch.zeros_like(weight) for weight in net.parameters()]
    for turn, rate in enumerate((0.01, 0.005)):
        before = [weight.detach().clone() for weight in net.parameters()]
        federated.local_steps(net, *own, 1000 * turn, {"learning_rate": rate})
        for weight, old, fast in zip(net.parameters(), before, speed, strict=True):
            fast.mul_(0.5).add_(weight.data - old)
            weight.data.add_(fast, alpha=0.5)
    assert found["accuracy"] == pytest.approx(100 * fo.evaluate(net, test).accuracy)


def test_a_round_asks_some_of_the_clients(federated, monkeypatch):
    asked = []
    monkeypatch.setattr(federated, "LOCAL_STEPS", 1)
    monkeypatch.setitem(federated.SETTINGS, "skewed", federated.Setting(5, 0.3, 0.5, {"learning_rate": 0.01}))
    monkeypatch.setattr(federated, "local_steps", lambda net, images, labels, *_: asked.append(len(labels)))
    train, _, test = fo.data.load("digits")
    found = federated.federated(train, test, "hyperspherical", "skewed", 0)
    assert found["rounds"] == 3 and len(asked) == 15
    assert found["bytes_a_round"] == 2 * 5 * 4 * sum(
        weight.numel() for weight in federated.network(train, "hyperspherical", 0).parameters()
    )
