"""A chapter on paper, or as a PDF: what is read, and nothing that only a screen can do."""

from collections.abc import Iterator

import chromium
import pytest
from chromium import Visit
from playwright.sync_api import Browser, Page, expect

CHAPTER = "book/02-weight-normalization.html"
BEFORE = "() => dispatchEvent(new Event('beforeprint'))"
SEEN = "(nodes) => nodes.filter((node) => node.checkVisibility()).map((node) => node.outerHTML)"


@pytest.fixture(scope="module")
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A chapter in the dark, as it is about to be printed."""
    context = browser.new_context(viewport=chromium.DESKTOP, color_scheme="dark")
    visit = Visit(context, address, CHAPTER)
    expect(visit.page.locator("html")).to_have_attribute("data-theme", "dark")
    visit.page.emulate_media(media="print", color_scheme="dark")
    visit.page.evaluate(BEFORE)
    yield visit.page
    context.close()
    assert visit.problems == []


def test_it_is_light_and_turns_dark_again(page: Page) -> None:
    root = page.locator("html")
    expect(root).to_have_attribute("data-theme", "light")
    page.evaluate("() => dispatchEvent(new Event('afterprint'))")
    expect(root).to_have_attribute("data-theme", "dark")
    page.evaluate(BEFORE)
    expect(root).to_have_attribute("data-theme", "light")


def test_the_chapter_is_there(page: Page) -> None:
    expect(page.locator("h1:visible")).to_have_count(1)
    figure = page.locator(".wn-figure").first
    expect(figure.locator("svg").first).to_be_visible()
    expect(figure.locator("figcaption")).to_be_visible()
    expect(page.locator("div.cell_output img:visible").first).to_be_visible()
    expect(page.locator("mjx-container[display=true]").first).to_be_visible()


@pytest.mark.parametrize(
    "what",
    [
        *(".bd-sidebar-primary", ".bd-sidebar-secondary", ".bd-header-article", ".prev-next-area"),
        *(".copybtn", ".headerlink", "summary", ".wn-downloads"),
        *(".wn-figure .controls", ".wn-figure button", ".wn-figure input"),
    ],
)
def test_nothing_of_the_screen_is(page: Page, what: str) -> None:
    nodes = page.locator(what)
    assert nodes.count() > 0, "there is no such thing on a screen either"
    assert nodes.evaluate_all(SEEN) == []


def test_it_fits_a_sheet(page: Page) -> None:
    """The width of A4 between its margins; nothing is cut at the right."""
    page.set_viewport_size({"width": 673, "height": 986})
    wide = page.evaluate("() => document.documentElement.scrollWidth")
    page.set_viewport_size(chromium.DESKTOP)
    assert wide <= 673
