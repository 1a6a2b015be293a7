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


def test_one_client_with_all_images_learns_what_plain_steps_learn(federated, monkeypatch):
    monkeypatch.setattr(federated, "CLIENTS", 1)
    monkeypatch.setattr(federated, "LOCAL_STEPS", 3)
    monkeypatch.setattr(federated, "EPOCHS", 0.02)
    train, _, test = fo.data.load("digits")
    found = federated.federated(train, test, "hyperspherical", "equal", 0)
    net = federated.network(train, "hyperspherical", 0)
    net.prepare.fit(train.images)
    order = federated.equal_parts(train.labels, torch.Generator().manual_seed(0))[0]
    federated.local_steps(net, train.images[order], train.labels[order], federated.LOCAL_RATE, 0)
    assert found["rounds"] == 1
    assert found["accuracy"] == pytest.approx(100 * fo.evaluate(net, test).accuracy)
    assert found["bytes_a_round"] == 2 * 4 * sum(weight.numel() for weight in net.parameters())
