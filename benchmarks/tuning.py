"""Ways to tune a pretrained model, side by side: the task's figure, what is forgotten, memory, time.

    python benchmarks/tuning.py text  OUT.jsonl --model SMOLLM2_FOLDER --task python --seeds 0 1 2
    python benchmarks/tuning.py image OUT.jsonl --model LITE0.safetensors --task cifar-10 --seeds 0 1 2

Each run is a process of its own, whose peak memory is the system's count. Arms: `untouched`, `end-to-end`,
`checkpointed` (the same with activations computed again), `lora` (with checkpointing, by peft), `frozen-half` (the upper
half end to end, the lower not at all), `local` (blocks by forwardonly). All take the same batches in the same order, with
AdamW and a linear schedule behind a warm-up of a tenth. Runs that OUT has already are not repeated.
"""

import argparse
import gc
import gzip
import itertools
import json
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from models import declare_torchvision_operators
from torch import Tensor, nn

import forwardonly as fo
from forwardonly.system.memory import peak_memory_bytes

ARMS = ("untouched", "end-to-end", "checkpointed", "lora", "frozen-half", "local")
LENGTH, BATCH, HELD = 128, 4, 48
"""Tokens of a row, rows of a step, rows that a loss is measured on."""
RATES = {"end-to-end": 1e-4, "checkpointed": 1e-4, "lora": 1e-3, "frozen-half": 1e-4, "local": 1e-3}
"""Learning rates; of `local` that of the read-outs, whose bodies learn at a tenth of it. See --rate."""
BLOCKS = 6


def main() -> None:
    """Runs what is missing, each in a process of its own."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("kind", choices=("text", "image"))
    options.add_argument("out", type=Path)
    options.add_argument("--model", type=Path, required=True, help="a Hugging Face folder, or a file of timm weights")
    options.add_argument("--task", required=True, help="python or manual; cifar-10, or a folder of images")
    options.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options.add_argument("--rates", nargs="+", type=float, default=[0.0], help="0: the arm's own")
    options.add_argument("--steps", type=int, default=40)
    options.add_argument("--blocks", type=int, default=BLOCKS)
    options.add_argument("--budget", help="of the local arm, such as 1GiB")
    options.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.one:
        library = declare_torchvision_operators()
        print(json.dumps(tuned(given)))
        del library
        return
    lines = [json.loads(text) for text in given.out.read_text().splitlines()] if given.out.exists() else []
    done = {key(line) for line in lines}
    for seed, rate, arm in itertools.product(given.seeds, given.rates, given.arms):
        if arm == "untouched" and seed != given.seeds[0]:
            continue
        own = {**vars(given), "arm": arm, "seed": seed, "rate": rate or RATES.get(arm, 0.0)}
        if key(own) in done:
            continue
        words = ["--arms", arm, "--seeds", str(seed), "--rates", str(own["rate"]), "--steps", str(given.steps)]
        words += ["--blocks", str(given.blocks), *(["--budget", given.budget] if given.budget else [])]
        command = [sys.executable, __file__, given.kind, str(given.out), "--model", str(given.model)]
        shown = subprocess.run([*command, "--task", given.task, *words, "--one"], capture_output=True, text=True)
        if shown.returncode:
            print(f"{arm}, seed {seed}: {shown.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
            continue
        with given.out.open("a") as file:
            file.write(shown.stdout.splitlines()[-1] + "\n")
        print(shown.stdout.splitlines()[-1])


def key(line: dict) -> tuple:
    """What tells one run from another."""
    budget = line["budget"] if line["arm"] == "local" else None
    return (line["kind"], line["task"], line["arm"], line["seed"], line["rate"], line["steps"], line["blocks"], budget)


def tuned(given: argparse.Namespace) -> dict:
    """Trains by one arm, and measures before and after."""
    (arm,), (seed,), (rate,) = given.arms, given.seeds, given.rates
    task = {"text": Text, "image": Pictures}[given.kind](given)
    torch.manual_seed(seed)
    trained = {"untouched": lambda task, *rest: task.model}.get(arm, local if arm == "local" else plain)
    started = time.perf_counter()
    model = trained(task, arm, rate, seed, given)
    seconds = time.perf_counter() - started
    peak = peak_memory_bytes(torch.device("cpu"))
    line = {name: getattr(given, name) for name in ("kind", "task", "steps", "blocks", "budget")}
    line |= {"arm": arm, "seed": seed, "rate": rate, "seconds": seconds, "peak_memory_bytes": peak}
    return line | task.measured(model.eval()) | {"saved_bytes": task.saved.get("most")}


def plain(task, arm, rate, seed, given) -> nn.Module:
    """Tunes by gradients through the model, or its upper half, or adapters in it."""
    model = task.prepared(arm)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    model.train()
    for step, batch in enumerate(task.batches(seed)):
        for group in optimiser.param_groups:
            group["lr"] = rate * factor(step, given.steps)
        with task.counted(step), torch.autocast("cpu", torch.bfloat16):
            loss = task.loss(model, batch)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return model


def factor(step: int, steps: int) -> float:
    """Share of the highest rate: it rises over a tenth of the run, then falls to 0, as `fit` has it."""
    warm = 0.1 * steps
    return min(1.0, (step + 1) / warm) if step < warm else 1 - (step - warm) / (steps - warm)


def local(task, arm, rate, seed, given) -> nn.Module:
    """Tunes block by block."""
    net = task.localized(given.blocks, seed)
    options = {"learning_rate": rate, "body_rate": 0.1, "weight_decay": 0.0, "lr_schedule": "linear", "warmup": 0.1}
    fo.fit(
        net,
        task.data(seed),
        steps=given.steps,
        epochs=1,
        batch_size=task.batch,
        precision="bf16",
        memory_budget=given.budget,
        seed=seed,
        **task.options,
        **options,
    )
    return task.whole(net)


class Task:
    """A model with what it is to learn."""

    batch: int
    options: dict = {}

    def __init__(self):
        self.saved: dict[str, int] = {}

    def counted(self, step: int):
        """A context that counts the bytes saved for backward, in the second step alone."""
        if step != 1:
            return torch.enable_grad()
        seen: dict[int, int] = {}
        own = {weight.untyped_storage().data_ptr() for weight in self.model.parameters()}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                seen[storage.data_ptr()] = storage.nbytes()
                self.saved["most"] = sum(seen.values())
            return tensor

        return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)


class Text(Task):
    """A causal language model of Hugging Face; the embedding, which is the head too, is frozen in every arm."""

    batch = BATCH

    def __init__(self, given):
        super().__init__()
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.given = given
        self.model = AutoModelForCausalLM.from_pretrained(given.model, local_files_only=True)
        self.model.get_input_embeddings().weight.requires_grad_(False)
        self.model.config.use_cache = False
        tokenizer = AutoTokenizer.from_pretrained(given.model, local_files_only=True)
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
        return fo.localize(self.model, rule, self.rows[:2, :-1], blocks=blocks, heads="own", readout="last", seed=seed)

    def whole(self, net: fo.Network) -> nn.Module:
        return fo.unlocalize(net)

    def measured(self, model: nn.Module) -> dict:
        return {"loss": self._held(model, self.held), "other_loss": self._held(model, self.other)}

    def _held(self, model: nn.Module, rows: Tensor) -> float:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
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


class Pictures(Task):
    pass


if __name__ == "__main__":
    gc.freeze()
    main()
