"""One figure, twice, on a page of the book's look; and what can be asked of it there."""

from dataclasses import dataclass
from pathlib import Path

import pydata_sphinx_theme
import sphinx_book_theme
from chromium import Visit
from playwright.sync_api import BrowserContext, Locator, Page

ROOT = Path(__file__).parent.parent.parent
THEMES = ((pydata_sphinx_theme, "pydata_sphinx_theme"), (sphinx_book_theme, "sphinx_book_theme"))
STYLES = [
    path
    for theme, name in THEMES
    for path in sorted(Path(theme.__file__).parent.glob(f"theme/{name}/static/styles/*.css"))
]
STYLES += sorted((ROOT / "book" / "_static").glob("*.css"))

WINDOW = {"width": 840, "height": 1000}
CONTROLS = "input, select, button, summary, a[href], [tabindex='0'], .handle"

# In the page: `wn` looks into the figures' shadow roots.
HELPERS = """
window.wn = {
  roots: () => [...document.querySelectorAll("[data-wn-figure] > div")].map((d) => d.shadowRoot),
  frame: () => new Promise((next) => requestAnimationFrame(() => requestAnimationFrame(next))),
  drawn: async () => {
    await wn.frame();
    return wn.roots().map((r) => [...r.querySelectorAll("svg")].map((s) => s.outerHTML).join(""));
  },
  active: () => {
    let node = document.activeElement;
    while (node?.shadowRoot?.activeElement) node = node.shadowRoot.activeElement;
    return node;
  },
  name: (node) => {
    if (node.getAttribute("aria-label")) return node.getAttribute("aria-label");
    return (node.closest("label") ?? node).textContent.trim();
  },
  controls: (root) => [...root.querySelectorAll(SELECTOR)],
  usable: (node) =>
    !node.disabled && node.ariaDisabled !== "true" && node.checkVisibility(),
  // A group of radio buttons is one stop.
  stop: (node) => {
    if (!wn.usable(node) || node.type !== "radio") return wn.usable(node);
    const group = [...node.getRootNode().querySelectorAll("[type=radio]")]
      .filter((other) => other.name === node.name && wn.usable(other));
    return node === (group.find((other) => other.checked) ?? group[0]);
  },
  describe: (root) => wn.controls(root).map((node, index) => ({
    index, name: wn.name(node), kind: node.matches("g") ? "handle" : node.type || node.localName,
    group: node.name || "", usable: wn.usable(node), shown: node.checkVisibility(),
  })),
};
""".replace("SELECTOR", f'"{CONTROLS}"')


def page_of(html: str, theme: str) -> str:
    """The figure's HTML twice, with the book's styles and script, which lie beside the page."""
    links = "".join(f'<link rel="stylesheet" href="{path.name}">' for path in STYLES)
    return (
        f'<!doctype html><html lang="en" data-theme="{theme}"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>A figure</title><link rel="icon" href="data:,">{links}'
        f'<script defer src="figures.js"></script><script>{HELPERS}</script><body>'
        f'<main style="max-width: 792px; padding: 0 16px"><h1>A figure</h1>{html}{html}</main>'
    )


@dataclass(frozen=True)
class Control:
    """Something to operate; `kind` as the type of an input, else the element's name."""

    index: int
    name: str
    kind: str
    group: str
    usable: bool
    shown: bool

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"


def controls(page: Page, figure: int = 0) -> list[Control]:
    """What can be operated in one of the figures, in the order of the document."""
    return [Control(**c) for c in page.evaluate(f"() => wn.describe(wn.roots()[{figure}])")]


def locate(page: Page, control: Control) -> Locator:
    """The control in the first figure."""
    return page.locator("[data-wn-figure]").first.locator(CONTROLS).nth(control.index)


def drawn(page: Page) -> list[str]:
    """What each figure has drawn, once it has come to it."""
    return page.evaluate("() => wn.drawn()")


def changed(page: Page, before: str, frames: int = 2) -> bool:
    """Whether the first figure draws something else in one of so many frames."""
    return page.evaluate(
        """async ([before, frames]) => {
          for (let n = 0; n < frames; n += 2) if ((await wn.drawn())[0] !== before) return true;
          return false;
        }""",
        [before, frames],
    )


def by_keyboard(page: Page, control: Control) -> bool:
    """Operate it; say whether the drawing changed, by each press for radio buttons."""
    node = locate(page, control)
    node.focus()
    keys = {
        "range": ["ArrowRight", "ArrowLeft", "ArrowLeft"],
        "handle": ["ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown"],
        "checkbox": ["Space"],
        "radio": ["ArrowRight"],
        "button": ["Enter"],
        "rect": ["Enter"],  # of a board
        "select-one": ["ArrowDown", "ArrowUp"],
    }[control.kind]
    before = drawn(page)[0]
    for key in keys:
        page.keyboard.press(key)
        if changed(page, before, frames=300 if control.kind == "button" else 2):
            return True
    return False


def by_mouse(page: Page, control: Control) -> bool:
    """Operate it; say whether the drawing changed."""
    node = locate(page, control)
    node.scroll_into_view_if_needed()
    before = drawn(page)[0]
    box = node.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    if control.kind == "range":
        for share in (0.2, 0.8):
            page.mouse.click(box["x"] + share * box["width"], y)
            if changed(page, before):
                return True
        return False
    if control.kind == "handle":
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x - 30, y - 20, steps=3)
        page.mouse.up()
    elif control.kind == "select-one":
        node.select_option(index=1)
    else:
        page.mouse.click(x, y)
    return changed(page, before, frames=300 if control.kind == "button" else 2)


@dataclass
class Shown:
    """A page with one figure twice."""

    name: str
    page: Page
    first: list[str]
    visit: Visit
    said: list[str]

    def reset(self) -> list[str]:
        """What differs from the first drawing after a reset."""
        self.page.evaluate("() => wn.roots()[0].querySelector('.head button').click()")
        now = drawn(self.page)
        return [f"figure {i} is not what it was" for i in (0, 1) if now[i] != self.first[i]]

    def operable(self) -> list[Control]:
        return [c for c in controls(self.page) if c.kind not in {"div", "summary"}]


def shown(context: BrowserContext, address: str, name: str, theme: str) -> Shown:
    said: list[str] = []
    context.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    visit = Visit(context, address, f"{name}-{theme}.html")
    visit.page.wait_for_function("document.querySelectorAll('[data-wn-ready]').length === 2")
    visit.page.evaluate(
        "() => wn.roots().map((r) => r.querySelector('.more')).forEach((d) => d && (d.open = true))"
    )
    return Shown(name, visit.page, drawn(visit.page), visit, said)
