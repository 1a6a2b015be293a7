"""Cuts other people's models and checks each one: timm's architectures and Hugging Face's families, unedited.

    python benchmarks/models.py OUT.jsonl            every model, each in a process of its own; goes on where it stopped
    python benchmarks/models.py OUT.jsonl NAME...    these alone
    python benchmarks/models.py --summary OUT.jsonl  all lines as one, for record.py

Of each model: blocks, the share of the largest one, equal evaluation (checked by `localize`, again after loading), the
gradients that each loss reaches, bytes saved for backward beside backprop's, ten steps by three rules, saving and
loading, ONNX, and whether its blocks can be called alone. Random weights; 64 pixels where the model takes them.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

import forwardonly as fo
from forwardonly.network.signal import tensors_in

RULES = ("projection", "hyperspherical", "best")
STEPS, BATCH, CLASSES = 10, 20, 4
RATES = (1e-3, 3e-4)  # of AdamW: the second where the first, without a warm-up, lowers not every loss
CANDIDATES, TRIED = 6, 3  # models of a family whose sizes are looked at, and that are cut


def declare_torchvision_operators():
    """Declares the operators that torchvision's fake kernels name, so that it imports beside a CPU build of torch."""
    import importlib.util
    import re

    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return None
    text = (Path(found.origin).parent / "_meta_registrations.py").read_text()
    names = set(re.findall(r'(?:register_meta|register_fake)\("(?:torchvision::)?(\w+)"', text))
    library = torch.library.Library("torchvision", "DEF")
    for name in sorted(names):
        library.define(f"{name}(Tensor a) -> Tensor")
    return library


SMALL = ("atto", "femto", "pico", "nano", "xxs", "micro", "xs", "tiny", "_t", "mini", "small", "_s", "10", "_b0", "18")
"""Parts of names by which timm's models say that they are small, smallest first."""


def timm_models():
    """A few models of each of timm's architecture modules, smallest first, among those whose names say small."""
    import timm

    def rank(name):
        return next((place for place, word in enumerate(SMALL) if word in name), len(SMALL)), len(name), name

    def weights(name):
        try:
            with torch.device("meta"):
                return sum(weight.numel() for weight in timm.create_model(name).parameters())
        except Exception:  # some cannot be made without memory
            return 10**9

    found = {}
    for module in sorted(timm.list_modules()):
        names = sorted(timm.list_models(module=module), key=rank)[:CANDIDATES]
        if names:
            found[module] = ["timm:" + name for name in sorted(names, key=weights)]
    return found


def hugging_face_models():
    """Small models of 24 families, by the name of the class."""
    return [f"transformers:{name}" for name in sorted(FAMILIES)]


TEXT = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 200,
}
VISION = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 64,
    "patch_size": 8,
}
SPEECH = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": (32,) * 3,
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 2, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LLAMA = {**TEXT, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
FAMILIES = {
    "BertModel": ("text", TEXT),
    "RobertaModel": ("text", TEXT),
    "DistilBertModel": ("text", {"dim": 64, "n_layers": 4, "n_heads": 4, "hidden_dim": 128, "vocab_size": 200}),
    "ElectraModel": ("text", {**TEXT, "embedding_size": 64}),
    "DebertaV2Model": ("text", TEXT),
    "MPNetModel": ("text", TEXT),
    "GPT2Model": ("text", {"n_embd": 64, "n_layer": 4, "n_head": 4, "vocab_size": 200, "n_positions": 64}),
    "GPTNeoXModel": ("text", TEXT),
    "OPTModel": ("text", {**TEXT, "ffn_dim": 128, "word_embed_proj_dim": 64, "max_position_embeddings": 64}),
    "LlamaModel": ("text", LLAMA),
    "MistralModel": ("text", LLAMA),
    "Qwen2Model": ("text", LLAMA),
    "GemmaModel": ("text", LLAMA),
    "ModernBertModel": (
        "text",
        {**TEXT, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
    ),
    "ViTModel": ("image", VISION),
    "DeiTModel": ("image", VISION),
    "BeitModel": ("image", VISION),
    "Dinov2Model": ("image", VISION),
    "ConvNextModel": ("image", {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 2, 1]}),
    "SwinModel": (
        "image",
        {"embed_dim": 16, "depths": [2, 2, 2], "num_heads": [2, 2, 4], "image_size": 64, "window_size": 4},
    ),
    "ResNetModel": ("image", {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1], "embedding_size": 16}),
    "SegformerModel": ("image", {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1], "decoder_hidden_size": 32}),
    "MobileNetV2Model": ("image", {"depth_multiplier": 0.35, "image_size": 64}),
    "Wav2Vec2Model": ("sound", SPEECH),
    "HubertModel": ("sound", SPEECH),
    "WavLMModel": ("sound", SPEECH),
    "ASTModel": ("spectrum", {**VISION, "max_length": 64, "num_mel_bins": 32, "frequency_stride": 8, "time_stride": 8}),
}


def made(name):
    """A model, and a function from a number of inputs to inputs for it."""
    kind, _, own = name.partition(":")
    if kind == "timm":
        return _timm(own)
    import transformers

    form, options = FAMILIES[own]
    cls = getattr(transformers, own)
    model = cls(cls.config_class(**options))
    images = {
        "text": lambda n: {
            "input_ids": torch.randint(3, 200, (n, 24)),
            "attention_mask": torch.ones(n, 24, dtype=torch.int64),
        },
        "image": lambda n: torch.rand(n, 3, 64, 64),
        "sound": lambda n: torch.randn(n, 1600),
        "spectrum": lambda n: torch.randn(n, 64, 32),
    }
    return model, images[form]


def _timm(name):
    import timm

    problem = None
    for options in ({"img_size": 64}, {}):
        try:
            model = timm.create_model(name, **options)
        except TypeError:  # it has no such option
            continue
        except Exception as refusal:  # 64 pixels do not suit its patches or windows
            problem = refusal
            continue
        for size in (64,) if options else (64, 96, 128, 224, 256, 448):
            try:
                with torch.no_grad():
                    model.eval()(torch.rand(2, 3, size, size))
            except Exception as refusal:  # another size
                problem = refusal
            else:
                return model.train(), lambda count, size=size: torch.rand(count, 3, size, size)
    raise ValueError(f"{name} takes no images of 64 to 448 pixels: {problem}")


def examined(name):
    """The line of one model."""
    started = time.perf_counter()
    torch.manual_seed(0)
    model, inputs = made(name)
    line = {"model": name, "weights": sum(weight.numel() for weight in model.parameters())}
    example = inputs(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = fo.localize(model, fo.rules.Projection(classes=CLASSES), example)
    own = [sum(weight.numel() for weight in block.body.parameters()) for block in network.row]
    line.update(blocks=len(own), largest=max(own) / sum(own), walls=list(network.walled.walls))
    labels = torch.arange(8) % CLASSES
    line["leaks"] = reached_wrongly(network, inputs(2), labels[:2])
    some = inputs(8)
    line["saved"] = saved_share(network, some, labels)
    line["saved_and_loaded"] = loads(network, some, name)
    line["onnx"] = onnx_difference(network, example, inputs(3))
    network.emit()
    line["alone"] = network.stays_because or "yes"
    line["lowered"] = {rule: lowered(name, rule) for rule in RULES}
    line["seconds"] = time.perf_counter() - started
    return line


def reached_wrongly(network, inputs, labels):
    """How many losses reach the weights of more than one block."""
    network.train()
    losses = network.local_losses(network.prepare(inputs), labels)  # none of a block whose layer was dropped
    wrong = 0
    for loss in losses:
        network.zero_grad(set_to_none=True)
        if loss.requires_grad:
            loss.backward(retain_graph=True)
        wrong += sum(any(weight.grad is not None for weight in block.parameters()) for block in network.row) > 1
    network.zero_grad(set_to_none=True)
    return wrong


def saved_share(network, inputs, labels):
    """Bytes saved for backward at most at once, ours over backprop's through the same model."""
    from forwardonly.training.batch import Batch
    from forwardonly.training.config import TrainingConfig
    from forwardonly.training.step import Context
    from forwardonly.training.strategies import whole_step
    from forwardonly.training.update import Update

    network.train()
    updates = [
        Update(block, TrainingConfig(optimiser="sgd", learning_rate=1e-9, weight_decay=0.0)) for block in network.row
    ]
    with fo.measure.SavedBytes() as ours:
        whole_step(network, updates, Batch(network.prepare(inputs), labels), Context("fp32"))
    with fo.measure.SavedBytes() as theirs:
        output = network.walled(network.prepare(inputs))
        first = next(t for t in tensors_in(output) if t.requires_grad)
        first.float().square().mean().backward()
    network.zero_grad(set_to_none=True)
    return ours.peak / theirs.peak


def loads(network, inputs, name):
    """Whether the network comes back from a folder with the same scores, to the bit."""
    network.eval()
    before = network.scores(inputs)
    with tempfile.TemporaryDirectory() as folder:
        fo.save(network, folder)
        again = fo.load(folder, model=made(name)[0])
        return bool(torch.equal(again.scores(inputs), before))


def onnx_difference(network, example, inputs):
    """The largest difference of ONNX's scores for another batch size, relative to the largest score."""
    import numpy
    import onnxruntime

    from forwardonly.export import export_network

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            network.prepare.input = "features"  # floats
            (path,) = export_network(network.eval(), folder, format="onnx")
            session = onnxruntime.InferenceSession(str(path))
            tensors = tensors_in(inputs)
            given = {entry.name: tensor.numpy() for entry, tensor in zip(session.get_inputs(), tensors, strict=True)}
            (scores, *_) = session.run(None, given)
        except Exception as problem:
            return f"{type(problem).__name__}: {str(problem).strip().splitlines()[0][:160]}"
    with torch.no_grad():
        expected = network(inputs).numpy()
    return float(numpy.abs(scores - expected).max() / numpy.abs(expected).max().clip(1e-6))


def lowered(name, rule):
    """`lowering` of a model of that name under a rule, and the rate: the first of `RATES` that lowers every loss."""
    found = []
    for rate in RATES:
        torch.manual_seed(0)
        model, inputs = made(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = fo.localize(model, fo.rules.make(rule, classes=CLASSES), inputs(2))
        found.append([*lowering(network, inputs, rate), rate])
        if found[-1][0] == found[-1][1]:
            break
    return max(found, key=lambda result: result[0])


def lowering(network, inputs, rate=RATES[0]):
    """The number of blocks whose loss fell in ten steps on one batch, and the number of blocks.

    It fell where one of the last three steps is below the mean of the first three: with dropped paths, losses go up and
    down. Steps in which the model drops a block's layer, which has no loss then, are left out.
    """
    from forwardonly.training.batch import Batch
    from forwardonly.training.config import TrainingConfig
    from forwardonly.training.step import Context
    from forwardonly.training.strategies import whole_step
    from forwardonly.training.update import Update

    torch.manual_seed(1)
    labels = torch.arange(BATCH) % CLASSES
    network.train()
    config = TrainingConfig(optimiser="adamw", learning_rate=rate, weight_decay=0.0)
    updates = [Update(block, config) for block in network.row]
    some = inputs(BATCH)
    losses = torch.stack(
        [whole_step(network, updates, Batch(network.prepare(some), labels), Context("fp32")) for _ in range(STEPS)]
    )
    losses[losses == 0] = torch.nan  # of a block whose layer was dropped
    fell = losses[-3:].nan_to_num(nan=torch.inf).min(0).values < losses[:3].nanmean(0)
    return [int(fell.sum()), len(fell)]


def summary(lines):
    """What record.py takes: a line of all models, without the names of their walls."""
    import timm
    import transformers

    arms = {line["model"]: {name: line[name] for name in line if name not in ("model", "walls")} for line in lines}
    saved = [arm["saved"] for arm in arms.values() if "saved" in arm]
    return {
        "kind": "models",
        "command": "python benchmarks/models.py OUT.jsonl",
        "machine": {"torch": torch.__version__, "threads": torch.get_num_threads()},
        "options": {"rules": RULES, "steps": STEPS, "batch": BATCH, "rates": RATES, "timm": timm.__version__}
        | {"transformers": transformers.__version__},
        "ratios": {"saved": statistics.median(saved)},
        "arms": arms,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--limit", type=int, default=900, help="seconds for one model")
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--one", action="store_true")
    given = parser.parse_args()
    library = declare_torchvision_operators()
    if given.summary:
        print(json.dumps(summary([json.loads(text) for text in given.out.read_text().splitlines()])))
        return
    if given.one:
        print(json.dumps(examined(given.names[0])))
        return
    done = {json.loads(text)["model"] for text in given.out.read_text().splitlines()} if given.out.exists() else set()
    wanted = [[name] for name in given.names] or [*timm_models().values(), *([name] for name in hugging_face_models())]
    for names in wanted:
        if done.isdisjoint(names[:TRIED]):
            examine_first_even(names[:TRIED], given.out, given.limit)
    del library  # timm's import needed it until here


def examine_first_even(names, out, limit):
    """Writes the line of the first model of a family whose largest block has at most half of the weights."""
    lines = []
    for name in names:
        command = [sys.executable, __file__, "--one", str(out), name]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
            if ran.returncode == 0:
                line = json.loads(ran.stdout.splitlines()[-1])
            else:
                line = {
                    "model": name,
                    "failed": (ran.stderr.strip().splitlines() or [f"exit {ran.returncode}"])[-1][:300],
                }
        except subprocess.TimeoutExpired:
            lines.append({"model": name, "failed": f"took over {limit} s"})
            break  # the others of its family have more weights
        lines.append(line)
        if line.get("largest", 1) <= 0.5:
            break
    best = min(lines, key=lambda line: line.get("largest", 2))
    with out.open("a") as file:
        file.write(json.dumps(best) + "\n")
    print(json.dumps({key: value for key, value in best.items() if key != "walls"}), flush=True)


if __name__ == "__main__":
    main()
