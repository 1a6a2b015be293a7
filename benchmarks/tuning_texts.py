"""Tuning SmolLM2 on rows of text, as a task of `tuning.py`."""

import gzip
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tuning_tasks import Task, computing, in_files

import forwardonly as fo
from forwardonly.network import models

LENGTH, BATCH, HELD = 128, 4, 48
"""Tokens of a row, rows of a step, rows that a loss is measured on."""


class Text(Task):
    """A causal language model of Hugging Face; the embedding, which is the head too, is frozen in every arm."""

    batch = BATCH

    def __init__(self, given):
        super().__init__()
        self.given = given
        with in_files(given.budget):
            self.model = models.build(f"hf:{given.model}", {})
        self.model.get_input_embeddings().weight.requires_grad_(False)
        self.model.config.use_cache = False
        tokenizer = models.tokenizer(given.model)
        texts = {"python": python_sources, "manual": manual_pages}[given.task]
        count = HELD + given.steps * BATCH
        rows = rows_of(tokenizer, texts(), 3 * count)
        self.held, self.rows = rows[:HELD], rows[HELD:]
        self.other = rows_of(tokenizer, readmes(), HELD)

    def prepared(self, arm: str) -> nn.Module:
        layers = self.model.model.layers
        if arm == "frozen-half":
            for layer in layers[: len(layers) // 2]:
                layer.requires_grad_(False)
        if arm == "lora":
            from peft import LoraConfig, get_peft_model

            self.model = get_peft_model(self.model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
        if arm in ("lora", "checkpointed"):
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        return self.model

    def data(self, seed: int) -> Tensor:
        order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(seed))
        return self.rows[order[: self.given.steps * BATCH]]

    def batches(self, seed: int) -> Iterator[Tensor]:
        return iter(self.data(seed).split(BATCH))

    def loss(self, model: nn.Module, rows: Tensor) -> Tensor:
        logits = model(input_ids=rows[:, :-1], use_cache=False).logits
        return F.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())

    def localized(self, blocks: int, seed: int) -> fo.Network:
        words = self.model.get_output_embeddings().out_features
        rule = fo.rules.Projection(classes=words, targets="token")
        return fo.localize(self.model, rule, self.rows[:2, :8], blocks=blocks, heads="own", readout="last", seed=seed)

    def whole(self, net: fo.Network) -> nn.Module:
        return fo.unlocalize(net)

    def measured(self, model: nn.Module) -> dict:
        return {"loss": self._held(model, self.held), "other_loss": self._held(model, self.other)}

    def _held(self, model: nn.Module, rows: Tensor) -> float:
        with torch.no_grad(), computing():
            losses = [float(self.loss(model, part)) for part in rows.split(BATCH)]
        return sum(losses) / len(losses)


def rows_of(tokenizer, texts: Iterator[str], count: int) -> Tensor:
    """Rows (count, LENGTH + 1) of token ids, of texts one behind another."""
    ids: list[int] = []
    for text in texts:
        ids += [*tokenizer(text[:20_000])["input_ids"], tokenizer.eos_token_id]
        if len(ids) >= count * (LENGTH + 1):
            break
    return torch.tensor(ids[: count * (LENGTH + 1)]).view(count, LENGTH + 1)


def shuffled(files: list[Path]) -> list[Path]:
    """Files in an order that does not go by their names."""
    files = sorted(files)
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0))
    return [files[index] for index in order]


def python_sources() -> Iterator[str]:
    """Python's own library."""
    for file in shuffled(list(Path(sysconfig.get_path("stdlib")).glob("*.py"))):
        yield file.read_text(encoding="utf-8", errors="replace")


def manual_pages() -> Iterator[str]:
    """The manual's pages on the machine, in troff."""
    for file in shuffled(list(Path("/usr/share/man/man1").glob("*.gz"))):
        yield gzip.decompress(file.read_bytes()).decode("utf-8", "replace")


def readmes() -> Iterator[str]:
    """English prose: what the packages in the environment say of themselves."""
    for file in shuffled(list(Path(sysconfig.get_path("purelib")).glob("*.dist-info/METADATA"))):
        yield file.read_text(encoding="utf-8", errors="replace").partition("\n\n")[2]
