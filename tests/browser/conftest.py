"""The built site, served, and one browser for all tests of this folder."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import chromium
import pytest
from building import built
from drawn import FIGURES, html_of, made
from figures.base import Figure
from figures.scripts import site_script
from playwright.sync_api import Browser, BrowserContext, Page, expect

from .figure_page import STYLES, WINDOW, Shown, page_of, shown

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
    """The built book."""
    if chromium.find() is None:
        pytest.skip(chromium.MISSING)
    return built()


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
        page.add_script_tag(content=site_script())
        expect(page.locator("[data-wn-ready]")).to_have_count(1)
        return page

    yield page_of
    assert said == []


@pytest.fixture(scope="module", params=FIGURES)
def figure_name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="package")
def figure_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("figures")
    for style in STYLES:
        (folder / style.name).write_bytes(style.read_bytes())
    (folder / "basic.css").touch()  # Sphinx writes it; the theme imports it
    (folder / "figures.js").write_text(site_script(), encoding="utf-8")
    with chromium.served(folder) as address:
        yield address, folder


@pytest.fixture(scope="module")
def figure_address(figure_home: tuple[str, Path], figure_name: str) -> str:
    """Where the figure's pages are, `{name}-light.html` and `{name}-dark.html`."""
    address, folder = figure_home
    if not (folder / f"{figure_name}.js").exists():
        figure = made(figure_name)
        (folder / f"{figure_name}.js").write_text(figure._esm, encoding="utf-8")
        (folder / f"{figure_name}.json").write_text(json.dumps(figure.state()), encoding="utf-8")
        for theme in ("light", "dark"):
            path = folder / f"{figure_name}-{theme}.html"
            path.write_text(page_of(html_of(figure_name), theme), encoding="utf-8")
    return address


@pytest.fixture(scope="module")
def light(browser: Browser, figure_address: str, figure_name: str) -> Iterator[Shown]:
    """A figure in the light, for all tests of a file; the console stays silent."""
    context = browser.new_context(viewport=WINDOW, color_scheme="light")
    page = shown(context, figure_address, figure_name, "light")
    yield page
    context.close()
    assert page.visit.problems + page.said == []


@pytest.fixture(scope="module")
def dark(browser: Browser, figure_address: str, figure_name: str) -> Iterator[Shown]:
    """The same in the dark, and for a reader who wants no motion."""
    context = browser.new_context(viewport=WINDOW, color_scheme="dark", reduced_motion="reduce")
    page = shown(context, figure_address, figure_name, "dark")
    yield page
    context.close()
    assert page.visit.problems + page.said == []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each tool that tests were skipped for want of."""
    reasons = (report.longrepr for report in terminalreporter.stats.get("skipped", []))
    texts = (reason[2] for reason in reasons if isinstance(reason, tuple))
    wanting = Counter(t.removeprefix("Skipped: ") for t in texts if "Skipped: needs " in t)
    for reason, tests in wanting.items():
        terminalreporter.write_line(f"{tests} tests skipped: each {reason}", yellow=True)
