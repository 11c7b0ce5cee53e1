"""Opens every page of the built documentation in headless Chromium, and uses the live page.

    mkdocs build --strict --site-dir SITE && python tests/browser.py SITE [--screenshots FOLDER]

Needs Chromium or Chrome on the path and the package `websockets` (it speaks the DevTools protocol).
Not part of the test suite.
"""

import argparse
import base64
import functools
import http.server
import json
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from websockets.sync.client import connect

DESKTOP, PHONE = (1280, 900), (390, 844)
SCREENSHOTS = ["", "guide/", "live/", "tutorials/analytic/", "tutorials/pointmaze/", "estimators/"]
SCREENSHOTS += ["own/", "analyses/", "costs/", "api/guidance/", "api/data/"]


class Site(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextmanager
def served(folder):
    handler = functools.partial(Site, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextmanager
def chromium():
    found = filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"]))
    program = next(found, None)
    if program is None:
        raise SystemExit("no chromium, chromium-browser or google-chrome on the path")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        # No name but the site's own resolves: what a worker asks of another host fails too.
        flags += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        flags += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
        browser = subprocess.Popen([program, *flags], stderr=subprocess.DEVNULL)
        try:
            port = until(lambda: (Path(profile) / "DevToolsActivePort").read_text().split()[0])
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                page = next(t for t in json.load(answer) if t["type"] == "page")
            with connect(page["webSocketDebuggerUrl"], max_size=None, proxy=None) as socket:
                yield Tab(socket)
        finally:
            browser.terminate()
            browser.wait()


def until(ask, seconds=20):
    """The first truthy answer."""
    end = time.monotonic() + seconds
    while True:
        try:
            if answer := ask():
                return answer
        except (OSError, IndexError):
            pass
        assert time.monotonic() < end, "the browser does not get there"
        time.sleep(0.05)


class Tab:
    def __init__(self, socket):
        self.socket, self.count, self.events = socket, 0, []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        # The theme stores its colours, and would keep those of the page before.
        forget = "try { localStorage.clear() } catch {}"
        self.call("Page.addScriptToEvaluateOnNewDocument", source=forget)

    def call(self, method, **params):
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(timeout=60))
            if message.get("id") == self.count:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self.events.append((message["method"], message["params"]))

    def js(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(self, url, size=DESKTOP, scheme="light", motion="reduce"):
        phone = size == PHONE
        # A page that sees the colour scheme change would store its palette for the next.
        self.call("Page.navigate", url="about:blank")
        until(lambda: self.js("location.href === 'about:blank'"))
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": motion},
        ]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.events.clear()
        self.call("Page.navigate", url=url)
        plain = url.split("#")[0]  # the live page writes what is set behind it
        here = f"location.href.split('#')[0] === {plain!r}"
        until(lambda: self.js(f"{here} && document.readyState === 'complete'"))
        self.settle()

    def settle(self):
        """Two frames later, everything that an event set off has been drawn."""
        frames = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        self.call("Runtime.evaluate", expression=frames, awaitPromise=True)

    def press(self, key, code=0):
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code
            )
        self.settle()

    def complaints(self, url):
        """Console errors, uncaught exceptions, and requests to other hosts."""
        host = urllib.parse.urlsplit(url).netloc
        for method, params in self.events:
            if method == "Runtime.exceptionThrown":
                yield params["exceptionDetails"]
            if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
                yield params["args"]
            if method == "Log.entryAdded" and params["entry"]["level"] == "error":
                yield params["entry"]
            if method == "Network.requestWillBeSent":
                asked = urllib.parse.urlsplit(params["request"]["url"])
                if asked.scheme not in ("data", "blob") and asked.netloc != host:
                    yield asked.geturl()

    def screenshot(self, path):
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        shot = self.call(
            "Page.captureScreenshot", clip={**size, "scale": 1}, captureBeyondViewport=True
        )
        path.write_bytes(base64.b64decode(shot["data"]))


def check_every_page(tab, root, pages):
    for page in pages:
        for size in (DESKTOP, PHONE):
            tab.open(root + page, size)
            complaints = list(tab.complaints(root))
            assert not complaints, (page, complaints)
            broken = tab.js("[...document.images].filter((i) => !i.naturalWidth).map((i) => i.src)")
            assert not broken, (page, broken)
        width = tab.js("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")
        assert width <= PHONE[0], f"{page} is {width} pixels wide on a phone"


def check_formulas(tab, root):
    tab.open(root + "estimators/")
    count = "document.querySelectorAll('{}').length"
    written = tab.js(count.format(".arithmatex"))
    assert written > 5 and tab.js(count.format(".arithmatex .katex-html")) == written
    assert not tab.js(count.format(".katex-error"))


def check_search(tab, root):
    tab.open(root)
    tab.js("document.querySelector('[data-md-component=search-query]').focus()")
    tab.call("Input.insertText", text="qgf_jacobian")
    results = "[...document.querySelectorAll('.md-search-result__link')].map((a) => a.href)"
    assert any("api/guidance" in link for link in until(lambda: tab.js(results)))


def check_live_page(tab, root):
    tab.open(root + "live/")
    bars = "document.querySelector('.live-law .live-method').getAttribute('d')"
    cells = (
        "[...document.querySelectorAll('.live-numbers td:nth-child(2)')].map((c) => c.textContent)"
    )
    qgf, ood, flow = (int(cell.removesuffix(" %")) for cell in until(lambda: tab.js(cells)))
    assert qgf >= 99 and ood == 0 and 35 < flow < 45

    before = tab.js(bars), tab.js(cells)
    tab.js("document.querySelector('[name=weight]').focus()")
    tab.press("Home", 36)
    assert tab.js("document.querySelector('[name=weight]').value") == "0"
    assert tab.js(bars) != before[0]
    assert tab.js(cells) == [before[1][2]] * 3, "weight 0 is the plain flow"

    before = tab.js(bars)
    tab.js("document.querySelector('.live-handle').focus()")
    tab.press("ArrowUp", 38)
    assert tab.js("document.activeElement.ariaValueNow") == "1.1"
    assert tab.js(bars) != before

    at = tab.js("(({x, y}) => [x + 9, y + 9])(document.activeElement.getBoundingClientRect())")
    for kind, down in (("mousePressed", 0), ("mouseMoved", -60), ("mouseReleased", -60)):
        mouse = {"x": at[0], "y": at[1] + down, "button": "left", "buttons": 1, "clickCount": 1}
        tab.call("Input.dispatchMouseEvent", type=kind, **mouse)
    tab.settle()
    assert float(tab.js("document.activeElement.ariaValueNow")) > 2

    said = until(lambda: tab.js("document.querySelector('[role=status]').textContent"))
    assert said.startswith("Within 0.5 of a*"), said
    tab.js("document.querySelector('.live [type=reset]').click()")
    until(lambda: tab.js(cells)[1:] == ["0 %", f"{flow} %"])
    assert not list(tab.complaints(root))

    tab.open(root + "live/#method=bptt&weight=2.5&modes=-1,0.5,9&target=1&steps=no")
    field = "document.querySelector('.live').elements.{}.value"
    places = "[...document.querySelectorAll('.live-handle')].map((h) => h.ariaValueNow)"
    values = [tab.js(field.format(name)) for name in ("method", "other", "weight", "steps")]
    assert values == ["bptt", "ood", "2.5", "10"]
    assert tab.js(places) == ["-1.0", "0.5", "7.0", "1.0"]
    presets = tab.js("document.querySelectorAll('.live-presets a').length")
    seen = set()
    for i in range(presets):
        tab.js(f"document.querySelectorAll('.live-presets a')[{i}].click()")
        tab.settle()
        wanted = tab.js(f"document.querySelectorAll('.live-presets a')[{i}].hash")
        assert tab.js("location.hash") == wanted, "the address is the preset's"
        seen.add(tuple(tab.js(cells)))
    assert presets == len(seen) == 5

    moving = "document.querySelector('.live-flow').getAnimations().length"
    assert not tab.js(moving), "reduced motion is not respected"
    play = "document.querySelector('[name=play]')"
    for text, state in (("Pause", "running"), ("Play", "paused"), ("Pause", "running")):
        tab.js(f"{play}.click()")
        assert tab.js(f"{play}.textContent") == text
        found = tab.js("document.querySelector('.live-flow').getAnimations()[0].playState")
        assert found == state
    until(lambda: tab.js(f"{play}.textContent") == "Play")
    tab.open(root + "live/", motion="no-preference")
    assert tab.js(moving) == 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path)
    parser.add_argument("--screenshots", type=Path)
    arguments = parser.parse_args()
    found = sorted(p.relative_to(arguments.site) for p in arguments.site.rglob("*.html"))
    pages = [str(p).removesuffix("index.html") for p in found]
    assert pages, "no pages there"
    with served(arguments.site) as root, chromium() as tab:
        check_every_page(tab, root, pages)
        check_formulas(tab, root)
        check_search(tab, root)
        check_live_page(tab, root)
        if arguments.screenshots:
            arguments.screenshots.mkdir(parents=True, exist_ok=True)
            for page in SCREENSHOTS:
                for name, size in (("desktop", DESKTOP), ("phone", PHONE)):
                    for scheme in ("light", "dark"):
                        tab.open(root + page, size, scheme)
                        shown = tab.js("document.body.dataset.mdColorScheme")
                        assert shown == {"light": "default", "dark": "slate"}[scheme], (page, shown)
                        title = page.strip("/").replace("/", "-") or "index"
                        tab.screenshot(arguments.screenshots / f"{title}-{name}-{scheme}.png")
    print(
        f"{len(pages)} pages: no errors, no other hosts, no overflow; formulas, search and the live page work"
    )


if __name__ == "__main__":
    main()
