"""A Chromium that is on this machine, driven by Playwright; it reaches no other host.

Visits are watched: what a page said on the console, what it asked for and did not get.
"""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import (
    Browser,
    BrowserContext,
    Page,
    ViewportSize,
    sync_playwright,
)

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NAMES += ("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",)
MISSING = "needs Chromium or Chrome: apt install chromium (Debian), or any installed Chrome"
FLAGS = (
    *("--no-sandbox", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--no-proxy-server"),
    # No name is looked up: a page that asks another host fails, with a network or without.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
DESKTOP: ViewportSize = {"width": 1280, "height": 900}


def find() -> str | None:
    """The path of the first Chromium or Chrome there is."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def launched() -> Iterator[Browser]:
    """A running browser without a window; `MISSING` as a LookupError where there is none."""
    path = find()
    if path is None:
        raise LookupError(MISSING)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address, ending in a slash, under which a thread serves this folder."""
    with serving(partial(Quiet, directory=folder)) as address:
        yield address


@contextmanager
def serving(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """The same for what a request handler makes up."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


class Visit:
    """A page; what it `said` in anger, asked others for (`foreign`), or did not get (`failed`).

    Its own are the addresses that begin with `home`. `leads_to`, where it forwards.
    """

    def __init__(
        self, context: BrowserContext, home: str, path: str, leads_to: str | None = None
    ) -> None:
        self.home = home
        self.said: list[str] = []
        self.foreign: list[str] = []
        self.failed: list[str] = []
        page = self.page = context.new_page()
        page.on("console", lambda m: self._said(m.type, f"{m.text} ({m.location['url']})"))
        page.on("pageerror", lambda error: self._said("error", str(error)))
        page.on("request", lambda request: self._asked(request.url))
        page.on("requestfailed", lambda r: self.failed.append(f"{r.url}: {r.failure}"))
        page.on("response", lambda r: self.failed.append(r.url) if r.status >= 400 else None)
        page.goto(home + path)
        if leads_to is not None:
            page.wait_for_url(home + leads_to)
        settled(page)

    def _said(self, kind: str, text: str) -> None:
        if kind in {"error", "warning", "assert"}:
            self.said.append(f"{kind}: {text}")

    def _asked(self, url: str) -> None:
        if not url.startswith((self.home, "data:", "blob:")):
            self.foreign.append(url)

    @property
    def problems(self) -> list[str]:
        """What a visitor's developer tools would show in red or yellow."""
        return [
            *self.said,
            *(f"asks another host: {url}" for url in self.foreign),
            *(f"did not get: {url}" for url in self.failed),
        ]


def settled(page: Page) -> None:
    """Wait until the formulas are set, and whatever their setting has asked for is there."""
    page.evaluate("() => window.MathJax?.startup?.promise")
