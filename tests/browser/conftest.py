"""The built site, served, and one browser for all tests of this folder."""

import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import chromium
import pytest
from playwright.sync_api import Browser, BrowserContext

ROOT = Path(__file__).parent.parent.parent


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each tool that tests were skipped for want of."""
    reasons = (report.longrepr for report in terminalreporter.stats.get("skipped", []))
    texts = (reason[2] for reason in reasons if isinstance(reason, tuple))
    wanting = Counter(t.removeprefix("Skipped: ") for t in texts if "Skipped: needs " in t)
    for reason, tests in wanting.items():
        terminalreporter.write_line(f"{tests} tests skipped: each {reason}", yellow=True)
