"""Limits of lines: no file of Python is as long as CONTRIBUTING.md forbids, which says the limits."""

import inspect
import re
from pathlib import Path

import forwardonly as fo

ROOT = Path(__file__).parents[1]


def limit(of: str) -> int:
    """The lines that CONTRIBUTING.md says a file is under."""
    (found,) = re.findall(rf"{of} is under (\d+) lines", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    return int(found)


def test_every_file_is_under_its_limit():
    rule, other = limit("A rule's file"), limit("Any other file")
    rules = {Path(inspect.getfile(fo.rules.rule_class(entry))) for entry in fo.rules.TABLE.values()}
    files = {path for folder in ("src", "tests", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py")}
    assert rules <= files
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    long = [path for path in sorted(files) if lines[path] >= (rule if path in rules else other)]
    assert not long, "\n" + "\n".join(f"{path.relative_to(ROOT)}: {lines[path]} lines" for path in long)
