"""A chapter at first sight and on the way down: the figure first, little code, whole equations."""

import re
from collections.abc import Iterator

import pytest
from chromium import Visit
from execute import pages
from playwright.sync_api import Browser

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

# Of folded cells without anything between them: how many bars, how many cells.
FOLDS = """
() => {
  const rows = [];
  let last = null;
  for (const fold of document.querySelectorAll("div.cell > details.above-input")) {
    const cell = fold.parentElement;
    const follows = last && cell.previousElementSibling === last
      && !last.querySelector(":scope > .cell_output");
    if (!follows) rows.push([0, 0]);
    const row = rows.at(-1);
    row[0] += fold.querySelector("summary").checkVisibility();
    row[1] += 1;
    last = cell;
  }
  return rows;
}"""
OPEN = "(() => document.querySelectorAll('details.above-input[open]').length)"


@pytest.fixture(scope="module", params=CHAPTERS, ids=lambda name: name.removeprefix("book/"))
def visit(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Visit]:
    context = browser.new_context(viewport=SIZES["laptop"])
    yield Visit(context, address, f"{request.param}.html")
    context.close()


def test_the_first_figure_is_on_the_first_screen(visit: Visit) -> None:
    top = visit.page.evaluate(FIRST_FIGURE)
    assert top is not None
    assert top < SIZES["laptop"]["height"] - 100, "at least its upper edge is to be seen"


def test_a_quarter_of_the_page_is_code_at_most(visit: Visit) -> None:
    assert visit.page.evaluate(CODE_SHARE) <= 0.25


@pytest.mark.parametrize("size", SIZES)
def test_no_equation_is_wider_than_its_column(visit: Visit, size: str) -> None:
    page = visit.page
    page.set_viewport_size(SIZES[size])
    assert page.evaluate(WIDE_EQUATIONS) == []


def test_folded_cells_in_a_row_have_one_bar(visit: Visit) -> None:
    """It opens them all, and closes them; so does what opens one of them, as a search does."""
    page = visit.page
    page.set_viewport_size(SIZES["laptop"])
    rows = page.evaluate(FOLDS)
    assert all(bars == 1 for bars, _ in rows)
    several = [at for at, (_, cells) in enumerate(rows) if cells > 1]
    for at in several[:1]:
        page.locator("details.above-input > summary:visible").nth(at).click()
        page.wait_for_function(f"{OPEN}() === {rows[at][1]}")
        page.locator("details.above-input[open]").last.evaluate("(fold) => (fold.open = false)")
        page.wait_for_function(f"{OPEN}() === 0")
