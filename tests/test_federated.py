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


def with_setting(federated, monkeypatch, split, *setting):
    """A setting whose clients learn by plain SGD at a rate of 0.1, as little as a test allows."""
    made = federated.Setting(*setting, torch.optim.SGD, {"lr": 0.1})
    monkeypatch.setitem(federated.SETTINGS, split, made)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_one_client_with_all_images_learns_what_online_learns(federated, monkeypatch, momentum):
    monkeypatch.setattr(federated, "CLIENTS", 1)
    with_setting(federated, monkeypatch, "equal", 0.1, 1, 3, momentum)
    nets, make = [], federated.network
    monkeypatch.setattr(federated, "network", lambda *given: nets.append(make(*given)) or nets[-1])
    train, _, test = fo.data.load("digits")
    found = federated.federated(train, test, "hyperspherical", "equal", 0)

    net, generator = make(train, "hyperspherical", 0), torch.Generator().manual_seed(0)
    net.prepare.fit(train.images)
    part = federated.equal_parts(train.labels, generator)[0]
    speed = [torch.zeros_like(weight) for weight in net.parameters()]
    for rate in (0.1, 0.05):  # falls to 0 over two rounds
        torch.randperm(1, generator=generator)  # the client that is asked
        before = [weight.detach().clone() for weight in net.parameters()]
        plain = {"optimiser": "sgd", "momentum": 0.0, "weight_decay": 0.0, "precision": "fp32"}
        online = fo.training.Online(net, learning_rate=rate, **plain)
        for batch in federated.drawn(part, 3 * federated.BATCH, generator).split(federated.BATCH):
            online.learn(train.images[batch], train.labels[batch])
        for weight, old, fast in zip(net.parameters(), before, speed, strict=True):
            fast.mul_(momentum).add_(weight.data - old)
            weight.data.add_(fast, alpha=momentum)
    assert found["rounds"] == 2 and found["images"] == 2 * 3 * federated.BATCH
    assert found["bytes_a_round"] == 2 * 4 * sum(weight.numel() for weight in net.parameters())
    for own, other in zip(nets[0].parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)


def test_the_mean_of_those_that_are_asked_is_weighted_by_images(federated, monkeypatch):
    with_setting(federated, monkeypatch, "skewed", 0.3, 3, 1, 0.0)
    sizes, nets, make = [], [], federated.network
    monkeypatch.setattr(federated, "network", lambda *given: nets.append(make(*given)) or nets[-1])
    train, _, test = fo.data.load("digits")
    draw = federated.drawn
    monkeypatch.setattr(federated, "drawn", lambda part, *rest: sizes.append(len(part)) or draw(part, *rest))

    def moved(losses, images, labels, order, optimiser):  # the first weight by a number of each client's own
        stacked = optimiser.param_groups[0]["params"][0]
        stacked.data.add_(torch.tensor([1.0, 10.0, 100.0]).view(-1, *[1] * (stacked.dim() - 1)))

    monkeypatch.setattr(federated, "local_training", moved)
    found = federated.federated(train, test, "hyperspherical", "skewed", 0)
    rounds = [sizes[at : at + 3] for at in range(0, len(sizes), 3)]
    assert len(rounds) == found["rounds"] == 5
    expected = sum((a + 10 * b + 100 * c) / (a + b + c) for a, b, c in rounds)
    gone = next(nets[0].parameters()) - next(make(train, "hyperspherical", 0).parameters())
    torch.testing.assert_close(gone, torch.full_like(gone, expected), rtol=1e-4, atol=1e-4)
    assert found["bytes_a_round"] == 2 * 3 * 4 * sum(weight.numel() for weight in nets[0].parameters())
