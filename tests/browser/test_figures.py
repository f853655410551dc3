"""What holds for every figure: drawn, seen and heard by everyone."""

import time
from http.server import BaseHTTPRequestHandler
from io import BytesIO

import chromium
import pytest
from chromium import Visit
from drawn import made
from figures.scripts import site_script
from PIL import Image, ImageChops
from playwright.sync_api import Browser, BrowserContext, expect

from . import checks
from .figure_page import WINDOW, Shown, changed, drawn, locate

HEAD = "<!doctype html><html lang='en'><title>t</title><link rel='icon' href='data:,'><main>"


def test_draws(light: Shown) -> None:
    assert light.first[0] == light.first[1]
    marks = light.page.evaluate(
        """() => wn.roots().map((root) => [...root.querySelectorAll("svg")]
          .filter((svg) => svg.checkVisibility())
          .flatMap((svg) => [...svg.querySelectorAll("path, line, circle, rect, ellipse, image")])
          .filter((mark) => mark.getBoundingClientRect().width > 0).length)"""
    )
    assert min(marks) >= 3
    assert light.page.locator("[data-wn-figure] img, [data-wn-figure] .message").count() == 0


def test_only_one_is_seen_however_slowly_the_page_comes(context: BrowserContext) -> None:
    """The script is there, and a figure before it drawn, when only half of a figure has come."""
    html = made("Activations").html()
    at = html.index("<style>")  # data, but no picture yet

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            if self.path == "/figures.js":
                self.wfile.write(site_script().encode())
                return
            for part in (f"{HEAD}{html}<script src='figures.js'></script>{html[:at]}", html[at:]):
                self.wfile.write(part.encode())
                self.wfile.flush()
                time.sleep(0.5)

        def log_message(self, *_: object) -> None: ...

    with chromium.serving(Slow) as address:
        page = Visit(context, address, "").page
        expect(page.locator("[data-wn-ready]")).to_have_count(2)
        for figure in page.locator("[data-wn-figure]").all():
            expect(figure.locator("figure:visible")).to_have_count(1)
            expect(figure.locator("img:visible")).to_have_count(0)


DETACHED = """async (name) => {
  const { default: front } = await import(`./${name}.js`);
  const state = await (await fetch(`./${name}.json`)).json();
  const el = document.createElement("div");
  const model = { get: (k) => state[k], set: () => {}, on: () => {}, off: () => {} };
  const close = front.render({ model, el });
  await wn.frame();
  document.querySelector("[data-wn-figure]").before(el);
  await wn.frame();
  await wn.frame();
  const root = el.firstElementChild.shadowRoot;
  const drawing = [...root.querySelectorAll("svg")].map((s) => s.outerHTML).join("");
  close();
  const left = el.childNodes.length;
  el.remove();
  return [drawing, left];
}"""


def test_draws_before_it_is_in_the_page(light: Shown) -> None:
    """As notebooks have it; closed, it leaves nothing behind."""
    assert light.page.evaluate(DETACHED, light.name) == [light.first[0], 0]


def test_without_javascript(browser: Browser, figure_address: str, figure_name: str) -> None:
    context = browser.new_context(viewport=WINDOW, java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{figure_address}{figure_name}-light.html")
    for i in (0, 1):
        images = page.locator("[data-wn-figure]").nth(i).locator("img:visible")
        assert images.count() == 1
        assert len(images.get_attribute("alt") or "") > 20
        box = images.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) > 50
    assert page.locator("[data-wn-ready]").count() == 0
    context.close()


HIDE = "() => wn.roots().forEach((r) => r.querySelector('.play')?.style.setProperty('opacity', 0))"


def test_follows_the_theme_at_once(light: Shown, dark: Shown) -> None:
    page = light.page
    page.mouse.move(1, 1)
    page.evaluate("() => wn.active().blur()")
    seen = {}
    for each in (page, dark.page):  # without motion its words are others
        each.evaluate(HIDE)
    for theme in ("light", "dark"):
        page.evaluate("theme => (document.documentElement.dataset.theme = theme)", theme)
        page.evaluate("() => wn.frame()")
        is_dark = "() => wn.roots().map((r) => r.querySelector('figure').matches('[data-dark]'))"
        assert page.evaluate(is_dark) == 2 * [theme == "dark"]
        seen[theme] = page.locator("[data-wn-figure]").first.screenshot()
        now = (light if theme == "light" else dark).first
        assert drawn(page) == now
    page.evaluate("() => (document.documentElement.dataset.theme = 'light')")
    assert drawn(page) == light.first
    seen["only dark"] = dark.page.locator("[data-wn-figure]").first.screenshot()
    images = {theme: Image.open(BytesIO(data)).convert("RGB") for theme, data in seen.items()}
    # Round corners that are drawn anew may be off by one of 255 levels.
    off = ImageChops.difference(images["dark"], images.pop("only dark"))
    assert max(most for _, most in off.getextrema()) <= 1
    for image in images.values():
        assert len(image.getcolors(1 << 24) or []) > 50
    corner = {theme: image.getpixel((30, 3)) for theme, image in images.items()}
    assert sum(corner["light"]) > 600 > 200 > sum(corner["dark"])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_accessible(light: Shown, dark: Shown, theme: str) -> None:
    page = {"light": light, "dark": dark}[theme].page
    found = checks.accessibility(page, colors_only=theme == "dark")
    assert found == []


# What lies outside the figure, sideways; text that its drawing cuts off.
OVERFLOW = """() => {
  const figure = wn.roots()[0].querySelector("figure");
  const inside = figure.getBoundingClientRect();
  const found = [];
  for (const node of figure.querySelectorAll("*")) {
    if (!node.checkVisibility() || node.closest(".scroll > *, .hidden, style")) continue;
    const drawing = node.parentElement.closest("svg");
    if (drawing && node.localName !== "text") continue;
    const frame = drawing ? drawing.getBoundingClientRect() : inside;
    const box = node.getBoundingClientRect();
    if (!box.width) continue;
    const over = Math.max(box.right - frame.right, frame.left - box.left);
    const what = `${node.localName} ${node.textContent.trim().slice(0, 40)}`;
    const of = drawing ? "drawing" : "figure";
    if (over > 1) found.push(`${what}: ${Math.round(over)} px beside its ${of}`);
  }
  return found;
}"""


def test_fits(light: Shown) -> None:
    page = light.page
    assert page.evaluate(OVERFLOW) == []
    found = checks.wider_than_a_phone(page)
    page.set_viewport_size(checks.PHONE)
    page.evaluate("() => wn.frame()")
    drawn(page)
    found += page.evaluate(OVERFLOW)
    page.set_viewport_size(WINDOW)
    page.evaluate("() => wn.frame()")  # in which the figures see their new width
    assert found == []
    assert drawn(page) == light.first


def test_part_of_a_pixel_breaks_no_row(light: Shown) -> None:
    """Panels stand beside each other in a column of 757.8 pixels as in one of 757."""
    rows = """async (width) => {
      document.querySelector("main").style.maxWidth = `${width}px`;
      await wn.frame();
      await wn.drawn();
      const panels = [...wn.roots()[0].querySelectorAll(".canvas > svg")];
      return new Set(panels.map((panel) => panel.getBoundingClientRect().top)).size;
    }"""
    whole, part = (light.page.evaluate(rows, width) for width in (757, 757.8))
    light.page.evaluate(rows, 792)
    assert whole == part
    assert drawn(light.page) == light.first


def test_nothing_moves_by_itself(dark: Shown) -> None:
    page = dark.page
    assert not changed(page, dark.first[0], frames=20)
    assert drawn(page) == dark.first
    assert page.evaluate("() => document.getAnimations().length") == 0
    for button in [c for c in dark.operable() if c.kind == "button" and c.usable]:
        locate(page, button).click()
        after = drawn(page)[0]
        assert not changed(page, after, frames=40), f"{button} sets things in motion"
        assert dark.reset() == []
