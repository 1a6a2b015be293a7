"""The page in a real browser, at the widths of a laptop and of a phone."""

import pytest
import torch

import forwardonly as fo

from .browser import chromium, installed, wait
from .conftest import serving

pytestmark = pytest.mark.skipif(installed() is None, reason="there is no Chromium on this machine")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("browser")) as page:
        yield page


def answered(page):
    said = "verdict.textContent"
    try:
        return wait(lambda: (text := page.run(said)).startswith("It is") and text, "an answer")
    except TimeoutError as late:
        raise TimeoutError(f"{late}: the page says “{page.run(said)}”") from None


@pytest.mark.parametrize(("width", "dark"), [(380, False), (380, True), (1280, False), (1280, True)])
def test_a_dropped_image_shows_every_blocks_scores(page, address, picture, tmp_path, width, dark):
    page.open(address, width=width, dark=dark)
    page.drop(picture, "#drop")
    assert answered(page).startswith("It is 7")
    assert page.run("changes.textContent") == "The image was resized from 64 x 64 to 8 x 8, colour made grey."
    assert page.run("[...head.querySelectorAll('th')].map(x => x.textContent)") == [
        "class",
        "block 1",
        "block 2",
        "block 3",
        "network",
    ]
    assert page.run("body.rows.length") == 10
    assert page.run("[...body.rows[0].cells].at(-1).classList.contains('won')")
    assert page.run("body.querySelectorAll('.won').length") == 4
    assert page.run("preview.complete && preview.naturalWidth") == 64
    assert page.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    ground = page.run("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(20, 24, 26)") is dark
    page.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("targets", "said", "column", "won"),
    [("labels", "It has digit (", "label", True), ("number", "The number is ", "number", False)],
)
def test_labels_and_numbers_are_said_as_such(page, picture, digits, tmp_path, targets, said, column, won):
    train = digits.train
    wanted = {"labels": torch.stack([train.labels >= 0, train.labels < 0], 1).float(), "number": train.labels.float()}
    rule = fo.rules.Projection(classes=2 if targets == "labels" else 1, targets=targets)
    names = {"classes": ("digit", "letter")} if targets == "labels" else {}
    net = fo.mlp(train.shape, [16], rule=rule)
    fo.fit(net, (train.images, wanted[targets]), epochs=2, out=tmp_path / "run", precision="fp32", **names)
    with serving(tmp_path / "run", tmp_path) as at:
        page.open(at, width=1280)
        page.drop(picture, "#drop")
        answer = wait(lambda: not page.run("wide.hidden") and page.run("verdict.textContent"), "an answer")
        assert answer.startswith(said)
        assert page.run("head.querySelector('th').textContent") == column
        assert page.run("body.querySelectorAll('.won').length > 0") is won


def test_it_works_by_keyboard_and_shows_where_one_is(page, address, picture):
    page.open(address, width=1280)
    page.press("Tab")
    assert page.run("document.activeElement.id") == "file"
    assert page.run("getComputedStyle(drop).outlineStyle") == "solid"
    page.choose(picture, "#file")
    answered(page)
    page.press("Tab")
    assert page.run("document.activeElement.id") == "wide"
    assert page.run("getComputedStyle(wide).outlineStyle") == "solid"


def test_a_file_that_is_no_image_is_refused_in_words(page, address, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image at all")
    page.open(address, width=380)
    page.drop(bad, "#drop")
    text = wait(lambda: page.run("verdict.classList.contains('problem') && verdict.textContent"), "a refusal")
    assert "bad.png" in text
    assert page.run("wide.hidden")


def test_the_page_asks_nobody_else_and_has_no_errors(page, address, picture):
    page.events.clear()
    page.open(address, width=1280)
    page.drop(picture, "#drop")
    answered(page)
    asked = [event["request"]["url"] for event in page.seen("Network.requestWillBeSent")]
    assert asked and all(url.startswith((address, "blob:", "data:")) for url in asked)
    assert page.seen("Runtime.exceptionThrown") == []
    assert [entry for entry in page.seen("Log.entryAdded") if entry["entry"]["level"] == "error"] == []
