"""The Hub's mixin, against a local folder."""

import re

import pytest
import torch

import forwardonly as fo
from forwardonly.hub import HubNetwork


@pytest.fixture
def run(trained_run):
    return trained_run


def test_what_is_saved_comes_back_and_predicts_the_same(run, tmp_path, digits):
    HubNetwork.of_run(run).save_pretrained(tmp_path / "hub")
    assert sorted(path.name for path in (tmp_path / "hub").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    again = HubNetwork.from_pretrained(tmp_path / "hub").network
    images = digits.test.images
    assert torch.equal(again.scores(images), fo.load(run).scores(images))


def test_pushing_uploads_the_same_folder(run, tmp_path, monkeypatch):
    seen = {}

    class Api:
        def __init__(self, **given):
            pass

        def create_repo(self, repo_id, **given):
            return type("Repository", (), {"repo_id": repo_id})()

        def upload_folder(self, *, repo_id, folder_path, **given):
            seen[repo_id] = {path.name: path.read_bytes() for path in folder_path.iterdir()}
            return "https://example.invalid/commit"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    HubNetwork.of_run(run).push_to_hub("someone/digits")
    assert set(seen["someone/digits"]) == {"README.md", "config.json", "model.safetensors"}
    assert seen["someone/digits"]["model.safetensors"] == (run / "model.safetensors").read_bytes()


def test_the_card_tells_what_was_measured_and_the_command(run, tmp_path):
    HubNetwork.of_run(run).save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    measured = fo.evaluate(fo.load(run), fo.data.load("digits").test).accuracy
    shown = float(re.search(r"test accuracy \| ([\d.]+) %", text)[1])
    assert shown == pytest.approx(100 * measured, abs=0.3)  # the run measured in its own precision
    assert "forwardonly train --rule hyperspherical --data digits --body mlp --rule.margin 0.2" in text
    assert text.startswith("---\nlibrary_name: forwardonly")


def test_a_card_without_a_run_claims_nothing(tmp_path):
    network = fo.mlp((1, 6, 6), [8], rule=fo.rules.Projection(classes=3))
    HubNetwork(network).save_pretrained(tmp_path)
    assert "accuracy" not in (tmp_path / "README.md").read_text()
