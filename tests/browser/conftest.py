"""The built site, served, and one browser for all tests of this folder."""

import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import chromium
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from wnlib.widgets.base import Figure

ROOT = Path(__file__).parent.parent.parent
THEMES = "@media (prefers-color-scheme: dark) { body { background: #121212; color: #e6e6e6 } }"


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    # Not longer than this package: Playwright keeps an event loop, which others would trip over.
    if chromium.find() is None:
        pytest.skip(chromium.MISSING)
    with chromium.launched() as launched:
        yield launched


@pytest.fixture(scope="package")
def site() -> Path:
    """The built book; `make site` does nothing where it is newer than its sources."""
    if chromium.find() is None:
        pytest.skip(chromium.MISSING)
    done = subprocess.run(
        ["make", "--no-print-directory", "site"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, f"`make site` fails:\n{done.stderr}"
    return ROOT / "_build" / "html"


@pytest.fixture(scope="package")
def address(site: Path) -> Iterator[str]:
    """Where the book is served, with a slash at the end."""
    with chromium.served(site) as address:
        yield address


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A reader who has never been here, with a light system."""
    context = browser.new_context(viewport=chromium.DESKTOP, color_scheme="light")
    yield context
    context.close()


@pytest.fixture
def show(context: BrowserContext) -> Iterator[Callable[[Figure], Page]]:
    """Puts a figure on a page of its own; the console stays silent."""
    said = []

    def page_of(figure: Figure) -> Page:
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.set_content(
            f"<!doctype html><html lang='en'><title>t</title><style>{THEMES}</style>"
            f"<main><h1>t</h1>{figure.html()}</main>"
        )
        expect(page.locator("[data-wn-ready]")).to_have_count(1)
        return page

    yield page_of
    assert said == []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each tool that tests were skipped for want of."""
    reasons = (report.longrepr for report in terminalreporter.stats.get("skipped", []))
    texts = (reason[2] for reason in reasons if isinstance(reason, tuple))
    wanting = Counter(t.removeprefix("Skipped: ") for t in texts if "Skipped: needs " in t)
    for reason, tests in wanting.items():
        terminalreporter.write_line(f"{tests} tests skipped: each {reason}", yellow=True)
