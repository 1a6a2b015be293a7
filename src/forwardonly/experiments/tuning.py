"""The report of a tuning: an HTML page in the run's folder, with the untouched model beside each epoch."""

import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Literal

from forwardonly.experiments import figures
from forwardonly.experiments.report import card, document, table
from forwardonly.network.storage import METRICS, read_config, read_history, write_atomically
from forwardonly.version import __version__

REPORT = "report.html"
TASK = {"validation_accuracy": "validation", "validation_cross_entropy": "validation loss"}
OTHER = {
    "other_accuracy": "other data",
    "other_probe_accuracy": "other data, probed",
    "other_cross_entropy": "other data, loss",
}
FIGURES = {**TASK, **OTHER}
"""Figures of the task and of what is forgotten, as far as a run has them, and their names in tables."""
OF_BLOCKS = {"block_accuracy": "accuracy", "block_perplexity": "perplexity"}
"""Figures that each block has by itself, and their names."""
DRAWN = 8
"""Blocks that have a curve, as many as there are colours; of more, so many evenly spaced ones."""
LISTED = 24
"""Epochs in the table; of more, so many evenly spaced ones."""
WIDE = 90
"""Letters of a line of the command."""
OPTION, UNBROKEN = re.compile(r"--\w+ [A-Z]+"), r'<code style="white-space: nowrap">\g<0></code>'
SETTINGS = ("rule", "epochs", "batch_size", "optimiser", "learning_rate", "heads_first", "body_rate", "layer_decay")


def write(run: Path, result: Mapping[str, Any], words: Sequence[str]) -> Path:
    """Writes the report of a finished tuning.

    Args:
        run: its folder.
        result: the object of its result.json.
        words: the command line that repeats it.

    Raises:
        ValueError: the run's config or metrics are damaged.
    """
    try:
        title, body = _body(read_config(run), read_history(run), result, words)
    except (KeyError, TypeError, IndexError, AttributeError) as problem:
        raise ValueError(f"{run / METRICS} or its config is damaged: {type(problem).__name__}.") from None
    path = run / REPORT
    write_atomically(path, document(title, body).encode())
    return path


def measured(
    before: Mapping[str, Any] | None, history: Sequence[Mapping[str, Any]]
) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table of figures: the untouched model first, then the epochs that were measured.

    Without a figure there is no row.
    """
    named = [("untouched", before or {}), *((f"epoch {row['epoch'] + 1}", row) for row in history)]
    known = [name for name in FIGURES if any(name in row for _, row in named)]
    rows = [[label, *(_cell(name, row.get(name)) for name in known)] for label, row in named if {*known} & {*row}]
    return ["", *map(FIGURES.__getitem__, known)], rows


def _body(
    config: Mapping[str, Any], history: Sequence[Mapping[str, Any]], result: Mapping[str, Any], words: Sequence[str]
) -> tuple[str, str]:
    data, depth, before = config["data"], len(config["network"]["cuts"]), result.get("before")
    title = f"{_short(data['model'])}, tuned on {_short(data['name'])}"
    blocks = f"{depth} blocks" if depth > 1 else "One block"
    tested = f" Test accuracy: {_cell('accuracy', own)}." if (own := result["test_accuracy"]) is not None else ""
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{blocks}, {result['epochs']} epochs, trained in {result['seconds']:.1f} s.{tested}</p>",
        *(f"<p>{escape(note)}</p>" for note in result.get("notes", ())),
        "<h2>The task, and what is forgotten</h2>",
        *(f'<p class="faint">{OPTION.sub(UNBROKEN, escape(sentence))}</p>' for sentence in _explained(history, result)),
    ]
    columns, rows = measured(before, [history[index] for index in _spaced(len(history), LISTED)])
    width: Literal["", "double"] = "double" if len(columns) > 3 else ""
    cards = [card("untouched, and after each epoch", table(columns, rows), width=width)] if rows else []
    parts.append(_grid([*cards, *_curves(before, history)]))
    parts.append(f"<h2>Block by block</h2>{_grid(_blocks(history, result, depth))}")
    costs = card("time and memory", table(["of the whole run", ""], _costs(result)))
    settings = card("settings", table(["option", "value"], _settings(config, result, depth)))
    versions = f"forwardonly {__version__}, PyTorch {result['torch']}, Python {platform.python_version()}."
    parts.append(
        f'<h2>How to repeat it</h2><p class="faint">{escape(versions)}</p>'
        f'<section class="card"><pre>{escape(_in_lines(words))}</pre></section><br>{_grid([costs, settings])}'
    )
    return title, "".join(parts)


def _explained(history: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> list[str]:
    """Sentences on what the figures are, and on the options that show those that the run did not measure."""
    said = []
    if not any(name in row for row in history for name in TASK):
        after = "" if result["test_accuracy"] is None else " before the test at the end"
        said.append(
            f"Nothing was held out, so the task is not measured{after}: --validation N shows it after each epoch."
        )
    if not any(name in row for row in history for name in OTHER):
        said.append("What is forgotten was not measured: --other DATA shows it, on data of another kind.")
    if any("other_probe_accuracy" in row for row in history):
        said.append("The other data have other classes: probed is what a ridge classifier reads off the network.")
    if len(history) > LISTED:
        said.append(f"The table has {LISTED} of {len(history)} epochs; {METRICS} has all.")
    return said


def _curves(before: Mapping[str, Any] | None, history: Sequence[Mapping[str, Any]]) -> list[str]:
    """One curve for each figure, from the untouched model, which is epoch 0, on."""
    cards = []
    for name, label in FIGURES.items():
        points = [(0, before or {}), *((row["epoch"] + 1, row) for row in history)]
        known = [(epoch, _scaled(name, row[name])) for epoch, row in points if name in row]
        if len(known) > 1:
            unit = f"{label} (%)" if name.endswith("accuracy") else label
            colour, of = (0, "task") if name in TASK else (1, "what is forgotten")
            line = figures.Line(label, colour, [epoch for epoch, _ in known], [value for _, value in known])
            first = "epoch; 0 is the untouched model" if known[0][0] == 0 else "epoch"
            cards.append(card(f"{of}: {unit}", figures.lines([line], first, unit)))
    return cards


def _blocks(history: Sequence[Mapping[str, Any]], result: Mapping[str, Any], depth: int) -> list[str]:
    """Curves of the blocks' own losses and figures, and what each has at the end."""
    chosen = _spaced(depth, DRAWN)
    legend = figures.legend([(f"block {block + 1}", colour) for colour, block in enumerate(chosen)])
    cards = []
    for name, label in {"loss": "training loss", **OF_BLOCKS}.items():
        rows = [row for row in history if row.get(name)]
        series = []
        for colour, block in enumerate(chosen):
            known = [(row["epoch"] + 1, row[name][block]) for row in rows if row[name][block] is not None]
            values = [_scaled(name, value) for _, value in known]
            if len(known) > 1:
                series.append(figures.Line(f"block {block + 1}", colour, [epoch for epoch, _ in known], values))
        if series:
            unit = f"{'' if name == 'loss' else 'validation '}{label}{' (%)' if name.endswith('accuracy') else ''}"
            cards.append(card(unit, legend + figures.lines(series, "epoch", unit)))
    for name, label in OF_BLOCKS.items():
        whole = name.removeprefix("block_")
        ends = {
            split: [*blocks, of_all]
            for split, blocks in (("validation", history[-1].get(name)), ("test", result.get(name)))
            if blocks and (of_all := result.get(f"{split}_{whole}")) is not None
        }
        if ends:
            named = [*(f"block {k + 1}" for k in range(depth)), "network"]
            last = [[named[k], *(_cell(name, values[k]) for values in ends.values())] for k in range(depth + 1)]
            cards.append(card(f"{label} at the end", table(["", *ends], last)))
    return cards


def _costs(result: Mapping[str, Any]) -> list[list[str]]:
    peak, plan = result.get("peak_memory_bytes"), result.get("plan")
    return [
        ["training", f"{result['seconds']:.1f} s"],
        *([["with reading and measuring", f"{result['total_seconds']:.1f} s"]] if "total_seconds" in result else []),
        *([["peak memory", f"{peak / 2**20:.0f} MiB"]] if peak else []),
        *([["idle blocks", "wait in files" if plan["offload"] else "stay in memory"]] if plan else []),
        ["device", result["device"]],
        ["precision", result["precision"]],
    ]


def _settings(config: Mapping[str, Any], result: Mapping[str, Any], depth: int) -> list[list[Any]]:
    data, training = config["data"], {**config["training"], "rule": config["network"]["rule"]["name"]}
    return [
        ["model", data["model"]],
        ["weights", data["weights"]],
        ["blocks", depth],
        *([["frozen weights", data["freeze"]]] if data.get("freeze") else []),
        ["data", data["name"]],
        *([["other data", data["other"]]] if data.get("other") else []),
        *([name.replace("_", " "), training[name]] for name in SETTINGS),
        *([["memory budget", training["memory_budget"]]] if training.get("memory_budget") else []),
        ["seed", result["seed"]],
    ]


def _in_lines(words: Sequence[str]) -> str:
    """A command line that goes on in further lines where an option begins."""
    lines = [""]
    for word in words:
        quoted = shlex.quote(word)
        if word.startswith("--") and len(lines[-1]) + len(quoted) > WIDE:
            lines.append("   ")
        lines[-1] += f" {quoted}" if lines[-1] else quoted
    return " \\\n".join(lines)


def _grid(cards: Sequence[str]) -> str:
    return f'<div class="grid" style="align-items: start">{"".join(cards)}</div>' if cards else ""


def _spaced(count: int, most: int) -> list[int]:
    """At most so many indices below `count`, evenly spaced, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]


def _short(name: str) -> str:
    """The last part of a path, and a name as it is."""
    return Path(name).name if "/" in name else name


def _scaled(name: str, value: float) -> float:
    return 100 * value if name.endswith("accuracy") else value


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.2f} %" if name.endswith("accuracy") else f"{value:.4f}"
