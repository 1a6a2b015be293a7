"""The benchmark of tuning: end to end with checkpoints is end to end."""

import argparse
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # other libraries' own
STEPS = 3


@pytest.fixture
def tuning(walk, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    before = set(sys.modules)
    yield importlib.import_module("tuning")
    for name in set(sys.modules) - before:
        if name.startswith("tuning"):
            del sys.modules[name]


@pytest.fixture
def language(llama, tmp_path):
    return {"kind": "text", "model": llama(tmp_path, "def return self if the ( ) :", width=32), "task": "python"}


@pytest.fixture
def pictures(tmp_path):
    """Weights of EfficientNet-Lite0 that are random, and a folder of 400 pictures."""
    import timm
    from PIL import Image

    torch.manual_seed(0)
    save_file(timm.create_model("tf_efficientnet_lite0").state_dict(), tmp_path / "weights.safetensors")
    generator = np.random.default_rng(0)
    for index in range(400):
        folder = tmp_path / "pictures" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return {"kind": "image", "model": tmp_path / "weights.safetensors", "task": str(tmp_path / "pictures")}


def weights_after(tuning, options, arm, tmp_path):
    given = argparse.Namespace(
        out=tmp_path / "out.jsonl", arms=[arm], steps=STEPS, budget=None, side=32, figures=False, **options
    )
    torch.manual_seed(0)
    task = {"text": tuning.Text, "image": tuning.Pictures}[given.kind](given)
    before = {name: weight.clone() for name, weight in task.model.state_dict().items()}
    after = tuning.plain(task, arm, 1e-3, 0, given).state_dict()
    assert any(not torch.equal(before[name], weight) for name, weight in after.items())
    return after


@pytest.mark.parametrize("kind", ["language", "pictures"])
def test_checkpoints_give_the_bits_of_end_to_end(tuning, kind, request, tmp_path):
    options = {**request.getfixturevalue(kind), "kept_norms": True}
    plain, checkpointed = (weights_after(tuning, options, arm, tmp_path) for arm in ("end-to-end", "checkpointed"))
    assert plain.keys() == checkpointed.keys()
    assert all(torch.equal(plain[name], weight) for name, weight in checkpointed.items())


def test_checkpoints_move_the_statistics_of_norms_twice_where_they_are_not_kept(tuning, pictures, tmp_path):
    """Why the page's arms keep them: the forward pass that is repeated in the backward pass counts again."""
    options = {**pictures, "kept_norms": False}
    plain, checkpointed = (weights_after(tuning, options, arm, tmp_path) for arm in ("end-to-end", "checkpointed"))
    moved = [name for name in plain if not torch.equal(plain[name], checkpointed[name])]
    assert moved and all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in moved)
