"""Curvature and Geometry in a browser: dragged, stepped, at their edges, legible."""

from collections.abc import Callable

import pytest
from figures import Curvature, Geometry
from figures.base import Figure
from figures.scripts import site_script
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from . import checks

Show = Callable[[Figure], Page]


def table(page: Page) -> dict[str, list[str]]:
    """Curvature's table: name of a row to its cells."""
    checks.redrawn(page)
    rows = page.locator("figure tbody tr").all()
    return {r.locator("th").inner_text(): r.locator("td").all_inner_texts() for r in rows}


def choose(page: Page, text: str) -> None:
    page.locator("label", has_text=text).click()


def more(page: Page) -> None:
    """Open what a reader finds behind the first two controls."""
    page.locator("summary", has_text="more").click()


def said(page: Page, text: str) -> Locator:
    """What the drawing says; a moment later the hidden status says the same, for other ears."""
    return page.locator(".canvas").get_by_text(text)


def handle(page: Page, name: str) -> Locator:
    return page.locator(f"[role=application][aria-label^='{name}']")


def drag(page: Page, point: Locator, right: float, down: float) -> None:
    box = point.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + right, y + down, steps=4)
    page.mouse.up()


def test_turned_by_45_degrees_scaling_the_axes_does_nothing(show: Show) -> None:
    page = show(Curvature(angle=45, kappa=30))
    cells = table(page)
    for name in ("condition number", "steps to a millionth of the distance"):
        assert cells[name][0] == cells[name][1]
    turned = page.get_by_label("Turned by")
    turned.press("Home")
    expect(page.locator("figure tbody td").nth(1)).to_have_text("1")
    assert table(page)["steps to a millionth of the distance"][1] == "1"


def test_divergence_is_shown(show: Show) -> None:
    page = show(Curvature())
    more(page)
    expect(page.get_by_label("Learning rate / limit")).to_be_disabled()
    choose(page, "Best learning rate")
    rate = page.get_by_label("Learning rate / limit")
    expect(rate).to_be_enabled()
    rate.press("End")
    steps = page.locator("figure tbody tr").nth(1)
    expect(steps).to_contain_text("diverges")
    expect(page.get_by_role("status")).to_contain_text("plain: condition number 10, steps diverges")
    expect(page.locator("figure svg").nth(1)).to_contain_text("10⁶")


def test_the_start_is_dragged_and_moved_by_keys(show: Show) -> None:
    page = show(Curvature())
    start = handle(page, "Start")
    drag(page, start, 60, 90)
    expect(start).not_to_have_attribute("aria-label", "Start at 0.2, 1.2; the arrow keys move it")
    checks.redrawn(page)
    before = start.get_attribute("aria-label")
    page.keyboard.press("ArrowLeft")
    expect(start).not_to_have_attribute("aria-label", before)
    page.get_by_role("button", name="Reset").click()
    expect(start).to_have_attribute("aria-label", "Start at 0.2, 1.2; the arrow keys move it")


def test_a_path_is_seen_whole_and_the_plane_keeps_still_under_the_pointer(show: Show) -> None:
    """Scaled axes can send the first step outside of where the start may lie."""
    page = show(Curvature())
    inside = """() => {
      const svg = document.querySelector(".wn-figure > div").shadowRoot.querySelector("svg");
      const [frame] = svg.querySelector("clipPath").children;
      const end = Number(frame.getAttribute("x")) + Number(frame.getAttribute("width"));
      const dots = [...svg.querySelectorAll("g > path[fill='#2288CC'][transform]")];
      const marks = dots.map((m) => Number(/[\\d.]+/.exec(m.getAttribute("transform"))[0]));
      return marks.length > 10 && Math.max(...marks) < end;
    }"""
    checks.redrawn(page)
    assert page.evaluate(inside)
    box = handle(page, "Start").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 30, y + 40)
    checks.redrawn(page)
    now = handle(page, "Start").bounding_box()
    assert now["x"] + now["width"] / 2 == pytest.approx(x + 30, abs=2)
    page.mouse.up()


def test_a_start_at_the_minimum(show: Show) -> None:
    page = show(Curvature(start=(0, 0)))
    assert table(page)["steps to a millionth of the distance"] == ["0", "0", "0"]


def test_a_step_is_taken_and_dragging_v_starts_anew(show: Show) -> None:
    page = show(Geometry(noise=0))
    more(page)
    taken = page.get_by_label("Steps taken")
    page.get_by_role("button", name="Step").click()
    page.get_by_role("button", name="Step").click()
    expect(taken).to_have_value("2")
    expect(said(page, "Step 2: ")).to_be_visible()
    drag(page, handle(page, "v at"), 30, -40)
    expect(taken).to_have_value("0")
    expect(said(page, "Step 0: ")).to_be_visible()
    taken.press("End")
    expect(taken).to_have_value("60")
    page.locator("[data-name=g]").press("ArrowLeft")
    expect(taken).to_have_value("0")


def test_it_runs_and_pauses(show: Show) -> None:
    page = show(Geometry())
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_label("Steps taken")).not_to_have_value("0")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Run")).to_be_visible()
    at = page.get_by_label("Steps taken").input_value()
    for _ in range(15):
        checks.redrawn(page)
    expect(page.get_by_label("Steps taken")).to_have_value(at)
    page.get_by_role("button", name="Run").click()
    page.get_by_role("button", name="Reset").click()
    expect(page.get_by_role("button", name="Run")).to_be_visible()
    expect(page.get_by_label("Steps taken")).to_have_value("0")


def test_who_wants_no_motion_gets_the_end_at_once(show: Show, context: BrowserContext) -> None:
    figure = Geometry()
    page = context.new_page()
    page.emulate_media(reduced_motion="reduce")
    page.set_content(f"<!doctype html><html lang='en'><title>t</title>{figure.html()}")
    page.add_script_tag(content=site_script())
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_label("Steps taken")).to_have_value("60")
    expect(page.get_by_role("button", name="Run")).to_be_visible()


def test_the_three_optimizers_share_an_axis(show: Show) -> None:
    page = show(Geometry(step=10))
    lengths = page.get_by_role("img", name="The norm of v by step")
    ticks = lengths.locator("text[text-anchor=end]").all_text_contents()
    expect(said(page, "at a right angle to v")).to_be_visible()  # so Pythagoras is right
    expect(lengths.locator("text.strong")).to_have_text("gradient descent")
    choose(page, "momentum")
    expect(said(page, "at a right angle to v")).to_have_count(0)
    expect(lengths.locator("text.strong")).to_have_text("momentum 0.9")
    assert sorted(lengths.locator("text[text-anchor=end]").all_text_contents()) == sorted(ticks)


def test_a_finger_drags_a_point_whichever_way(browser: Browser) -> None:
    """Beside the point it scrolls the page."""
    context = browser.new_context(viewport={"width": 390, "height": 700}, has_touch=True)
    page = context.new_page()
    page.set_content(f"<!doctype html>{Geometry().html()}<p style='height: 2000px'>")
    page.add_script_tag(content=site_script())
    v = handle(page, "v at")
    box = v.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    before = v.get_attribute("aria-label")
    checks.swipe(page, (x, y), (4, -90))
    expect(v).not_to_have_attribute("aria-label", before)
    assert v.bounding_box()["y"] + box["height"] / 2 == pytest.approx(y - 90, abs=4)
    assert page.evaluate("scrollY") == 0
    checks.swipe(page, (x + 100, y), (0, -90))
    page.wait_for_function("scrollY > 30")
    context.close()


def test_v_reaches_zero_by_keyboard(show: Show) -> None:
    page = show(Geometry(v=(0.1, 0)))
    more(page)
    v = handle(page, "v at")
    v.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(said(page, "v = 0 has no direction")).to_be_visible()
    page.get_by_role("button", name="Step").click()
    expect(said(page, "Step 1: ‖v‖ = ")).to_be_visible()


@pytest.mark.parametrize("width", [360, 900])
@pytest.mark.parametrize(
    "state",
    [
        {},
        {"step": 2},
        {"step": 60},
        {"g": -1},
        {"v": (0.3, -1.5)},
        {"optimizer": "adam", "step": 3},
        {"optimizer": "adam", "step": 60},
    ],
)
def test_names_do_not_overlap(show: Show, width: int, state: dict) -> None:
    page = show(Geometry(**state))
    page.set_viewport_size({"width": width, "height": 900})
    checks.redrawn(page)
    texts = page.locator("svg >> nth=0 >> text.strong")
    names = {name for text in texts.all_text_contents() for name in text.split(", ")}
    assert {"v", "w", "minimum"} <= names  # where v covers w, one label has both
    boxes = [text.bounding_box() for text in texts.all()]
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            apart = (
                a["x"] + a["width"] <= b["x"] + 1
                or b["x"] + b["width"] <= a["x"] + 1
                or a["y"] + a["height"] <= b["y"] + 4  # descent and ascent of the line
                or b["y"] + b["height"] <= a["y"] + 4
            )
            assert apart, (a, b)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("figure", [Curvature, Geometry])
def test_accessible(show: Show, figure: type[Figure], scheme: str) -> None:
    page = show(figure())
    page.emulate_media(color_scheme=scheme)
    assert checks.accessibility(page) == []
    assert checks.wider_than_a_phone(page) == []
