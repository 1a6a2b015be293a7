"""Shared fixtures and helpers."""

import runpy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import forwardonly as fo
from forwardonly import cli


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tests run side by side, one a core; threads of their own would only get in each other's way."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> fo.data.Splits:
    """scikit-learn's digits, with 200 images held out."""
    return fo.data.load("digits", validation=200)


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run on the digits by the command line, for tests that only look at one."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    words = ["train", "--epochs", "4", "--hidden", "40", "20", "--rule.margin", "0.2", "--out", str(folder)]
    assert cli.main(words) == 0
    return folder


@pytest.fixture(scope="session")
def walk() -> Any:
    """What `benchmarks/models.py` defines; timm and transformers can then be imported beside a CPU torch."""
    pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "models.py"))
        found["library"] = found["declare_torchvision_operators"]()
        pytest.importorskip("timm")
    return found


@pytest.fixture
def images() -> fo.data.Images:
    """Eighty random images of 1 x 6 x 6 in four classes."""
    generator = torch.Generator().manual_seed(0)
    return fo.data.Images(
        images=torch.randint(0, 256, (80, 1, 6, 6), dtype=torch.uint8, generator=generator),
        labels=torch.arange(80) % 4,
        classes=("a", "b", "c", "d"),
        name="random",
    )
