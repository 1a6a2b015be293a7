"""Generated tables of papers: their figures, and ours by the recipes of `forwardonly reproduce`."""

import re
from collections.abc import Callable

from lines import Results, accuracy
from tables import NOT_MEASURED, table

from forwardonly.experiments.recipes import SCALES, TABLE, Row

OTHER = "other options"
"""The scale of lines that stand beside a paper's figure but were not trained by the recipe's own options."""


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
