"""A real browser, driven by its debugging protocol, with the operations that the page's tests need."""

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # no other host is reached
    "--no-default-browser-check",  # nor anything else that asks another host, or opens a tab, at the start
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
)
STARTS = 3
DROPS = 5


def installed():
    """The path of a Chromium on this machine, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextlib.contextmanager
def chromium(folder: Path):
    """A headless browser with a fresh profile in `folder`; yields its page.

    Now and then, on a busy machine, one comes up but draws nothing for minutes, and does not take what is dropped on
    it either. It makes way for another before a test meets it.
    """
    for start in range(1, STARTS + 1):
        with contextlib.ExitStack() as stack:
            try:
                page = stack.enter_context(started(folder / str(start)))
                page.open("about:blank", width=380)
                page.do("Page.captureScreenshot", captureBeyondViewport=True)
            except TimeoutError:
                if start == STARTS:
                    pytest.skip(f"Chromium draws not even an empty page here, {STARTS} times started")
                continue
            yield page
            return


@contextlib.contextmanager
def started(folder: Path):
    folder.mkdir()
    with (folder / "chromium.log").open("wb") as sink:
        process = subprocess.Popen(
            [installed(), *FLAGS, "--remote-debugging-port=0", f"--user-data-dir={folder / 'profile'}", "about:blank"],
            stdout=sink,
            stderr=sink,
        )
        try:
            port = wait(lambda: (folder / "profile/DevToolsActivePort").read_text().split()[0], "the browser")
            tabs = wait(lambda: pages(port), "a tab")
            with connect(tabs[0]["webSocketDebuggerUrl"], max_size=None, open_timeout=60) as socket:
                yield Page(socket)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def pages(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=30) as reply:
        return [tab for tab in json.load(reply) if tab["type"] == "page"]


def wait(look, what, seconds=60):
    """What `look` gives as soon as it gives something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError, IndexError, KeyError):
            if found := look():
                return found
        time.sleep(0.1)
    raise TimeoutError(f"{what} did not come within {seconds} s")


class Page:
    """One tab."""

    def __init__(self, socket):
        self.socket = socket
        self.numbers = itertools.count(1)
        self.events = []
        for domain in ("Page", "Runtime", "DOM", "Network", "Log"):
            self.do(f"{domain}.enable")

    def do(self, method, **parameters):
        """One command of the protocol, and its result; TimeoutError if nothing comes for a minute."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=60))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def open(self, address, *, width, height=900, dark=False):
        """Goes to an address as a screen of that width would."""
        self.do("Page.bringToFront")  # a tab behind another one is not drawn
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.do("Emulation.setEmulatedMedia", features=[scheme])
        self.do("Page.navigate", url=address)
        wait(lambda: self.run("document.readyState") == "complete", "the page")

    def run(self, script):
        """The value of a JavaScript expression."""
        reply = self.do("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    def drop(self, path, selector):
        """Drops a file on an element, as a hand would.

        Now and then, on a busy machine, the page is entered twice and the file never falls; it is dropped again then.
        """
        self.run("addEventListener('drop', () => { window.dropped = true; }, { capture: true, once: true })")
        for _ in range(DROPS):
            self._drop(path, selector)
            with contextlib.suppress(TimeoutError):
                wait(lambda: self.run("window.dropped"), "the drop", seconds=10)
                return
        raise TimeoutError(f"the page took no notice of what was dropped on it, {DROPS} times")

    def _drop(self, path, selector):
        x, y = self.run(
            f"(() => {{ const r = document.querySelector('{selector}').getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.do("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def choose(self, path, selector):
        """Gives a file to a file input."""
        root = self.do("DOM.getDocument")["root"]["nodeId"]
        node = self.do("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.do("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def press(self, key):
        """One key, down and up."""
        for kind in ("keyDown", "keyUp"):
            self.do(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode={"Tab": 9}.get(key, 0)
            )

    def screenshot(self, path):
        """The whole page as a PNG file."""
        shot = self.do("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def seen(self, method):
        """The parameters of all events of one kind so far."""
        return [event["params"] for event in self.events if event.get("method") == method]
