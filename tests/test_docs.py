"""Documentation: every code block in README and docs runs, Python blocks of a page in order, shell lines through bash.

A block titled as a file is written to that file. `text` blocks are not run: layouts, and commands that do not end or
that install packages. The site builds with warnings as errors, and no link on it, in the README or in the log is dead.
"""

import contextlib
import inspect
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import forwardonly as fo
from forwardonly import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w*)(?: title=\"([\w.]+)\")?[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = ("python", "sh")
NEEDS = re.compile(r"<!-- needs: (.+?) -->")
"""Programs, besides Python's, that a page's blocks run."""


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
    if found := NEEDS.match(page.read_text(encoding="utf-8")):
        missing = [program for program in found[1].split() if shutil.which(program) is None]
        if missing:
            pytest.skip(f"not installed: {', '.join(missing)}")
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
    for line in content.replace("\\\n", "").splitlines():
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


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site's folder, and what mkdocs said while it built it: with warnings as errors, and none hidden."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return folder, said


@pytest.fixture(scope="module")
def links(site):
    """Of each page of the site: what it refers to, and its anchors."""
    return {page: _Links.of(page) for page in site[0].rglob("*.html")}


class _Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.targets, self.anchors, self.loaded = [], {""}, []

    @classmethod
    def of(cls, page):
        parser = cls()
        parser.feed(page.read_text(encoding="utf-8"))
        return parser

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        for name in ("href", "src"):
            if given.get(name):
                self.targets.append(given[name])
                if tag in ("script", "link", "img"):
                    self.loaded.append(given[name])


def test_the_site_builds_without_a_warning(site):
    _, said = site
    assert "WARNING" not in said, said


def test_the_site_loads_nothing_from_elsewhere(links):
    for page, found in links.items():
        assert not [each for each in found.loaded if urlsplit(each).netloc], page


def test_every_link_of_the_site_leads_somewhere(site, links):
    folder, _ = site
    dead = []
    for page, found in links.items():
        for target in found.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            base = folder if parts.path.startswith("/") else page.parent  # 404.html does
            path = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else page
            path = path / "index.html" if path.is_dir() else path
            if not path.exists():
                dead.append(f"{page.relative_to(folder)}: {target}")
            elif path.suffix == ".html" and unquote(parts.fragment) not in links[path].anchors:
                dead.append(f"{page.relative_to(folder)}: no anchor for {target}")
    assert not dead, "\n".join(dead)


def test_every_option_of_a_rule_that_a_page_names_is_one():
    rules = [fo.rules.rule_class(entry) for entry in fo.rules.TABLE.values()]
    known = {field.name.replace("_", "-") for rule in rules for field in fields(rule)}
    known |= {f"no-{name}" for name in known}
    for page in PAGES:
        named = set(re.findall(r"--rule\.([a-z-]+)", page.read_text(encoding="utf-8")))
        assert named <= known, f"{page}: no rule has {sorted(named - known)}"


IN_REPOSITORY = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples/README.md",
    *(ROOT / "log").rglob("*.md"),
]
LINK = re.compile(r"\]\(<?([^)\s>]+)>?[^)]*\)")


@pytest.mark.parametrize("page", IN_REPOSITORY, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_of_a_page_outside_the_site_leads_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in LINK.findall(re.sub(r"`[^`\n]*`", "", text)):
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            continue
        path = page.parent / unquote(parts.path) if parts.path else page
        assert path.exists(), f"{page}: {target}"
        if parts.fragment and path.suffix == ".md":
            assert parts.fragment in _headings(path), f"{page}: no heading for {target}"


def _headings(page):
    """The anchors that GitHub and mkdocs make of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.replace("`", "").strip().lower()).replace(" ", "-") for title in titles}


PACKAGES = (fo, fo.rules, fo.bodies, fo.training, fo.measure, fo.data)


def test_the_api_page_has_every_public_class_and_function(links, site):
    anchors = links[site[0] / "api/index.html"].anchors
    paths = {}  # of each object, for one may be public in two places and is documented once
    for package in PACKAGES:
        for name in package.__all__:
            thing = getattr(package, name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                own = f"{thing.__module__}.{thing.__qualname__}"
                paths.setdefault(own, {own}).add(f"{package.__name__}.{name}")
    missing = [own for own, each in paths.items() if not each & anchors]
    assert not missing, f"docs/api.md lacks {missing}"
    assert "forwardonly.estimator.ForwardOnlyClassifier" in anchors
