"""The log: every page has a question, a verdict and a commit, is in the index once, and its links resolve."""

import re
from pathlib import Path

import pytest

LOG = Path(__file__).parents[1] / "log"
PAGES = sorted(LOG.glob("[0-9]*.md"))
HEADING = re.compile(r"# .+\? (Positive|Negative|Mixed|Open): .+")
INDEX = re.compile(r"^- \[(?P<date>\d{4}-\d\d-\d\d) [^]]+\]\((?P<page>[^)]+)\): .+; (?P<verdict>\w+): ", re.MULTILINE)
LINK = re.compile(r"\[[^]]*\]\(([^)#\s]+)")


def entries():
    """(date, page, verdict) of each line of the index."""
    return INDEX.findall((LOG / "README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page(page):
    heading, _, facts, *_ = page.read_text(encoding="utf-8").splitlines()
    verdict = HEADING.fullmatch(heading)
    assert verdict, heading
    assert re.match(r"Commit: [0-9a-f]{7,40}\b", facts), facts
    assert all(f"{fact}: " in facts for fact in ("Machine", "Seeds", "Judged by")), facts
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-[a-z0-9-]+\.md", page.name)
    assert entries().count((page.name[:10], page.name, verdict[1].lower())) == 1


def test_the_index_holds_each_page_once_newest_first():
    dates, pages, _ = zip(*entries(), strict=True)
    assert sorted(pages) == [page.name for page in PAGES]
    assert list(dates) == sorted(dates, reverse=True)


def test_relative_links_lead_somewhere():
    for page in LOG.glob("*.md"):
        for link in LINK.findall(page.read_text(encoding="utf-8")):
            assert "://" in link or (page.parent / link).exists(), f"{page.name}: {link}"
