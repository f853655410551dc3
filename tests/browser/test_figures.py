"""What holds for every figure: drawn, operated, reset, seen and heard by everyone."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import chromium
import pytest
from chromium import Visit
from figures import FIGURES, made
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page

from . import checks
from .figure_page import (
    STYLES,
    Control,
    by_keyboard,
    by_mouse,
    changed,
    controls,
    drawn,
    locate,
    page_of,
)

WINDOW = {"width": 840, "height": 1000}

# Controls that change nothing in the drawing, or can't be used with the data at hand, and why.
EXCEPTIONS = {
    ("FiveCurves", "CSV"): "a file is saved (test_curves)",
    ("FiveCurves", "SVG"): "a file is saved (test_curves)",
    ("FiveCurves", "PNG"): "a file is saved (test_curves)",
    ("FiveCurves", "Training error"): "the report did not record it",
    ("FiveCurves", "Test loss"): "the report did not record it",
}


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
        return [
            c
            for c in controls(self.page)
            if c.kind not in {"div", "summary"} and (self.name, c.name) not in EXCEPTIONS
        ]


@pytest.fixture(scope="module", params=FIGURES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def home(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("figures")
    for style in STYLES:
        (folder / style.name).write_bytes(style.read_bytes())
    (folder / "basic.css").touch()  # Sphinx writes it; the theme imports it
    with chromium.served(folder) as address:
        yield address, folder


@pytest.fixture(scope="module")
def address(home: tuple[str, Path], name: str) -> str:
    """Where the figure's pages are, `{name}-light.html` and `{name}-dark.html`."""
    figure = made(name)
    html = figure.html()
    (home[1] / f"{name}.js").write_text(figure._esm, encoding="utf-8")
    (home[1] / f"{name}.json").write_text(json.dumps(figure.state()), encoding="utf-8")
    for theme in ("light", "dark"):
        (home[1] / f"{name}-{theme}.html").write_text(page_of(html, theme), encoding="utf-8")
    return home[0]


def shown(context: BrowserContext, address: str, name: str, theme: str) -> Shown:
    said: list[str] = []
    context.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    visit = Visit(context, address, f"{name}-{theme}.html")
    visit.page.wait_for_function("document.querySelectorAll('[data-wn-ready]').length === 2")
    return Shown(name, visit.page, drawn(visit.page), visit, said)


@pytest.fixture(scope="module")
def light(browser: Browser, address: str, name: str) -> Iterator[Shown]:
    context = browser.new_context(viewport=WINDOW, color_scheme="light")
    yield shown(context, address, name, "light")
    context.close()


@pytest.fixture(scope="module")
def dark(browser: Browser, address: str, name: str) -> Iterator[Shown]:
    """In the dark, and for a reader who wants no motion."""
    context = browser.new_context(viewport=WINDOW, color_scheme="dark", reduced_motion="reduce")
    yield shown(context, address, name, "dark")
    context.close()


def test_draws(light: Shown) -> None:
    assert light.first[0] == light.first[1]
    marks = light.page.evaluate(
        """() => wn.roots().map((root) => [...root.querySelectorAll("svg")]
          .filter((svg) => svg.checkVisibility())
          .flatMap((svg) => [...svg.querySelectorAll("path, line, circle, rect, ellipse, image")])
          .filter((mark) => mark.getBoundingClientRect().width > 0).length)"""
    )
    assert min(marks) >= 5
    assert light.page.locator("[data-wn-figure] img, [data-wn-figure] .message").count() == 0


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


def test_without_javascript(browser: Browser, address: str, name: str) -> None:
    context = browser.new_context(viewport=WINDOW, java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}{name}-light.html")
    for i in (0, 1):
        images = page.locator("[data-wn-figure]").nth(i).locator("img:visible")
        assert images.count() == 1
        assert len(images.get_attribute("alt") or "") > 20
        box = images.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) > 50
    assert page.locator("[data-wn-ready]").count() == 0
    context.close()


def test_every_control_is_a_stop_of_the_tab_key(light: Shown) -> None:
    page = light.page
    expected = page.evaluate(
        """() => {
          window.stops = wn.roots().flatMap((r) => wn.controls(r).filter(wn.stop));
          return stops.map(wn.name);
        }"""
    )
    assert len(expected) >= 4
    visited, outlined = [], []
    for _ in range(len(expected) + 10):
        page.keyboard.press("Tab")
        at, focus = page.evaluate(
            """() => {
              const style = getComputedStyle(wn.active());
              const width = style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth);
              return [stops.indexOf(wn.active()), width];
            }"""
        )
        if at >= 0:
            visited.append(at)
            outlined.append(focus >= 2)
        if at == len(expected) - 1:
            break
    assert [expected[i] for i in visited] == expected
    assert visited == list(range(len(expected)))
    assert all(outlined)
    page.evaluate("() => wn.active().blur()")


def test_every_control_works_by_keyboard(light: Shown) -> None:
    found, groups = [], set()
    for control in light.operable():
        if not control.usable or control.name == "Reset":
            continue
        if control.kind != "radio":
            if not by_keyboard(light.page, control):
                found.append(f"{control}: nothing changes")
        elif control.group not in groups:
            groups.add(control.group)
            found += radios_by_keyboard(light, control)
        if drawn(light.page)[1] != light.first[1]:
            found.append(f"{control} changes the other figure")
        found += [f"{control}, then Reset: {line}" for line in light.reset()]
    assert found == []


def radios_by_keyboard(light: Shown, control: Control) -> list[str]:
    """Once around the group."""
    group = [c for c in light.operable() if c.usable and c.group == control.group]
    checked = [c for c in group if locate(light.page, c).is_checked()]
    assert len(checked) == 1
    start = group.index(checked[0])
    found = []
    for i in range(len(group)):
        now = group[(start + i) % len(group)]
        if not by_keyboard(light.page, now):
            found.append(f"{now}: nothing changes to the next")
    return found


def test_every_control_works_by_mouse(light: Shown) -> None:
    found = []
    for control in light.operable():
        if not control.usable or control.name == "Reset":
            continue
        if control.kind == "radio" and locate(light.page, control).is_checked():
            continue
        if not by_mouse(light.page, control):
            found.append(f"{control}: nothing changes")
        found += [f"{control}, then Reset: {line}" for line in light.reset()]
    assert found == []


QUICK = """async ([index, pause]) => {
  const node = wn.controls(wn.roots()[0])[index];
  for (const key of ["ArrowLeft", "ArrowUp", "ArrowLeft", "ArrowUp"]) {
    node.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    if (pause) await wn.frame();
  }
  return (await wn.drawn())[0];
}"""


def test_no_key_is_lost_between_two_frames(light: Shown) -> None:
    for handle in [c for c in light.operable() if c.kind == "handle"]:
        slow, quick = [], []
        for seen, pause in ((slow, True), (quick, False)):
            seen.append(light.page.evaluate(QUICK, [handle.index, pause]))
            assert light.reset() == []
        assert slow == quick != [light.first[0]], handle


def test_what_is_disabled_can_be_enabled(light: Shown) -> None:
    """Some other control brings each to life; then it works."""
    found = []
    for sleeping in [c for c in light.operable() if c.shown and not c.usable]:
        for other in [c for c in light.operable() if c.usable and c.name != "Reset"]:
            if other.kind not in {"radio", "checkbox", "range", "button"}:
                continue
            by_keyboard(light.page, other)
            awake = controls(light.page)[sleeping.index]
            if awake.usable and awake.name == sleeping.name:
                break
            light.reset()
        else:
            found.append(f"{sleeping}: nothing enables it")
            continue
        if not by_keyboard(light.page, awake):
            found.append(f"{awake}: nothing changes once it is enabled")
        found += [f"{awake}, then Reset: {line}" for line in light.reset()]
    assert found == []


def test_reset_by_keyboard_and_mouse_stops_everything(light: Shown) -> None:
    page = light.page
    reset = page.locator("[data-wn-figure]").first.get_by_role("button", name="Reset")
    for button in [c for c in light.operable() if c.kind == "button" and c.usable]:
        for press in (lambda: reset.press("Enter"), reset.click):
            if button.name != "Reset":
                locate(page, button).click()
            press()
            page.wait_for_timeout(500 if button.name != "Reset" else 0)
            assert drawn(page) == light.first, button


def test_follows_the_theme_at_once(light: Shown, dark: Shown) -> None:
    page = light.page
    page.mouse.move(1, 1)
    page.evaluate("() => wn.active().blur()")
    seen = {}
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
    assert seen["dark"] == dark.page.locator("[data-wn-figure]").first.screenshot()
    images = {theme: Image.open(BytesIO(data)).convert("RGB") for theme, data in seen.items()}
    for image in images.values():
        assert len(image.getcolors(1 << 24) or []) > 50
    corner = {theme: image.getpixel((30, 3)) for theme, image in images.items()}
    assert sum(corner["light"]) > 600 > 200 > sum(corner["dark"])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_accessible(light: Shown, dark: Shown, theme: str) -> None:
    """One of the two is enough."""
    page = {"light": light, "dark": dark}[theme].page
    page.evaluate(
        "() => document.querySelectorAll('[data-wn-figure]')[1].toggleAttribute('data-repeated')"
    )
    found = checks.accessibility(page, colours_only=theme == "dark")
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


def test_nothing_moves_by_itself(dark: Shown) -> None:
    page = dark.page
    page.wait_for_timeout(300)
    assert drawn(page) == dark.first
    assert page.evaluate("() => document.getAnimations().length") == 0
    for button in [c for c in dark.operable() if c.kind == "button" and c.usable]:
        locate(page, button).click()
        after = drawn(page)[0]
        assert not changed(page, after, within=600), f"{button} sets things in motion"
        assert dark.reset() == []


def test_nothing_was_said(light: Shown, dark: Shown) -> None:
    for page in (light, dark):
        assert page.visit.problems == []
        assert page.said == []
