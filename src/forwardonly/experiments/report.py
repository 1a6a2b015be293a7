"""The report of a comparison: one self-contained HTML file, in light and dark mode, for laptop and phone."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Literal

from forwardonly.experiments import figures
from forwardonly.experiments.batch import Finished
from forwardonly.measure.statistics import mean_interval
from forwardonly.network.storage import write_atomically
from forwardonly.version import __version__

Groups = Mapping[tuple[str, str], Sequence[Finished]]

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --card: #f6f7f9; --ink: #1c2024; --faint: #5c6670;
  --rule: #d9dee4;
  --s0: #0067a8; --s1: #c24e00; --s2: #007a58; --s3: #a8438a; --s4: #8a6a00; --s5: #7a4fc9; --s6: #5b5b5b;
  --s7: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --card: #1c2126; --ink: #e8eaed; --faint: #a2acb6;
  --rule: #343b43; --s0: #56b4e9; --s1: #f28c4a; --s2: #3dc79b; --s3: #e495c6; --s4: #e3b83a; --s5: #b79cf5;
  --s6: #b5b5b5;
  --s7: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1200px; padding: 16px; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
h3 { font-size: .95rem; margin: 0 0 .4rem; } p { max-width: 70ch; } .faint { color: var(--faint); font-size: .9rem; }
.grid { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 360px), 1fr)); }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 12px; min-width: 0; }
.wide { grid-column: 1 / -1; } @media (min-width: 800px) { .double { grid-column: span 2; } }
.scroll { overflow-x: auto; background: linear-gradient(90deg, transparent, var(--card) 70%) right / 48px 100% local,
  linear-gradient(90deg, transparent, var(--rule)) right / 24px 100%; background-repeat: no-repeat; }
table { border-collapse: collapse; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: 5px 12px 5px 0; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 7.5em; }
th { color: var(--faint); font-weight: 600; white-space: normal; vertical-align: bottom; }
@media (max-width: 480px) { table { font-size: .8rem; } th, td { padding-right: 8px; }
  th:first-child, td:first-child { position: sticky; left: 0; background: var(--card); } }
svg { display: block; width: 100%; height: auto; max-width: 640px; } svg text { fill: var(--ink);
  font: 12px system-ui, sans-serif; }
svg .tick { fill: var(--faint); font-size: 11px; } svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .line { fill: none; stroke: var(--c); stroke-width: 2; } svg .band { fill: var(--c); opacity: .15; }
svg .cell { fill: var(--s0); } svg .dot { fill: var(--c); fill-opacity: .75; stroke: var(--paper); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 16px; margin: .4rem 0; padding: 0;
  font-size: .9rem; }
.key { display: inline-block; width: 14px; height: 4px; margin-right: 6px; vertical-align: middle;
  background: var(--c); }
pre { margin: 0; overflow-x: auto; font: 13px/1.5 ui-monospace, monospace; }
""" + "".join(f".s{index} {{ --c: var(--s{index}); }} " for index in range(8))


@dataclass(frozen=True)
class Content:
    """Content of a report: runs by (data set, arm), the arms' figures, the tests, HTML put before them, and notes."""

    title: str
    groups: Groups
    arms: Sequence[Mapping[str, Any]]
    tests: Sequence[Mapping[str, Any]]
    before: str = ""
    notes: Sequence[str] = field(default_factory=tuple)


def write(path: Path, content: Content) -> None:
    """Writes the report."""
    write_atomically(path, page(content).encode())


def page(content: Content) -> str:
    """The report as HTML."""
    names = list(dict.fromkeys(arm for _, arm in content.groups))
    colours = {name: index % 8 for index, name in enumerate(names)}
    body = [f"<h1>{escape(content.title)}</h1>"]
    body += [f"<p>{escape(note)}</p>" for note in content.notes]
    body.append(content.before)
    for data in dict.fromkeys(data for data, _ in content.groups):
        groups = {arm: runs for (name, arm), runs in content.groups.items() if name == data}
        body.append(f"<h2>{escape(data)}: test accuracy</h2>{figures.legend([*colours.items()])}")
        body.append(_accuracy(data, groups, content, colours))
        body.append(f"<h2>{escape(data)}: learning</h2>{figures.legend([*colours.items()])}")
        body.append(f'<div class="grid">{"".join(_curves(groups, colours))}</div>')
    body.append("<h2>Time and memory</h2>" + card("mean over seeds, most memory of any", _costs(content.groups)))
    body.append("<h2>How to repeat it</h2>" + _commands(content.groups))
    return document(content.title, "".join(body))


def document(title: str, body: str) -> str:
    """A self-contained HTML page."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
        f'initial-scale=1"><title>{escape(title)}</title><style>{STYLE}</style></head><body>{body}</body></html>\n'
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """An HTML table whose first column is text."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    cells = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{cells}</tbody></table></div>'


def card(title: str, content: str, *, width: Literal["", "double", "wide"] = "") -> str:
    """A titled box, as wide as one column, as two, or as the page."""
    return f'<section class="card {width}"><h3>{escape(title)}</h3>{content}</section>'


def percent(share: float | None) -> str:
    """A fraction as a percentage, `–` for none."""
    return "–" if share is None else f"{100 * share:.2f}"


def p_value(p: float | None) -> str:
    """A p-value as text."""
    return "–" if p is None else "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def interval(ends: Sequence[float] | None, scale: float = 1.0) -> str:
    """An interval in brackets."""
    return "–" if ends is None else f"[{scale * ends[0]:.2f}, {scale * ends[1]:.2f}]"


def _accuracy(data: str, groups: Mapping[str, Sequence[Finished]], content: Content, colours: Mapping[str, int]) -> str:
    arms = [arm for arm in content.arms if arm["data"] == data]
    tests = [test for test in content.tests if test["data"] == data]
    rows = []
    for arm in arms:
        values = [100 * value for value in arm["test_accuracy"]]
        rows.append((arm["rule"], colours[arm["rule"]], values, mean_interval(values)))
    parts = [card("a point a seed; mean and its 95 % interval", figures.dots(rows, "test accuracy (%)"))]
    depth = max(len(arm["block_accuracy"]) for arm in arms)
    parts.append(
        card(
            "accuracy (%), mean over seeds",
            table(
                ["rule", "mean", "std", "n", *(f"block {k + 1}" for k in range(depth))],
                [
                    [
                        a["rule"],
                        percent(a["mean"]),
                        percent(a["std"]),
                        len(a["seeds"]),
                        *map(percent, a["block_accuracy"]),
                    ]
                    for a in arms
                ],
            ),
            width="double",
        )
    )
    if tests:
        tested = table(
            ["a − b", "difference", "95 % interval", "p", "p (Holm)", "Cohen's d", "95 % interval"],
            [
                [
                    f"{test['a']} − {test['b']}",
                    f"{100 * test['difference']:+.2f}",
                    interval(test["difference_ci"], 100),
                    p_value(test["p"]),
                    p_value(test["p_holm"]),
                    "–" if test["cohens_d"] is None else f"{test['cohens_d']:.2f}",
                    interval(test["cohens_d_ci"]),
                ]
                for test in tests
            ],
        )
        parts.append(card("paired t-tests over seeds, in points of accuracy", tested, width="wide"))
    return f'<div class="grid">{"".join(parts)}</div>'


def _curves(groups: Mapping[str, Sequence[Finished]], colours: Mapping[str, int]) -> list[str]:
    """One figure per block and quantity: validation accuracy where it was measured, loss, the rule's gamma."""
    depth = max(len(row["loss"]) for runs in groups.values() for row in runs[0].history)
    parts = []
    for key, label, scale in (
        ("block_accuracy", "validation accuracy (%)", 100.0),
        ("loss", "loss", 1.0),
        ("gamma", "gamma", 1.0),
    ):
        for block in range(depth):
            series = [
                line
                for arm, runs in groups.items()
                if (line := _mean_line(arm, colours[arm], runs, key, block, scale)) is not None
            ]
            if series:
                parts.append(card(f"block {block + 1}: {label}", figures.lines(series, "epoch", label)))
    return parts


def _mean_line(
    arm: str, colour: int, runs: Sequence[Finished], key: str, block: int, scale: float
) -> figures.Line | None:
    """The mean over seeds of one block's number in each epoch where it was measured, and the range over seeds."""
    histories = [
        {
            row["epoch"]: scale * row[key][block]
            for row in run.history
            if len(row.get(key, ())) > block
            and row[key][block] is not None
            and (key != "loss" or row.get("block", block) == block)
        }
        for run in runs
    ]
    epochs = sorted(set.intersection(*(set(history) for history in histories)))
    epochs = epochs[:: max(1, len(epochs) // 200)]
    if not epochs:
        return None
    columns = [[history[epoch] for history in histories] for epoch in epochs]
    return figures.Line(
        arm,
        colour,
        [epoch + 1 for epoch in epochs],
        [sum(column) / len(column) for column in columns],
        [min(column) for column in columns],
        [max(column) for column in columns],
    )


def _costs(groups: Groups) -> str:
    rows = []
    for (data, arm), runs in groups.items():
        phases = [_seconds_of_blocks(run) for run in runs]
        of_blocks = [f"{sum(column) / len(column):.1f}" for column in zip(*phases, strict=True)] if all(phases) else []
        rows.append(
            [
                f"{arm} on {data}",
                f"{sum(run.result['seconds'] for run in runs) / len(runs):.1f}",
                " + ".join(of_blocks) or "trained together",
                f"{max(run.result['peak_memory_bytes'] for run in runs) / 2**20:.0f}",
                runs[0].result["device"],
                runs[0].result["precision"],
            ]
        )
    return table(["arm", "training (s)", "of which blocks 1, 2, ...", "peak memory (MiB)", "device", "precision"], rows)


def _seconds_of_blocks(run: Finished) -> list[float]:
    """Training time of each block in seconds, where blocks were trained one after another."""
    if "block" not in run.history[0]:
        return []
    seconds = [0.0] * len(run.history[0]["loss"])
    for row in run.history:
        seconds[row["block"]] += row["seconds"]
    return seconds


def _commands(groups: Groups) -> str:
    runs = [run for group in groups.values() for run in group]
    torch = ", ".join(sorted({run.result["torch"] for run in runs}))
    commands = escape("\n".join(run.job.command for run in runs))
    return (
        f'<p class="faint">forwardonly {__version__}, PyTorch {escape(torch)}, Python {platform.python_version()}, '
        f"{len(runs)} runs. Accuracies are those of the last epoch's weights.</p>"
        f'<section class="card"><pre>{commands}</pre></section>'
    )
