"""A run's diagnosis as figures: one HTML file in the run's folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forwardonly.experiments import figures
from forwardonly.experiments.report import card, document, table
from forwardonly.storage import write_atomically

QUANTITIES = {
    "margin": "margin",
    "prior_margin": "prior margin",
    "attenuation": "attenuation R",
    "starvation": "starvation",
    "separation": "separation",
    "accuracy": "own accuracy",
}


def write(run: Path, found: Mapping[str, Any]) -> Path:
    """Draws what `measure.diagnose` found, and how it came about if the run was trained with `--diagnose`."""
    rows = [
        [f"block {k + 1}", *(f"{block[name]:.4g}" for name in QUANTITIES)] for k, block in enumerate(found["blocks"])
    ]
    body = [
        f"<h1>{run.resolve().name}: free-riding</h1>",
        card("on the test images", table(["", *QUANTITIES.values()], rows)),
    ]
    if found["law_slope"] is not None:
        body.append(
            f"<p>Slope of log R on P: {found['law_slope']:.4f}; -beta gamma is {found['law_predicted']:.4f}.</p>"
        )
    history = _history(run)
    if history:
        key = [(f"block {k + 1}", k % 8) for k in range(len(found["blocks"]))]
        cards = [card(label, _curve(history, name, label)) for name, label in QUANTITIES.items()]
        body.append(f"<h2>in training, on the validation images</h2>{figures.legend(key)}")
        body.append(f'<div class="grid">{"".join(cards)}</div>')
    path = run / "diagnosis.html"
    write_atomically(path, document(f"{run.resolve().name}: free-riding", "".join(body)).encode())
    return path


def _history(run: Path) -> list[dict[str, Any]]:
    """The epochs in which free-riding was measured."""
    try:
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []
    return [row for row in rows if "free_riding" in row]


def _curve(history: list[dict[str, Any]], name: str, label: str) -> str:
    epochs = [row["epoch"] + 1 for row in history]
    depth = len(history[0]["free_riding"]["blocks"])
    series = [
        figures.Line(f"block {k + 1}", k % 8, epochs, [row["free_riding"]["blocks"][k][name] for row in history])
        for k in range(depth)
    ]
    return figures.lines(series, "epoch", label)
