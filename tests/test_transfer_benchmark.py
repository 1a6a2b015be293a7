"""The benchmark of transfer, on few small pictures and a backbone of random weights."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

SCRIPT = Path(__file__).parents[1] / "benchmarks/transfer.py"
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # other libraries' own


@pytest.fixture
def transfer(walk, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("transfer_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def backbone(walk):
    import timm

    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0").eval()
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):  # as after training: no two statistics alike
            norm.running_mean.uniform_(-0.1, 0.1)
            norm.running_var.uniform_(0.5, 2.0)
    return model


def test_norms_in_the_convolutions_before_them_are_the_same_function(transfer, backbone):
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before = backbone(images)
        folded = transfer.folded(backbone)
        torch.testing.assert_close(folded(images), before, rtol=1e-3, atol=1e-4 * float(before.abs().max()))
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in folded.modules())


def test_features_are_the_averages_of_each_map(transfer, backbone):
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        features = transfer.Pooled(backbone, 64)(images)
        large = torch.nn.functional.interpolate(images, size=(64, 64), mode="bilinear")
        last = backbone.forward_features(large).mean((2, 3))
    assert features.shape == (2, 16 + 24 + 40 + 112 + 320 + 1280)
    torch.testing.assert_close(features[:, -1280:], last)


def ran(*words):
    done = subprocess.run([sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_from_the_command_line(backbone, tmp_path):
    drawn = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 3), dtype=np.uint8)
    drawn[::2, :4] //= 4  # every other image is dark above
    data, weights, out = tmp_path / "pictures.npz", tmp_path / "weights.safetensors", tmp_path / "out.jsonl"
    np.savez(data, x=drawn, y=np.arange(200) % 2)
    save_file(backbone.state_dict(), weights)
    words = [out, "--data", data, "--side", "32", "--seeds", "0", "1"]
    assert "name the folder in which the features are kept" in ran(*words)[2]
    words += ["--features", tmp_path / "features"]
    assert "name the file of weights" in ran(*words)[2]
    words += ["--weights", weights]
    status, _, said = ran(*words)
    assert status == 0 and "160 images in" in said, said
    lines = [json.loads(text) for text in out.read_text().splitlines()]
    arms = [(line["arm"], line["seed"]) for line in lines]
    assert arms == [("ridge", 0), ("logistic", 0)] + [
        (arm, seed) for arm in ("hyperspherical", "backprop") for seed in (0, 1)
    ]
    assert all(0.7 < line["accuracy"] <= 1 for line in lines), lines
    assert len(lines[2]["block_accuracy"]) == 2
    kept = out.read_text()
    assert ran(*words)[:2] == (0, "") and out.read_text() == kept
    assert ran(*words, "--held-out", "40", "--arms", "ridge")[0] == 0
    status, shown, _ = ran(out, "--data", data, "--summary")
    assert [own["seed"] for own in json.loads(shown)["arms"].values()] == [[0], [0], [0, 1], [0, 1]]
