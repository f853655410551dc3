"""Every page of the book as a reader meets it: in both themes, on a phone, by keyboard, offline."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import chromium
import pytest
from chromium import Visit
from execute import pages
from playwright.sync_api import Browser, BrowserContext, expect

from . import checks


@pytest.fixture(scope="module", params=pages(), ids=lambda name: Path(name).name)
def visit(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Visit]:
    """One page, opened once for all its tests: setting a long page's formulas takes a second."""
    context = browser.new_context(viewport=chromium.DESKTOP, color_scheme="light")
    yield Visit(context, address, f"{request.param}.html")
    context.close()


def follow_system(visit: Visit, theme: Literal["light", "dark"]) -> None:
    """The page follows the reader's system while they have not chosen themselves."""
    visit.page.emulate_media(color_scheme=theme)
    expect(visit.page.locator("html")).to_have_attribute("data-theme", theme)


def test_heading_and_title(visit: Visit) -> None:
    heading = visit.page.locator("main h1:visible")
    assert heading.count() == 1
    said = re.sub(r"^[\d.]+ |#$", "", heading.inner_text()).strip()
    assert said
    assert said in visit.page.title()


def test_images(visit: Visit) -> None:
    assert checks.images(visit.page) == []


def test_accessible(visit: Visit) -> None:
    assert checks.accessibility(visit.page) == []


def test_accessible_in_the_dark(visit: Visit) -> None:
    follow_system(visit, "dark")
    found = checks.accessibility(visit.page, colours_only=True)
    follow_system(visit, "light")
    assert found == []


def test_theme_switch(visit: Visit) -> None:
    """Each picture is there in both themes, and follows as soon as the switch is pressed."""
    page = visit.page
    light = checks.shown_images(page)
    checks.switch_theme(page)
    dark = checks.shown_images(page)
    assert len(light) == len(dark)
    assert not set(light) & set(dark)
    figures = page.locator("[data-wn-figure]").count()
    is_chapter = re.search(r"/\d\d-[\w-]+\.html$", page.url)
    assert light or figures or not is_chapter, "a chapter without a plot"
    checks.switch_theme(page)
    assert checks.shown_images(page) == light
    page.evaluate("() => localStorage.clear()")


def test_on_a_phone(visit: Visit) -> None:
    assert checks.wider_than_a_phone(visit.page) == []


def test_focus_is_visible(visit: Visit) -> None:
    assert checks.focus(visit.page) == []


def test_skip_link(visit: Visit) -> None:
    """The first press of Tab offers the way past the menus; Enter takes it."""
    page = visit.page
    page.reload()
    page.keyboard.press("Tab")
    link = page.locator(":focus")
    expect(link).to_have_text("Skip to main content")
    expect(link).to_be_in_viewport()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    inside = "() => document.activeElement.closest('main, .bd-main, #main-content') !== null"
    assert page.evaluate(inside)


def test_nothing_was_complained_of(visit: Visit) -> None:
    """Last, so that it sees what the other tests set off; the requests of axe-core are off."""
    assert visit.problems == []


def test_the_first_address_leads_to_the_first_page(context: BrowserContext, address: str) -> None:
    visit = Visit(context, address, "", leads_to="book/intro.html")
    assert visit.problems == []


def test_search(context: BrowserContext, address: str) -> None:
    """By keyboard: from the menu's field to a page that holds the word."""
    visit = Visit(context, address, "book/intro.html")
    page = visit.page
    page.keyboard.press("Control+k")
    page.keyboard.type("whitening")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=whitening")
    results = page.locator("#search-results ul.search > li")
    expect(results.filter(has_text="CIFAR-10").first).to_contain_text("hitening")
    page.wait_for_load_state("networkidle")  # who leaves earlier breaks off the other excerpts
    page.locator("#search-results li a").filter(has_text="CIFAR-10").first.click()
    page.wait_for_url("**/book/cifar-10.html**")
    chromium.settled(page)
    assert visit.problems == []


def test_search_page(context: BrowserContext, address: str) -> None:
    visit = Visit(context, address, "search.html?q=momentum")
    expect(visit.page.locator("#search-results li").first).to_be_visible()
    assert checks.accessibility(visit.page) == []
    assert checks.wider_than_a_phone(visit.page) == []
    assert visit.problems == []
