"""Examples: each runs, is short, and prints what it claims."""

import importlib.util
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "examples"
SHOWS = {
    "own_rule": lambda found: min(found.values()) > 0.9,
    "own_images": lambda accuracy: accuracy > 0.8,
    "localize_resnet": lambda found: found[0] > 0.9 and found[1:] == (5, 0),
    "memory_budget": lambda depths: depths["projection"] == 64 and depths["backprop"] < 16,
    "on_device": lambda accuracy: accuracy > 0.93,
    "tune_photos": lambda accuracy: accuracy > 0.8,
    "tune_notes": lambda found: found[1] < found[0] - 0.3,
    "federated_flower": lambda accuracy: accuracy > 0.93,
}
NEEDS = {"federated_flower": "flwr"}
"""Packages of examples alone."""
SLOW = ("on_device", "own_rule", "tune_photos", "tune_notes", "federated_flower")


def test_every_example_is_listed_and_short():
    scripts = {path.stem: path.read_text().count("\n") for path in FOLDER.glob("*.py")}
    assert set(scripts) == set(SHOWS)
    assert all(lines < 60 for lines in scripts.values())
    assert all(f"`{name}.py`" in (FOLDER / "README.md").read_text() for name in scripts)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else []) for name in SHOWS])
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning")  # other libraries' own
def test_example(name, request):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    torch.set_num_threads(1)
    if name.startswith("tune"):
        request.getfixturevalue("walk")
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.main()
    assert SHOWS[name](found), found
