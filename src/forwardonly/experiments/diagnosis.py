"""A run's diagnosis as an HTML page with figures, in the run's folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from forwardonly.experiments import figures
from forwardonly.experiments.report import card, document, table
from forwardonly.network.storage import METRICS, read_history, write_atomically

QUANTITIES = {
    "margin": "margin",
    "prior_margin": "prior margin",
    "attenuation": "attenuation R",
    "starvation": "starvation",
    "separation": "separation",
    "accuracy": "own accuracy",
}


def write(run: Path, found: Mapping[str, Any]) -> Path:
    """Draws the result of `measure.diagnose`, and its history if the run was trained with `--diagnose`.

    Raises:
        ValueError: the run's metrics are damaged.
    """
    try:
        body = _body(run, found)
    except (KeyError, TypeError, IndexError, AttributeError) as problem:
        raise ValueError(f"{run / METRICS} is damaged: {type(problem).__name__} in a row.") from None
    path = run / "diagnosis.html"
    write_atomically(path, document(f"{run.resolve().name}: block by block", body).encode())
    return path


def _body(run: Path, found: Mapping[str, Any]) -> str:
    rows = [
        [f"block {k + 1}", *(f"{block[name]:.4g}" for name in QUANTITIES)] for k, block in enumerate(found["blocks"])
    ]
    body = [
        f"<h1>{run.resolve().name}: block by block</h1>",
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
    body += _assignments(run, found["assignments"], [block["accuracy"] for block in found["blocks"]])
    return "".join(body)


def _assignments(run: Path, found: Sequence[Mapping[str, Any]], accuracies: Sequence[float]) -> list[str]:
    """Each block's channel-class assignment as a heat map, and its entropy over training."""
    if not found:
        return []
    cards = [
        card(
            f"block {one['block'] + 1}: entropy {one['entropy']:.3g}, own accuracy {accuracies[one['block']]:.1%}",
            figures.heat(one["weights"], "channels, sorted by class", "class"),
        )
        for one in found
    ]
    history = [row for row in read_history(run) if "assignment_entropy" in row]
    if history:
        epochs = [row["epoch"] + 1 for row in history]
        series = [
            figures.Line(
                f"block {one['block'] + 1}",
                one["block"] % 8,
                epochs,
                [row["assignment_entropy"][one["block"]] for row in history],
            )
            for one in found
        ]
        figure = figures.lines(series, "epoch", "nats a channel")
        cards.append(card("entropy of the assignment in training", figure))
    return ["<h2>which channel votes for which class</h2>", f'<div class="grid">{"".join(cards)}</div>']


def _history(run: Path) -> list[dict[str, Any]]:
    """The epochs in which free-riding was measured."""
    return [row for row in read_history(run) if "free_riding" in row]


def _curve(history: list[dict[str, Any]], name: str, label: str) -> str:
    epochs = [row["epoch"] + 1 for row in history]
    depth = len(history[0]["free_riding"]["blocks"])
    series = [
        figures.Line(f"block {k + 1}", k % 8, epochs, [row["free_riding"]["blocks"][k][name] for row in history])
        for k in range(depth)
    ]
    return figures.lines(series, "epoch", label)
