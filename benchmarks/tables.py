"""What the generated tables share: Markdown, and how a figure or a machine is written."""

import re
import statistics
from collections.abc import Sequence

from lines import Line

NOT_MEASURED = "not measured"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def processor(machine: str) -> str:
    """The part of a machine's name that tells it from the others of these files."""
    found = re.search(r"Zen \d|Xeon", machine)
    return found[0] if found else machine


def spread(values: Sequence[float], places: int) -> str:
    """The mean, and the deviation of several."""
    mean = f"{statistics.mean(values):.{places}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{places}f}"


def gib(arm: Line) -> str:
    """The median of an arm's peak memory in GiB."""
    return f"{statistics.median(arm['peak_memory_bytes']) / 2**30:.2f}"
