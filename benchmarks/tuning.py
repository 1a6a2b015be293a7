"""Ways to tune a pretrained model, side by side: the task's figure, what is forgotten, memory, time.

    python benchmarks/tuning.py text  OUT.jsonl --model SMOLLM2_FOLDER --task python --seeds 0 1 2
    python benchmarks/tuning.py image OUT.jsonl --model LITE0.safetensors --task cifar-10 --seeds 0 1 2

Each run is a process of its own, whose peak memory is the system's count. Arms: `untouched`, `end-to-end`,
`checkpointed` (the same with activations computed again), `lora` (with checkpointing, by peft), `frozen-half` (the
upper half end to end, the lower not at all), `local` (blocks by forwardonly). All take as many steps, with AdamW and a
linear schedule behind a warm-up of a tenth. Runs that OUT has already are not repeated.
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
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from models import declare_torchvision_operators
from torch import Tensor, nn

import forwardonly as fo
from forwardonly.data.images import limited
from forwardonly.network.models import load_weights, statistics
from forwardonly.system import mapped
from forwardonly.system.memory import peak_memory_bytes

ARMS = ("untouched", "end-to-end", "checkpointed", "lora", "frozen-half", "local")
LENGTH, BATCH, HELD = 128, 4, 48
"""Tokens of a row, rows of a step, rows that a loss is measured on."""
FIGURES = ("loss", "other_loss", "accuracy", "other_accuracy", "seconds", "peak_memory_bytes", "saved_bytes")
LINE = ("kind", "task", "steps", "blocks", "budget", "heads_first", "layer_decay")
RATES = {"end-to-end": 1e-4, "checkpointed": 1e-4, "lora": 1e-3, "frozen-half": 1e-4, "local": 1e-3}
"""Learning rates; of `local`, and of all arms on images, that of the read-outs: bodies learn at a tenth of it."""
BLOCKS = 6
SIDE, IMAGES, TESTED, OTHERS = 64, 5000, 2000, (2000, 1000)
"""Pixels of a side; images that are learned and tested, and those of another set, to see what is forgotten."""


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
    options.add_argument("--heads-first", type=float, default=0.0, help="of the local arm")
    options.add_argument("--layer-decay", type=float, default=1.0, help="of the local arm")
    options.add_argument("--budget", help="of the local arm, such as 1GiB")
    options.add_argument("--summary", action="store_true", help="print what OUT has of the task, for record.py")
    options.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.one:
        library = declare_torchvision_operators()
        print(json.dumps(tuned(given)))
        del library
        return
    lines = [json.loads(text) for text in given.out.read_text().splitlines()] if given.out.exists() else []
    if given.summary:
        print(json.dumps(summary([line for line in lines if line["task"] == given.task], given)))
        return
    done = {key(line) for line in lines}
    for seed, rate, arm in itertools.product(given.seeds, given.rates, given.arms):
        if arm == "untouched" and seed != given.seeds[0]:
            continue
        own = {**vars(given), "arm": arm, "seed": seed, "rate": rate or RATES.get(arm, 0.0)}
        if key(own) in done:
            continue
        words = ["--arms", arm, "--seeds", str(seed), "--rates", str(own["rate"]), "--steps", str(given.steps)]
        words += ["--heads-first", str(given.heads_first), "--layer-decay", str(given.layer_decay)]
        words += ["--blocks", str(given.blocks), *(["--budget", given.budget] if given.budget else [])]
        command = [sys.executable, __file__, given.kind, str(given.out), "--model", str(given.model)]
        shown = subprocess.run([*command, "--task", given.task, *words, "--one"], capture_output=True, text=True)
        if shown.returncode:
            print(f"{arm}, seed {seed}: {shown.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
            continue
        with given.out.open("a") as file:
            file.write(shown.stdout.splitlines()[-1] + "\n")
        print(shown.stdout.splitlines()[-1])


def summary(lines: list[dict], given: argparse.Namespace) -> dict:
    """All seeds of each arm together."""
    arms = {}
    for arm in ARMS:
        own = sorted((line for line in lines if line["arm"] == arm), key=lambda line: line["seed"])
        names = [name for name in FIGURES if own and own[0].get(name) is not None]
        kept = ("rate", "steps", *(("blocks", "layer_decay", "heads_first") if arm == "local" else ()))
        if own:
            settings = {name: own[0][name] for name in kept}
            arms[arm] = {**settings, **{name: [line[name] for line in own] for name in ("seed", *names)}}
    command = f"python benchmarks/tuning.py {given.kind} OUT --model MODEL --task {given.task}"
    threads = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    return {"kind": "tuning", "command": command, "machine": threads, "options": {"task": given.task}, "arms": arms}


def key(line: dict) -> tuple:
    """What tells one run from another."""
    own = ("blocks", "budget", "heads_first", "layer_decay") if line["arm"] == "local" else ()
    return tuple(line[name] for name in ("kind", "task", "arm", "seed", "rate", "steps", *own))


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
    line = {name: getattr(given, name) for name in LINE}
    line |= {"arm": arm, "seed": seed, "rate": rate, "seconds": seconds, "peak_memory_bytes": peak}
    return line | task.measured(model.eval()) | {"saved_bytes": task.saved.get("most")}


def plain(task, arm, rate, seed, given) -> nn.Module:
    """Tunes by gradients through the model, or its upper half, or adapters in it."""
    model = task.prepared(arm)
    optimiser = torch.optim.AdamW(task.groups(model, rate, arm), weight_decay=0.0)
    rates = [group["lr"] for group in optimiser.param_groups]
    model.train()
    for step, batch in enumerate(task.batches(seed)):
        for group, highest in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = highest * factor(step, given.steps)
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
    with in_files(given.budget):
        net = task.localized(given.blocks, seed)
    options = {"learning_rate": rate, "body_rate": 0.1, "weight_decay": 0.0, "lr_schedule": "linear", "warmup": 0.1}
    options |= {"heads_first": given.heads_first, "layer_decay": given.layer_decay}
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


def in_files(budget: str | None):
    """A context in which weights are in files, as `forwardonly tune` has them within a budget."""
    return nullcontext() if budget is None else mapped.Building(mapped.Arena())


class Task:
    """A model with what it is to learn."""

    batch: int
    options: ClassVar[dict] = {}

    def __init__(self):
        self.saved: dict[str, int] = {}

    def groups(self, model: nn.Module, rate: float, arm: str) -> list[dict]:
        """What is trained, with its learning rate."""
        return [{"params": [weight for weight in model.parameters() if weight.requires_grad], "lr": rate}]

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
        with in_files(given.budget):
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
        return fo.localize(self.model, rule, self.rows[:2, :8], blocks=blocks, heads="own", readout="last", seed=seed)

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
    """EfficientNet-Lite0 of timm with weights of ImageNet, on images of SIDE pixels."""

    batch = 64
    options: ClassVar[dict] = {"crop": 0, "flip": "none"}

    def __init__(self, given):
        super().__init__()
        import timm

        self.given = given
        train, test = pictures(given.task, IMAGES, TESTED)
        self.train, self.test = train, test
        self.other = pictures("cifar-100" if given.task == "cifar-10" else "cifar-10", *OTHERS)
        classes = 0 if given.arms[0] in ("local", "untouched") else len(train.classes)
        self.model = timm.create_model("tf_efficientnet_lite0", num_classes=classes)
        load_weights(self.model, given.model)
        self.statistics = statistics(self.model)

    def prepared(self, arm: str) -> nn.Module:
        model = self.model
        if arm == "frozen-half":
            for part in (model.conv_stem, model.bn1, *model.blocks[: len(model.blocks) // 2 + 1]):
                part.requires_grad_(False)
        if arm in ("lora", "checkpointed"):
            model.set_grad_checkpointing(True)
        if arm == "lora":
            from peft import LoraConfig, get_peft_model

            layers = [name for name, own in model.named_modules() if isinstance(own, nn.Conv2d) and own.groups == 1]
            config = LoraConfig(r=8, lora_alpha=16, target_modules=layers, modules_to_save=["classifier"])
            self.model = model = get_peft_model(model, config)
        return model

    def groups(self, model: nn.Module, rate: float, arm: str) -> list[dict]:
        """The new classifier, and adapters, learn at the rate; the body that was trained before at a tenth of it."""
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        new = {name for name in trained if "classifier" in name or "lora" in name}
        old = [weight for name, weight in trained.items() if name not in new]
        groups = [{"params": [trained[name] for name in sorted(new)], "lr": rate}]
        return [*groups, {"params": old, "lr": 0.1 * rate}] if old else groups

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        count = len(self.train) // self.batch
        for step in range(self.given.steps):
            if step % count == 0:
                order = torch.randperm(len(self.train), generator=generator)
            chosen = order[step % count * self.batch :][: self.batch]
            yield self.train.images[chosen], self.train.labels[chosen]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        if self.given.arms[0] == "frozen-half":
            for part in model.modules():  # frozen norms keep their statistics
                if (own := list(part.parameters(recurse=False))) and not own[0].requires_grad:
                    part.eval()
        images, labels = batch
        return F.cross_entropy(model(self._standardised(images)).float(), labels)

    def _standardised(self, images: Tensor) -> Tensor:
        mean, std = (torch.tensor(own).view(-1, 1, 1) for own in self.statistics)
        return (images.float() / 255 - mean) / std

    def localized(self, blocks: int, seed: int) -> fo.Network:
        mean, std = self.statistics
        rule = fo.rules.Projection(classes=len(self.train.classes))
        example = self.train.images[:2]
        return fo.localize(self.model, rule, example, blocks=blocks or "auto", mean=mean, std=std, seed=seed)

    def data(self, seed: int) -> fo.data.Images:
        return self.train

    def whole(self, net: fo.Network) -> fo.Network:
        return net

    def measured(self, model) -> dict:
        line = {"other_accuracy": self._probed(fo.unlocalize(model) if isinstance(model, fo.Network) else model)}
        if isinstance(model, fo.Network):
            found = fo.evaluate(model, self.test, precision="bf16")
            return {**line, "accuracy": found.accuracy, "block_accuracy": found.block_accuracy}
        if self.given.arms[0] == "untouched":
            return {**line, "accuracy": probed(self._features(model, self.train), self._features(model, self.test))}
        right = sum(
            int((self._scores(model, part).argmax(1) == labels).sum()) for part, labels in self.test.in_order(250)
        )
        return {**line, "accuracy": right / len(self.test)}

    def _probed(self, model: nn.Module) -> float:
        """What a ridge classifier reads off the model's features of other images: what is forgotten shows there."""
        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        return probed(*(self._features(model, part) for part in self.other))

    def _features(self, model: nn.Module, images: fo.data.Images) -> tuple[Tensor, Tensor]:
        parts = []
        for part, _ in images.in_order(250):
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                parts.append(model.forward_features(self._standardised(part)).float().mean((2, 3)))
        return torch.cat(parts), images.labels

    def _scores(self, model: nn.Module, images: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return model(self._standardised(images))


def pictures(name: str, learned: int, tested: int) -> tuple[fo.data.Images, fo.data.Images]:
    """So many images of a set or a folder, the same of every class, of SIDE pixels."""
    known = name in fo.data.NAMES
    found = fo.data.load(name, limit=learned, image_size=None if known else SIDE)
    parts = (found.train, limited(found.test, min(tested, len(found.test)), 0))
    return tuple(replace(part, images=_resized(part.images)) for part in parts)


def _resized(images: Tensor) -> Tensor:
    return torch.cat(
        [
            F.interpolate(part.float(), size=(SIDE, SIDE), mode="bilinear").round().clamp(0, 255).byte()
            for part in images.split(1000)
        ]
    )


def probed(learned: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor]) -> float:
    """Accuracy of a ridge classifier."""
    from sklearn.linear_model import RidgeClassifier

    (x, y), (held_x, held_y) = learned, held
    return float(RidgeClassifier(alpha=100.0).fit(x.numpy(), y.numpy()).score(held_x.numpy(), held_y.numpy()))


if __name__ == "__main__":
    gc.freeze()
    main()
