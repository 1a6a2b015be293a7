"""Writes every generated table and figure into README.md and the pages of docs/: python benchmarks/render.py [--check]

A table stands between `<!-- begin:NAME -->` and `<!-- end:NAME -->`, a figure between `<!--f EXPRESSION-->` and
`<!--/-->`; `results/README.md` says what an expression is. With --check nothing is written: each page that differs from
what the lines of `results/` say is named, and the exit status is 1.
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from lines import ROOT, Results
from tables_accuracy import best, fast, headline
from tables_device import device, device_accuracy, device_new_class, federated, new_class, new_class_steps
from tables_models import models, models_counted
from tables_papers import PAPERS, reproduced
from tables_speed import busy, memory, parallel_model, processes, steps, whole_runs
from tables_tuning import large_model, transfer, tune_image, tune_image_memory, tune_memory, tune_text

BLOCK = re.compile(r"(<!-- begin:(\S+) -->\n).*?(<!-- end:\2 -->)", re.DOTALL)
FIGURE = re.compile(r"(<!--f (.+?)-->).*?(<!--/-->)")
BEGINS = re.compile(r"^\s*(?:[-*>] +)?<!--f (.+?)-->", re.MULTILINE)
"""A figure at the start of a line: Markdown takes the line for HTML and ends the paragraph there."""
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
