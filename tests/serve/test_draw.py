"""The page of the documentation on which a network learns from drawings, in a real browser without any other host.

The network is trained and exported anew, so that it is today's code's; onnxruntime-web is what `make draw` fetched.
"""

import functools
import http.server
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from .browser import chromium, installed, wait

ROOT = Path(__file__).parents[2]
RUNTIME = ROOT / "docs/draw/ort-wasm-simd-threaded.wasm"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(installed() is None, reason="there is no Chromium on this machine"),
    pytest.mark.skipif(not RUNTIME.exists(), reason="make draw, which needs npm, has not fetched onnxruntime-web"),
]

ZERO = [(0.5 + 0.17 * math.sin(t / 3), 0.5 - 0.3 * math.cos(t / 3)) for t in range(20)]
ONE = [(0.5, 0.2), (0.5, 0.5), (0.5, 0.8)]
SEVEN = [(0.3, 0.2), (0.5, 0.2), (0.7, 0.2), (0.6, 0.45), (0.5, 0.65), (0.45, 0.85)]
TRIANGLE = [(0.5, 0.2), (0.8, 0.8), (0.5, 0.8), (0.2, 0.8), (0.5, 0.2)]
WIDTHS = {"laptop": 1280, "phone": 390}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The page's address in the built site, which is served as plain files."""
    site = tmp_path_factory.mktemp("docs") / "site"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "NO_MKDOCS_2_WARNING": "1"}
    for words in (["-m", "mkdocs", "build", "--quiet", "--site-dir", site], ["docs/build_draw.py", site / "draw"]):
        done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/draw/"
        server.shutdown()


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture(params=WIDTHS)
def page(request, tab, address):
    """The page with its network loaded; on a phone it is touched."""
    tab.touched = request.param == "phone"
    tab.do("Emulation.setTouchEmulationEnabled", enabled=tab.touched)
    tab.events.clear()
    tab.open(address, width=WIDTHS[request.param])
    status(tab, "Draw a digit.")
    return tab


def status(page, part=""):
    """What the page says when it is done, which has `part` in it."""
    element = "document.getElementById('draw-{}')".format
    look = f"{element('opinions')}.ariaBusy === 'false' && {element('status')}.textContent"
    return wait(lambda: (text := page.run(look)) and part in text and text, f"“{part}”")


def click(page, selector):
    page.run(f"document.querySelector('{selector}').click()")


def draw(page, points):
    """One stroke, by mouse or finger."""
    canvas = "document.getElementById('draw-canvas')"
    page.run(f"{canvas}.scrollIntoView({{block: 'center'}})")
    box = page.run(f"(r => [r.x, r.y, r.width, r.height])({canvas}.getBoundingClientRect())")
    places = [(box[0] + x * box[2], box[1] + y * box[3]) for x, y in points]
    if page.touched:
        for kind, (x, y) in zip(["touchStart", *["touchMove"] * len(points)], places, strict=False):
            page.do("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y}])
        page.do("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    else:
        for kind, (x, y) in zip(["mousePressed", *["mouseMoved"] * len(points)], places, strict=False):
            page.do("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
        page.do("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, button="left", clickCount=1)
    assert status(page).startswith("It looks like")
    return status(page)


def scores(page):
    """A row a digit, of the scores of the blocks and the network."""
    rows = page.run(
        "[...document.querySelectorAll('#draw-body tr')].map(row => [...row.cells].map(x => x.textContent))"
    )
    return [[float(text.replace("−", "-")) for text in row[1:]] for row in rows]


def learn(page, label):
    click(page, f"#draw-labels label:nth-of-type({label + 1}) input")
    click(page, "#draw-learn")
    return status(page, f"Learned as a {label}")


def test_it_sees_what_is_drawn_and_shows_every_blocks_opinion(page, tmp_path):
    for digit, points in ((0, ZERO), (1, ONE), (7, SEVEN)):
        click(page, "#draw-clear")
        status(page, "Draw a digit.")
        assert f"like a {digit}" in draw(page, points)
        table = scores(page)
        assert [len(row) for row in table] == [4] * 10
        assert max(range(10), key=lambda c: table[c][3]) == digit
        assert all(abs(sum(row[:3]) / 3 - row[3]) < 0.011 for row in table)
    assert page.run("document.querySelectorAll('.draw-won').length") == 4
    assert page.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_it_learns_what_is_drawn_and_forgets_it(page):
    first = draw(page, TRIANGLE)
    untaught = scores(page)
    assert "like a 5" not in first
    seen = [untaught[5][3]]
    for lesson in range(1, 6):
        if lesson > 1:
            draw(page, TRIANGLE)  # the stroke after a lesson begins a new drawing
            assert scores(page)[5][3] == seen[-1]
        assert f"Steps so far: {lesson}." in learn(page, 5)
        seen.append(scores(page)[5][3])
    assert seen == sorted(seen) and seen[-1] > seen[0] + 0.3
    assert "like a 5: 3 of 3" in status(page, "Learned as a 5")
    click(page, "#draw-reset")
    assert first in status(page, "is forgotten")
    assert scores(page) == untaught


def test_it_says_what_is_missing_for_a_lesson(page):
    click(page, "#draw-learn")
    status(page, "Draw a digit first.")
    draw(page, ONE)
    click(page, "#draw-learn")
    status(page, "Choose what it is first.")


def test_one_draws_by_keyboard(page):
    page.run("document.getElementById('draw-clear').focus()")
    page.run("document.getElementById('draw-canvas').focus()")
    for key in [" ", *["ArrowDown"] * 12, " "]:
        page.press(key)
    assert "like a 1" in status(page, "It looks like")
    page.press("Tab")
    assert page.run("document.activeElement.id") == "draw-clear"
    used = "[...document.querySelectorAll('.draw :is(canvas, input, button)')]"
    names = page.run(f"{used}.map(x => x.ariaLabel || (x.labels?.[0] || x).textContent)")
    assert len(names) == 15 and all(names)


def test_it_says_when_the_site_was_built_without_the_network(tab, address):
    tab.do("Network.setBlockedURLs", urls=["*prediction.onnx"])
    tab.open(address, width=1280)
    status(tab, "run “make draw” first.")
    tab.do("Network.setBlockedURLs", urls=[])


def test_it_asks_nobody_else_and_has_no_errors(page, address):
    draw(page, ONE)
    learn(page, 3)
    asked = [event["request"]["url"] for event in page.seen("Network.requestWillBeSent")]
    assert any("training-step.onnx" in url for url in asked)
    assert all(url.startswith((address.removesuffix("draw/"), "blob:", "data:")) for url in asked), asked
    assert page.seen("Runtime.exceptionThrown") == []
    assert [entry for entry in page.seen("Log.entryAdded") if entry["entry"]["level"] == "error"] == []
