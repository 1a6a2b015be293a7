"""Shared fixtures and helpers."""

import runpy
import warnings
from collections.abc import Callable
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


@pytest.fixture(scope="session")
def llama(walk: Any) -> Callable[..., Path]:
    """A function that writes a Hugging Face folder: a Llama of four layers, and a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    def write(path: Path, text: str, *, width: int) -> Path:
        words = ["<end>", "<unknown>", *sorted(set(text.split()))]
        known = models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unknown>")
        tokenizer = Tokenizer(known)
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(path)
        torch.manual_seed(0)
        sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 4}
        config = LlamaConfig(vocab_size=len(words), num_attention_heads=4, tie_word_embeddings=True, **sizes)
        LlamaForCausalLM(config).save_pretrained(path)
        return path

    return write


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
