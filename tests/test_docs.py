"""Every code block in README and docs runs: Python blocks of a page one after another, shell lines through bash.

A block titled as a file is written to that file. `text` blocks are for looking at: layouts, and what does not end or
installs.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import forwardonly as fo
from forwardonly import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w*)(?: title=\"([\w.]+)\")?[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = ("python", "sh")


def blocks(page):
    """(language, title, content, line) of each fenced block."""
    text = page.read_text(encoding="utf-8")
    return [(match[1], match[2], match[3], text[: match.start()].count("\n") + 2) for match in BLOCK.finditer(text)]


WITH_CODE = [page for page in PAGES if any(language in RUN for language, *_ in blocks(page))]


def test_every_block_is_of_a_known_kind():
    for page in PAGES:
        assert page.read_text(encoding="utf-8").count("\n```") % 2 == 0, page
        for language, _, _, line in blocks(page):
            assert language in (*RUN, "text"), f"{page}:{line}: mark the block as python, sh or text"


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    tables = [dict(table) for table in _tables()]
    names = {"__name__": "__main__"}
    try:
        for language, title, content, line in blocks(page):
            if title:
                Path(title).write_text(content)
            elif language == "python":
                code = compile("\n" * (line - 1) + content, str(page), "exec")
                with contextlib.redirect_stdout(io.StringIO()):
                    exec(code, names)
            elif language == "sh":
                _shell(content, monkeypatch)
    finally:
        for table, then in zip(_tables(), tables, strict=True):  # what a page has added goes with it
            table.clear()
            table.update(then)
        for name in set(sys.modules) - before:
            if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
                del sys.modules[name]


def _tables():
    return fo.rules.TABLE, fo.bodies.TABLE


def _shell(content, monkeypatch):
    """Runs lines as a user would; a plain call of ours in this process, for starting PyTorch anew takes seconds."""
    for line in content.splitlines():
        words = shlex.split(line)
        if words[0] == "export":
            monkeypatch.setenv(*words[1].split("=", 1))
        elif words[0] == "forwardonly" or words[:3] == ["python", "-m", "forwardonly"]:
            if {"|", ">"}.isdisjoint(words):
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
                    status = cli.main(words[words.index("forwardonly") + 1 :])
                assert status == 0, f"{line}: {said.getvalue()}"
            else:
                _bash(line)
        else:
            _bash(line)


def _bash(line):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", line], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}: {done.stderr}"


def test_the_site_builds_without_a_warning(tmp_path):
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    api = (tmp_path / "site/api/index.html").read_text()
    assert "ForwardOnlyClassifier" in api and "learn" in api
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text()
        assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)="https?://', text), f"{page} loads from elsewhere"
