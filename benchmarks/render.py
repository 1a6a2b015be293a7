"""Writes every generated table and figure into README.md and the pages of docs/: python benchmarks/render.py [--check]

A table stands between `<!-- begin:NAME -->` and `<!-- end:NAME -->`, a figure between `<!--f EXPRESSION-->` and
`<!--/-->`; `results/README.md` says what an expression is. With --check nothing is written: each page that differs from
what the lines of `results/` say is named, and the exit status is 1.
"""

import argparse
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lines import ROOT, Line, Results, accuracy

from forwardonly.experiments.recipes import SCALES, TABLE, Row

BLOCK = re.compile(r"(<!-- begin:(\S+) -->\n).*?(<!-- end:\2 -->)", re.DOTALL)
FIGURE = re.compile(r"(<!--f (.+?)-->).*?(<!--/-->)")
BEGINS = re.compile(r"^\s*(?:[-*>] +)?<!--f (.+?)-->", re.MULTILINE)
"""A figure at the start of a line: Markdown takes the line for HTML and ends the paragraph there."""
NOT_MEASURED = "not measured"
OTHER = "other options"
"""The scale of lines that stand beside a paper's figure but were not trained by the recipe's own options."""


class Pair(NamedTuple):
    """A local rule and backprop on one net: what tables call them, and the groups of their lines."""

    data: str
    net: str
    kind: str
    rule: str
    local: str
    backprop: str | None
    whole_run: str | None = None
    """The timing of whole runs that stands for both."""


MLP = "784-1000-1000"
SIX, HALF = "six convolutions", "six, half as wide"
PAIRS = [
    Pair("MNIST", MLP, "prototypes", "hyperspherical", "hyperspherical/mnist/mlp-2x1000", "backprop/mnist/mlp-2x1000"),
    Pair("MNIST", "784-1000-1000-1000", "goodness", "ff", "ff/mnist/mlp-3x1000", "backprop/mnist/mlp-3x1000"),
    Pair("MNIST", HALF, "auxiliary head", "best", "best/mnist/six-half", "backprop/mnist/six-half"),
    Pair("MNIST", HALF, "plain head", "projection", "projection/mnist/six-half", "backprop/mnist/six-half"),
    Pair("MNIST", HALF, "channels", "channel-learnable", "channel-learnable/mnist/six-half", "backprop/mnist/six-half"),
    Pair(
        "Fashion-MNIST",
        MLP,
        "prototypes",
        "hyperspherical",
        "hyperspherical/fashion-mnist/mlp-2x1000",
        "backprop/fashion-mnist/mlp-2x1000",
    ),
    Pair("Fashion-MNIST", HALF, "auxiliary head", "best", "fashion-fast/best", "fashion-fast/backprop"),
    Pair("Fashion-MNIST", HALF, "plain head", "projection", "projection/fashion-mnist/six-half", None),
    Pair("Fashion-MNIST", SIX, "auxiliary head", "best", "best/fashion-mnist/six", None),
    Pair("Fashion-MNIST", SIX, "channels", "channel-learnable", "channel-learnable/fashion-mnist/six", None),
    Pair(
        "CIFAR-10",
        "3072-1000-1000-1000",
        "prototypes",
        "hyperspherical",
        "hyperspherical/cifar-10/mlp-3x1000",
        "backprop/cifar-10/mlp-3x1000",
    ),
    Pair(
        "CIFAR-10",
        SIX,
        "auxiliary head",
        "best",
        "best/cifar-10/six",
        "backprop/cifar-10/six",
        "whole-run/best/six/two-workers-fp32",
    ),
    Pair(
        "CIFAR-10",
        SIX,
        "plain head",
        "bilinear",
        "bilinear/cifar-10/six",
        "backprop/cifar-10/six",
        "whole-run/bilinear/six/two-workers-fp32",
    ),
    Pair("CIFAR-10", SIX, "prototypes", "hyperspherical", "hyperspherical/cifar-10/six-muon", None),
    Pair("CIFAR-10", SIX, "channels", "channel-learnable", "channel-learnable/cifar-10/six-49000-images", None),
    Pair(
        "CIFAR-10",
        "ResNet-17, a quarter as wide",
        "channels",
        "channel-learnable",
        "channel-learnable/cifar-10/resnet17-quarter",
        "backprop/cifar-10/resnet17-quarter",
    ),
    Pair("CIFAR-100", SIX, "auxiliary head", "best", "best/cifar-100/six", "backprop/cifar-100/six"),
    Pair("CIFAR-100", SIX, "prototypes", "hyperspherical", "hyperspherical/cifar-100/six-20-epochs", None),
    Pair("CIFAR-100", SIX, "channels", "channel-learnable", "channel-learnable/cifar-100/six", None),
    Pair("Tiny ImageNet", SIX, "auxiliary head", "best", "best/tiny-imagenet/six", None),
]
"""The best rule of each kind on each data set and net."""
HEADLINE = [
    "hyperspherical/mnist/mlp-2x1000",
    "best/mnist/six-half",
    "hyperspherical/fashion-mnist/mlp-2x1000",
    "fashion-fast/best",
    "bilinear/cifar-10/six",
    "best/cifar-10/six",
]
"""The rows of the README's table, by the group of the local rule."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def seeds(results: Results, group: str) -> str:
    """The seeds of a group's figure."""
    return ", ".join(str(line["seed"]) for line in results.group(group))


def processor(machine: str) -> str:
    """The part of a machine's name that tells it from the others of these files."""
    found = re.search(r"Zen \d|Xeon", machine)
    return found[0] if found else machine


def headline(results: Results) -> str:
    """The README's table."""
    rows = []
    for pair in (pair for name in HEADLINE for pair in PAIRS if pair.local == name):
        assert pair.backprop is not None
        accuracies = [accuracy(results, group) for group in (pair.local, pair.backprop)]
        net = "six convolutions, half as wide" if pair.net == HALF else pair.net
        rows.append([pair.data, net, f"`{pair.rule}`", *accuracies, time_of(results, pair)])
    return table(["data", "net", "rule", "test %", "backprop, test %", "time / backprop"], rows)


def time_of(results: Results, pair: Pair) -> str:
    """The ratio of times with its processor: a timing of whole runs, or two runs that had the machine to themselves."""
    assert pair.backprop is not None
    if pair.whole_run:
        line = results.timing(pair.whole_run)
        return f"{line['ratios']['backprop']:.2f} ({processor(line['machine'])})"
    lines = [*results.group(pair.local), *results.group(pair.backprop)]
    if not all(line["alone"] for line in lines):
        return ""
    return f"{results.seconds(pair.local) / results.seconds(pair.backprop):.2f} ({processor(lines[0]['machine'])})"


def best(results: Results) -> str:
    """The best rule of each kind, with backprop beside it; six columns, for more do not fit the site's page."""
    rows = []
    for pair in PAIRS:
        (line, *_) = results.group(pair.local)
        theirs = accuracy(results, pair.backprop) if pair.backprop else NOT_MEASURED
        epochs = str(line["config"]["training"]["epochs"])
        rule = f"`{pair.rule}`, {pair.kind}"
        cells = [accuracy(results, pair.local), seeds(results, pair.local), theirs, epochs]
        rows.append([f"{pair.data}, {pair.net}", rule, *cells])
    return table(["data, net", "rule, kind", "test %", "seeds", "backprop, test %", "epochs"], rows)


def whole_runs(results: Results) -> str:
    """Ratios of the times of whole runs on the six blocks."""
    rows = []
    for line in sorted(results.timings.values(), key=lambda line: str(line["id"])):
        if line["kind"] == "whole-run":
            config = line["config"]
            how = f"{line['threads']} threads" if line["threads"] > 1 else "1 thread"
            how = f"{config['workers']} workers" if config["workers"] > 1 else how
            rule = f"`{config['rule']['name']}`" + (", `--delay 0`" if not config["training"]["delay"] else "")
            rows.append([rule, how, f"{line['ratios']['backprop']:.2f}", processor(line["machine"]), line["precision"]])
    return table(["rule", "how", "time / backprop", "processor", "arithmetic"], rows)


STEPS = {
    "step/projection/conv-8": ("`projection`", "8 convolutions of 128 channels"),
    "step/projection/mlp-8x2000": ("`projection`", "8 layers of 2000 units"),
    "step/projection/six": ("`projection`", "six convolutions"),
    "step/channel-learnable/resnet17-half": ("`channel-learnable`", "ResNet-17, half as wide"),
    "step/ff-uniform/mlp-8x2000": ("`ff`, `--rule.negatives uniform`", "8 layers of 2000 units"),
    "step/ff/mlp-8x2000": ("`ff`", "8 layers of 2000 units"),
    "step/bilinear/six/one-thread": ("`bilinear`", "six convolutions"),
    "step/bilinear/six/two-threads": ("`bilinear`", "six convolutions"),
    "step/best/six/one-thread": ("`best`", "six convolutions"),
    "step/best/six/two-threads": ("`best`", "six convolutions"),
}


def steps(results: Results) -> str:
    """Ratios of the times of one training step."""
    rows = []
    for name, (rule, net) in STEPS.items():
        line = results.timing(name)
        ratios = [f"{line['ratios'][arm]:.2f}" for arm in ("backprop", "backprop-checkpointed")]
        rows.append([rule, net, str(line["config"]["batch"]), str(line["threads"]), *ratios])
    return table(["rule", "net", "batch", "threads", "step / backprop", "/ backprop with checkpoints"], rows)


def busy(results: Results) -> str:
    """A training step beside other processes."""
    rows = []
    for name in ("step/projection/conv-8/busy-0", "step/projection/conv-8/busy-1", "step/projection/conv-8/busy-2"):
        line = results.timing(name)
        ms = [f"{line['arms'][arm]['ms']:.0f}" for arm in ("ours", "backprop")]
        rows.append([str(line["config"]["busy"]), *ms, f"{line['ratios']['backprop']:.2f}"])
    return table(["other processes", "ms", "backprop, ms", "step / backprop"], rows)


def memory(results: Results) -> str:
    """Peak memory above that of the code, against depth."""
    line = results.timing("memory/projection/conv-32")
    code = line["arms"]["code"]["peak_bytes"]
    names = {
        "ours": "local rule",
        "backprop": "backprop",
        "backprop-checkpointed": "backprop with checkpoints",
        "backprop-accumulated": "backprop in 4 micro-batches",
    }
    rows = []
    for arm, name in names.items():
        above = [f"{(line['arms'][arm]['peak_bytes'][depth] - code) / 2**20:.0f}" for depth in ("2", "32")]
        rows.append([name, *above, "" if arm == "ours" else f"{line['ratios'][arm]:.2f}"])
    return table(["", "MiB, 2 convolutions", "MiB, 32 convolutions", "local rule / this, 32"], rows)


def processes(results: Results) -> str:
    """How much faster two processes are than one."""
    line = results.timing("parallel/two-processes")
    names = {
        "data": "data parallel",
        "layers": "a pipeline of blocks",
        "backprop-1f1b": "backprop's pipeline, 1F1B of 8 micro-batches",
    }
    rows = [
        [name, f"{line['ratios'][arm]:.2f}", f"{100 * line['arms'][arm]['waits']:.0f}"] for arm, name in names.items()
    ]
    return table(["two processes", "times as fast as one", "% of the time waiting"], rows)


def parallel_model(results: Results) -> str:
    """Seconds of an epoch on one to four processes of two cores: what the cost model says, and measured."""
    arms = results.timing("parallel/four-processes")["arms"]
    rows = []
    for count in range(1, 5):
        names = ["alone", "alone"] if count == 1 else [f"layers {count}", f"data {count}"]
        cells = [f"{arms[name][what]:.2f}" for name in names for what in ("predicted", "seconds")]
        rows.append([str(count), *cells])
    return table(["processes", "pipeline: the model", "measured", "data: the model", "measured"], rows)


FAST = {
    "mnist-fast": ("MNIST, four convolutions of a quarter of the width", "projection"),
    "fashion-fast": ("Fashion-MNIST, six convolutions, half as wide", "best"),
    "cifar-10-fast/quick": ("CIFAR-10, six convolutions, half as wide", "best"),
    "cifar-10-fast/full": ("CIFAR-10, six convolutions", "best"),
}


def fast(results: Results) -> str:
    """Time to accuracy: whole runs from the files to the test figure."""
    rows = []
    for name, (net, rule) in FAST.items():
        ours, theirs = f"{name}/{rule}", f"{name}/backprop"
        cells = [text for of in (ours, theirs) for text in (accuracy(results, of), f"{results.seconds(of):.0f}")]
        (line,) = results.group(ours)
        rows.append([f"{net}, `{rule}`", *cells, processor(line["machine"])])
    return table(["data, net, rule", "test %", "seconds", "backprop, test %", "seconds", "processor"], rows)


def reproduced(name: str) -> Callable[[Results], str]:
    """The table of a paper's recipe: its figures, and ours at each scale that has lines."""

    def rendered(results: Results) -> str:
        kept = {line["paper"]["scale"] for line in results.runs if line.get("paper", {}).get("table") == name}
        scales = [scale for scale in (*SCALES[name], OTHER) if scale in kept]
        elsewhere = {row.name for row in TABLE["deeperforward"]("full").rows} if name == "lcca" else set()
        rows: dict[str, list[str]] = {}
        for scale in dict.fromkeys("full" if scale == OTHER else scale for scale in scales or ("full",)):
            for row in TABLE[name](scale).rows:
                ours = [_ours(results, name, kept, row) for kept in scales]
                shown = any(ours) if row.paper is None else row.name not in elsewhere
                if shown and (row.paper is not None or not row.name.startswith("starvation")):
                    paper = "" if row.paper is None else _number(row.paper, name)
                    rows[row.name] = [paper, *(text or "–" for text in ours or [NOT_MEASURED])]
        head = [f"ours, {scale}" if scale == OTHER else f"ours, `--scale {scale}`" for scale in scales] or ["ours"]
        return table(["", "paper", *head], [[row, *cells] for row, cells in rows.items()])

    return rendered


def _ours(results: Results, name: str, scale: str, row: Row) -> str:
    """What we have for a row of a recipe, "" if nothing."""
    parts = re.fullmatch(
        r"(slope of log R on P|starvation of block (\d+)|deepest separation|test accuracy \(%\)), (.+)", row.name
    )
    arm = parts[3] if parts else row.name
    of = [
        line
        for line in results.runs
        if line.get("paper", {}).get("table") == name
        and line["paper"]["scale"] == scale
        and line["paper"]["row"] == arm
        and line["chosen_by"] != "test"
    ]
    if not of:
        return ""
    group = str(of[0]["id"]).rpartition("/")[0]
    count = f" (n = {len(of)})"
    if not parts or parts[1].startswith("test"):
        return accuracy(results, group) + count
    if parts[1].startswith("slope"):
        known = all(line["free_riding"]["law_slope"] is not None for line in of)
        return results.figure(f"slope {group} @2") + count if known else ""
    quantity, block = ("starvation", int(parts[2])) if parts[2] else ("separation", len(of[0]["block_accuracy"]))
    return f"{results.free_riding(group, quantity, block):.3f}" + count


def _number(value: float, name: str) -> str:
    """A paper's figure with as many decimals as the paper has."""
    places = 1 if name.startswith(("networkff", "lorberbom")) else 2
    return f"{value:.3g}" if name == "free-riding" else f"{value:.{places}f}"


TUNED = {
    "untouched": "untouched",
    "end-to-end": "end to end",
    "checkpointed": "end to end, with checkpoints",
    "lora": "LoRA, with checkpoints",
    "frozen-half": "lower half frozen",
    "local": "local, {blocks} blocks",
}


def tune_text(results: Results) -> str:
    """A language model tuned in several ways, on two tasks."""
    tasks = [results.timing(name) for name in ("tuning/text/python", "tuning/text/manual")]
    rows = []
    for arm, name in TUNED.items():
        own = [task["arms"].get(arm) for task in tasks]
        first = own[0]
        if first is None:
            continue
        cells = [_spread(task[figure], 3) if task else "" for task in own for figure in ("loss", "other_loss")]
        if arm == "checkpointed":  # to the bit, which is tested
            cells = ["as above"] * len(cells)
        cost = ["", ""] if arm == "untouched" else [_gib(first), f"{statistics.median(first['seconds']):.0f}"]
        saved = f"{first['saved_bytes'][0] / 2**20:.0f}" if "saved_bytes" in first else ""
        rows.append([name.format(blocks=first.get("blocks")), *cells, saved, *cost])
    return table(["", "Python sources", "prose", "manual pages", "prose", "saved, MiB", "GiB", "seconds"], rows)


def tune_memory(results: Results) -> str:
    """A sentence on a tuning within a budget."""
    arms = results.timing("tuning/text/python")["arms"]
    line = results.timing("tuning/text/python/1230MiB")
    own = line["arms"]["local"]
    peak = own["peak_memory_bytes"][0]
    shares = [peak / statistics.median(arms[arm]["peak_memory_bytes"]) for arm in ("end-to-end", "lora")]
    return (
        f"Six blocks of the same model in files, within a budget of 1230 MiB: the process peaked at {peak / 2**20:.0f} "
        f"MiB. That is {shares[0]:.2f} of end to end and {shares[1]:.2f} of LoRA with checkpoints. For the backward "
        f"pass it saves {own['saved_bytes'][0] / 2**20:.0f} MiB. Its loss on Python sources is {own['loss'][0]:.2f}.\n"
    )


PICTURED = {
    "untouched": "untouched",
    "heads": "untouched, read after every block",
    "end-to-end": "end to end",
    "joint": "end to end, read after every block",
    "lora": "LoRA",
    "frozen-half": "lower half frozen",
    "local": "local, blocks by `auto`",
}


def tune_image(results: Results) -> str:
    """A convolutional model tuned in several ways, on two tasks."""
    tasks = [results.timing(name)["arms"] for name in ("tuning/image/cifar-10", "tuning/image/solar-cells")]
    rows = []
    for arm, name in PICTURED.items():
        if (first := tasks[0].get(arm)) is None:
            continue
        cells = [
            _spread([100 * share for share in task[arm][figure]], 1) if arm in task else ""
            for task in tasks
            for figure in ("accuracy", "other_accuracy")
        ]
        work = "" if arm == "untouched" else f"{statistics.median(first['processor_seconds']):.0f}"
        rows.append([name, *cells, work])
    return table(["", "CIFAR-10", "CIFAR-100, probed", "solar cells", "CIFAR-10, probed", "seconds"], rows)


def tune_image_memory(results: Results) -> str:
    """Memory of a step of a convolutional model at its own size."""
    arms = results.timing("tuning/image/memory")["arms"]
    whole = arms["end-to-end"]["peak_memory_bytes"][0]
    rows = []
    for arm, name in {**PICTURED, "checkpointed": "end to end, with checkpoints"}.items():
        if arm in arms:
            own = arms[arm]
            saved = f"{own['saved_bytes'][0] / 2**20:.0f}" if "saved_bytes" in own else ""
            peak = own["peak_memory_bytes"][0]
            rows.append([name, saved, f"{peak / 2**20:.0f}", f"{peak / whole:.2f}"])
    return table(["", "saved for backward, MiB", "peak of the process, MiB", "share"], rows)


TRANSFERRED = {
    "ridge": "linear probe, ridge",
    "logistic": "linear probe, logistic",
    "hyperspherical": "`hyperspherical`, two blocks",
    "backprop": "backprop through the same blocks",
}


def transfer(results: Results) -> str:
    """What is learned on the features of a frozen network."""
    sets = [results.timing(name)["arms"] for name in ("transfer/tiny-imagenet", "transfer/cifar-100")]
    rows = []
    for arm, words in TRANSFERRED.items():
        accuracies = [_spread([100 * share for share in own[arm]["accuracy"]], 2) for own in sets]
        first = sets[0][arm]
        rows.append([words, *accuracies, _gib(first), f"{statistics.median(first['seconds']):.0f}"])
    return table(["", "Tiny-ImageNet, test %", "CIFAR-100, test %", "GiB", "seconds"], rows)


def large_model(results: Results) -> str:
    """A sentence on a step of a model larger than its memory."""
    line = results.timing("large-model/llama")
    config, own = line["config"], line["arms"]["local"]
    seconds, peak = statistics.median(own["seconds_of_steps"]), own["peak_memory_bytes"] / 2**30
    return (
        f"A Llama-like model of {config['weights'] / 1e9:.2f} billion random weights in {config['blocks']} blocks "
        f"takes a step of {config['batch'] * config['length']} tokens with AdamW in {seconds:.0f} s. "
        f"The process peaks at {peak:.2f} GiB ({processor(line['machine'])}).\n"
    )


CLOSE = 1e-4  # by which ONNX's scores may differ, relative to the largest


def _faults(arm: Line) -> list[str]:
    """What is not right of a model that was cut, in words."""
    if "failed" in arm:
        return [arm["failed"]]
    onnx = arm["onnx"]
    found = [
        (arm["leaks"], f"{arm['leaks']} losses reach another block"),
        (arm["largest"] > 0.5, "more than half of the weights in one block"),
        (not arm["saved_and_loaded"], "does not come back from its folder"),
        (not isinstance(onnx, float), "no ONNX"),
        (isinstance(onnx, float) and onnx > CLOSE, "ONNX differs"),
        *(
            (fell < blocks, f"{rule} lowers the loss of {fell} of {blocks} blocks")
            for rule, (fell, blocks, _) in arm["lowered"].items()
        ),
    ]
    return [says for wrong, says in found if wrong]


def models(kind: str) -> Callable[[Results], str]:
    """A table of other people's models of one library."""

    def shown(results: Results) -> str:
        rows = []
        for name, arm in _models(results, kind).items():
            sizes = (
                [
                    f"{arm['weights'] / 1e6:.2f}",
                    str(arm["blocks"]),
                    f"{100 * arm['largest']:.0f}",
                    f"{arm['saved']:.2f}",
                ]
                if "blocks" in arm
                else [""] * 4
            )
            alone = "yes" if arm.get("alone") == "yes" else "" if "failed" in arm else "no"
            rows.append([f"`{name}`", *sizes, alone, "; ".join(_faults(arm))])
        head = ["model", "weights, millions", "blocks", "largest, % of the weights", "bytes saved / backprop"]
        return table([*head, "blocks can be called alone", "not right"], rows)

    return shown


def models_counted(results: Results) -> str:
    """A sentence for each library on how many of its models are right in everything."""
    said, first = [], results.timing("models/walk")["config"]["rates"][0]
    for kind, name in (("timm", "modules of timm"), ("transformers", "families of Hugging Face")):
        arms = list(_models(results, kind).values())
        right = [arm for arm in arms if not _faults(arm)]
        slow = sum(min(rate for _, _, rate in arm["lowered"].values()) < first for arm in right)
        saved = statistics.median(arm["saved"] for arm in arms if "saved" in arm)
        alone = sum(arm.get("alone") == "yes" for arm in arms)
        said.append(
            f"- **{len(right)} of {len(arms)} {name}** are right in everything, {slow} of them at the lower rate. "
            f"The median of the bytes saved for backward is {saved:.2f} of backprop's, and the blocks of {alone} can "
            "be called alone.\n"
        )
    return "".join(said)


def _models(results: Results, kind: str) -> Line:
    arms = results.timing("models/walk")["arms"]
    return {name.partition(":")[2]: arm for name, arm in sorted(arms.items()) if name.startswith(f"{kind}:")}


def _spread(values: Sequence[float], places: int) -> str:
    """The mean, and the deviation of several."""
    mean = f"{statistics.mean(values):.{places}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{places}f}"


def _gib(arm: Line) -> str:
    return f"{statistics.median(arm['peak_memory_bytes']) / 2**30:.2f}"


DEVICE = {
    "digits-mlp": "digits, 64-64-64-64-64",
    "mnist-cnn": "MNIST, four convolutions",
    "keyword-1d": "keywords, `separable`, 40 × 1 × 49",
    "colour-depthwise": "colour, `separable`, 3 × 32 × 32",
}


DEVICE_ARMS = {"float32": "float32", "int8": "int8", "backprop-float32": "backprop, float32"}


def device(title: str, cell: Callable[[Any], str]) -> Callable[[Results], str]:
    """The table of training steps in C of which `cell` says what is measured of one."""

    def shown(results: Results) -> str:
        arms = results.timing("device/cortex-m4")["arms"]
        rows = [[words, *(cell(arms[f"{name}/{arm}"]) for arm in DEVICE_ARMS)] for name, words in DEVICE.items()]
        return table([title, *DEVICE_ARMS.values()], rows)

    return shown


def device_new_class(results: Results) -> str:
    """What a new class costs on the device."""
    arms = results.timing("device/new-class")["arms"]
    rows = []
    for name, words in DEVICE.items():
        own = arms[f"{name}/new-class"]
        work, constants = own["instructions_add_class"] / 1e6, own["constants"] / 1000
        rows.append([words, f"{work:.1f}", f"{constants:.1f}", str(own["stack_bytes"])])
    return table(["a class from ten examples", "million instructions", "KB of constants", "bytes of stack"], rows)


def device_accuracy(results: Results) -> str:
    """Accuracy after training in C, beside Python."""
    rows = []
    names = {
        "device-accuracy/digits-mlp": "digits",
        "device-accuracy/vowels-1d": "Japanese vowels (UCR)",
        "device-accuracy/mnist-cnn": "MNIST, 6,000 images, `cnn` with batch norm, 8 a step",
    }
    for name, words in names.items():
        line = results.timing(name)
        means = [f"{100 * line['arms'][arm]['mean']:.2f}" for arm in ("python-float32", "c-float32", "c-int8")]
        rows.append([words, *means, str(line["config"]["seeds"])])
    return table(["", "Python, float32, %", "C, float32, %", "C, int8, %", "seeds"], rows)


ADDED = {
    "hyperspherical/added": "`fo.add_class`, with statistics",
    "hyperspherical/without": "`fo.add_class`, without",
    "backprop/plain": "backprop, fine-tuned on the ten",
    "backprop/memory": "backprop, also on 20 of each old class",
}


def new_class(results: Results) -> str:
    """One class added to nine: old classes before and after, and the new one beside training on all ten."""
    rows = []
    lines = {
        "MNIST": ("new-class/mnist", "new-class/mnist/hyperspherical"),
        "Fashion-MNIST": ("new-class/fashion-mnist", "new-class/fashion-mnist/hyperspherical"),
    }
    for words, names in lines.items():
        arms = _arms(results, *names)
        for arm, how in ADDED.items():
            rule = arm.partition("/")[0]
            before, own, full = arms[f"{rule}/before"], arms[arm], arms[f"{rule}/full"]
            cells = [before["old"], own["old"], full["old"], own["new"], full["new"]]
            rows.append([f"{words}, {how}", *(f"{value:.1f}" for value in cells)])
    head = ["test %", "old classes before", "after", "trained on all", "new class", "trained on all"]
    return table(head, rows)


def _arms(results: Results, *names: str) -> dict[str, Any]:
    """The arms of several lines; the last that has one counts."""
    return {arm: own for name in names for arm, own in results.timing(name)["arms"].items()}


def new_class_steps(results: Results) -> str:
    """Ten classes of a hundred after ten."""
    names = {
        "hyperspherical/added-10": "`fo.add_class`, ten examples a class",
        "hyperspherical/added-500": "`fo.add_class`, all 500 a class",
        "backprop/plain": "backprop, fine-tuned on each ten",
        "backprop/memory": "backprop, also on 20 of each old class",
        "hyperspherical/full": "`hyperspherical`, all classes at once",
        "backprop/full": "backprop, all classes at once",
    }
    arms = _arms(results, "new-class/cifar-100", "new-class/cifar-100/hyperspherical")
    parts = ("old", "new", "all")
    rows = [[how, *(f"{arms[arm][part]:.1f}" for part in parts)] for arm, how in names.items() if arm in arms]
    return table(["test % after the last step", "first 90 classes", "last 10", "all"], rows)


def federated(results: Results) -> str:
    """Federated averaging beside central training."""
    line = results.timing("federated/hyperspherical")
    names = {
        "central": "central",
        "central-longest": "central",
        "equal": "20 clients, equal parts",
        "skewed": "20 clients, skewed parts",
    }
    rows = []
    for arm, words in names.items():
        own, federal = line["arms"][arm], arm in line["config"]["settings"]
        behind = f"{line['ratios'][f'points-behind/{arm}/central']:.2f}" if federal else ""
        seen = f"{own['images'] / 60_000:.1f}" if federal else str(line["config"]["epochs"][arm])
        asked = str(line["config"]["settings"][arm]["asked"]) if federal else ""
        sent = f"{own['rounds'] * own['bytes_a_round'] / 1e9:.2f}" if federal else ""
        cells = [seen, asked, str(own.get("rounds", "")), sent, str(len(own["each"]))]
        rows.append([words, f"{own['accuracy']:.2f}", behind, *cells])
    titles = [
        "",
        "test %",
        "points behind",
        "epochs' images seen",
        "clients a round",
        "rounds",
        "GB sent in all",
        "seeds",
    ]
    return table(titles, rows)


PAPERS = (
    "networkff-mnist",
    "networkff-fashion",
    "lorberbom",
    "free-riding",
    "hff",
    "lcca",
    "deeperforward",
    "tinycnn",
    "local-errors",
    "price-of-locality",
)
TABLES: dict[str, Callable[[Results], str]] = {
    "headline": headline,
    "best": best,
    "whole-runs": whole_runs,
    "steps": steps,
    "busy": busy,
    "memory": memory,
    "processes": processes,
    "parallel-model": parallel_model,
    "fast": fast,
    "device-memory": device(
        "KB (of which activations)",
        lambda arm: f"{arm['static_bytes'] / 1000:.1f} ({arm['activations_of_one_block'] / 1000:.1f})",
    ),
    "device-code": device(
        "KB of code (bytes of stack)", lambda arm: f"{arm['code_bytes'] / 1000:.1f} ({arm['stack_bytes']})"
    ),
    "device-work": device("million instructions a step", lambda arm: f"{arm['instructions_learn'] / 1e6:.2f}"),
    "device-new-class": device_new_class,
    "device-accuracy": device_accuracy,
    "tune-text": tune_text,
    "tune-memory": tune_memory,
    "tune-image": tune_image,
    "tune-image-memory": tune_image_memory,
    "transfer": transfer,
    "models": models_counted,
    "models-timm": models("timm"),
    "models-hugging-face": models("transformers"),
    "large-model": large_model,
    "new-class": new_class,
    "new-class-steps": new_class_steps,
    "federated": federated,
    **{f"reproduce-{name}": reproduced(name) for name in PAPERS},
}
"""Every generated table by the name between its marks."""


def pages() -> list[Path]:
    """The pages that may hold tables and figures."""
    return [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "notes")]


def rendered(text: str, results: Results) -> str:
    """A page with its tables and figures as the lines have them.

    Raises:
        ValueError: it asks for one that there is not.
    """

    if first := BEGINS.search(text):
        raise ValueError(f"{first[1]!r} begins a line, which ends the paragraph: put a word in front of it.")

    def block(found: re.Match[str]) -> str:
        if found[2] not in TABLES:
            raise ValueError(f"There is no table {found[2]!r}, but these: {', '.join(TABLES)}.")
        return f"{found[1]}{TABLES[found[2]](results)}{found[3]}"

    return FIGURE.sub(lambda found: f"{found[1]}{results.figure(found[2])}{found[3]}", BLOCK.sub(block, text))


def stale(results: Results, *, write: bool) -> list[str]:
    """One line a page that is not as it should be; written anew if asked."""
    found = []
    for path in pages():
        old = path.read_text(encoding="utf-8")
        try:
            new = rendered(old, results)
        except ValueError as problem:
            raise ValueError(f"{path.relative_to(ROOT)}: {problem}") from None
        if new != old:
            found.append(f"{path.relative_to(ROOT)} is not what results/ says")
            if write:
                path.write_text(new, encoding="utf-8")
    return found


def main() -> None:
    """Renders all pages, or compares them."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a page is stale")
    chosen = options.parse_args()
    try:
        found = stale(Results(), write=not chosen.check)
    except ValueError as problem:
        sys.exit(str(problem))
    if chosen.check and found:
        sys.exit("\n".join([*found, "run: python benchmarks/render.py"]))
    print(
        "\n".join(line.replace(" is not what results/ says", " rendered") for line in found)
        or "all pages are up to date"
    )


if __name__ == "__main__":
    main()
