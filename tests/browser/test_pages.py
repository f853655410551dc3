"""Every page of the book as a reader meets it: in both themes, on a phone, by keyboard, offline.

And a chapter at first sight and on the way down: the figure first, little code, whole equations.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import chromium
import pytest
from chromium import Visit
from execute import pages
from playwright.sync_api import Browser, BrowserContext, expect

from . import checks, measure

CHAPTERS = [name for name in pages() if re.match(r"book/\d", name)]
SIZES = {"laptop": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844}}
FIRST_FIGURE = """
() => {
  const figures = document.querySelectorAll(
    "main [data-wn-figure], main .cell_output img, main figure img");
  const first = [...figures].find((figure) => figure.checkVisibility());
  return first ? first.getBoundingClientRect().top + scrollY : null;
}"""
CODE_SHARE = """
() => {
  const height = (element) => element.getBoundingClientRect().height;
  const cells = [...document.querySelectorAll("main div.cell_input")];
  const shown = cells.filter((cell) => cell.checkVisibility());
  return shown.reduce((sum, cell) => sum + height(cell), 0)
    / height(document.querySelector("main article"));
}"""
WIDE_EQUATIONS = """
() => [...document.querySelectorAll("main mjx-container[display=true]")]
  .filter((e) => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1)
  .map((e) => `${e.closest("div.math")?.id}: ${e.scrollWidth} px in ${e.clientWidth} px`)"""

# The first figure of a page, and what folds or shows code before it.
BARS = """
() => {
  const seen = "[data-wn-figure], .cell_output img, figure img, details, .cell_input";
  const all = [...document.querySelectorAll("main article :is(" + seen + ")")];
  const shown = all.filter((element) => element.checkVisibility());
  const first = shown.findIndex((element) => !element.matches("details, .cell_input"));
  return shown.slice(0, first).map((element) => element.outerHTML.slice(0, 100));
}"""
of_chapters = pytest.mark.parametrize(
    "visit", CHAPTERS, indirect=True, ids=lambda name: Path(name).name
)


@pytest.fixture(scope="module", params=pages(), ids=lambda name: Path(name).name)
def visit(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Visit]:
    """One page, opened once for all its tests: setting a long page's formulas takes a second."""
    # Without motion: half faded in, a tooltip has colors that nobody chose.
    calm = {"color_scheme": "light", "reduced_motion": "reduce"}
    context = browser.new_context(viewport=chromium.DESKTOP, **calm)
    yield Visit(context, address, f"{request.param}.html")
    context.close()


def follow_system(visit: Visit, theme: Literal["light", "dark"]) -> None:
    """The page follows the reader's system while they have not chosen themselves."""
    visit.page.emulate_media(color_scheme=theme)
    expect(visit.page.locator("html")).to_have_attribute("data-theme", theme)


def test_skip_link(visit: Visit) -> None:
    """The first press of Tab offers the way past the menus; Enter takes it. First of all tests."""
    page = visit.page
    page.keyboard.press("Tab")
    link = page.locator(":focus")
    expect(link).to_have_text("Skip to main content")
    expect(link).to_be_in_viewport()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    inside = "() => document.activeElement.closest('main, .bd-main, #main-content') !== null"
    assert page.evaluate(inside)


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
    found = checks.accessibility(visit.page, colors_only=True)
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


@of_chapters
def test_the_first_figure_is_on_the_first_screen(visit: Visit) -> None:
    visit.page.set_viewport_size(SIZES["laptop"])
    top = visit.page.evaluate(FIRST_FIGURE)
    assert top is not None
    assert top < SIZES["laptop"]["height"] - 100, "at least its upper edge is to be seen"


@of_chapters
def test_a_quarter_of_the_page_is_code_at_most(visit: Visit) -> None:
    assert visit.page.evaluate(CODE_SHARE) <= 0.25


@of_chapters
@pytest.mark.parametrize("size", SIZES)
def test_no_equation_is_wider_than_its_column(visit: Visit, size: str) -> None:
    page = visit.page
    page.set_viewport_size(SIZES[size])
    found = page.evaluate(WIDE_EQUATIONS)
    page.set_viewport_size(chromium.DESKTOP)
    assert found == []


@of_chapters
def test_no_code_stands_before_the_first_figure(visit: Visit) -> None:
    assert visit.page.evaluate(BARS) == []


def test_a_chapter_is_light() -> None:
    """With the pictures that it loads from files; and so is the whole."""
    (_, whole), *chapters = measure.sizes()
    assert whole < 32  # a third of it is what a press on *Train here* loads
    assert {name: size for name, size in chapters if size > 1.5} == {}


def test_nothing_was_complained_of(visit: Visit) -> None:
    """Last, so that it sees what the other tests set off; the requests of axe-core are off."""
    assert visit.problems == []


def test_the_first_address_leads_to_the_first_page(context: BrowserContext, address: str) -> None:
    visit = Visit(context, address, "", leads_to="book/intro.html")
    assert visit.problems == []


@pytest.mark.parametrize("kind", ["served", "a file"])
def test_search(context: BrowserContext, address: str, site: Path, kind: str) -> None:
    """By keyboard: from the menu's field to a page with the word marked, which nothing keeps."""
    home = address if kind == "served" else f"{site.as_uri()}/"
    visit = Visit(context, home, "book/intro.html")
    page = visit.page
    page.keyboard.press("Control+k")
    page.keyboard.type("whitening")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=whitening")
    link = page.locator("a[href*='cifar-10.html']").first
    result = page.locator("#search-results ul.search > li").filter(has=link).first
    expect(result).to_be_visible()
    if kind == "served":
        expect(result).to_contain_text("hitening")  # an excerpt
        page.wait_for_load_state("networkidle")  # who leaves earlier breaks off the others
    result.locator(link).focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/book/cifar-10.html**")
    expect(page.locator("main .highlighted").first).to_have_text(re.compile("whitening", re.I))
    assert "sphinx_highlight_terms" not in page.evaluate("() => Object.keys(localStorage)")
    page.goto(f"{home}book/intro.html")
    chromium.settled(page)
    expect(page.locator(".highlighted")).to_have_count(0)
    assert visit.problems == []


def test_search_page(context: BrowserContext, address: str) -> None:
    visit = Visit(context, address, "search.html?q=momentum")
    expect(visit.page.locator("#search-results li").first).to_be_visible()
    assert checks.accessibility(visit.page) == []
    assert checks.wider_than_a_phone(visit.page) == []
    assert visit.problems == []
