"""Generated tables of models that have learned before: tuned, read while frozen, or larger than memory."""

import statistics

from lines import Line, Results
from tables import gib, processor, spread, table

TUNED = {
    "untouched": "untouched",
    "end-to-end": "end to end",
    "checkpointed": "end to end, with checkpoints",
    "lora": "LoRA, with checkpoints",
    "frozen-half": "lower half frozen",
    "local": "local, {blocks} blocks",
}


def saved(arm: Line) -> str:
    """What an arm saves for the backward pass, in MiB; nothing where that was not measured."""
    return f"{arm['saved_bytes'][0] / 2**20:.0f}" if "saved_bytes" in arm else ""


def tune_text(results: Results) -> str:
    """A language model tuned in several ways, on two tasks."""
    tasks = [results.timing(name) for name in ("tuning/text/python", "tuning/text/manual")]
    rows = []
    for arm, name in TUNED.items():
        own = [task["arms"].get(arm) for task in tasks]
        first = own[0]
        if first is None:
            continue
        cells = [spread(task[figure], 3) if task else "" for task in own for figure in ("loss", "other_loss")]
        if arm == "checkpointed":  # to the bit, which is tested
            cells = ["as above"] * len(cells)
        cost = ["", ""] if arm == "untouched" else [gib(first), f"{statistics.median(first['seconds']):.0f}"]
        rows.append([name.format(blocks=first.get("blocks")), *cells, saved(first), *cost])
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
            spread([100 * share for share in task[arm][figure]], 1) if arm in task else ""
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
            peak = arms[arm]["peak_memory_bytes"][0]
            rows.append([name, saved(arms[arm]), f"{peak / 2**20:.0f}", f"{peak / whole:.2f}"])
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
        accuracies = [spread([100 * share for share in own[arm]["accuracy"]], 2) for own in sets]
        first = sets[0][arm]
        rows.append([words, *accuracies, gib(first), f"{statistics.median(first['seconds']):.0f}"])
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
