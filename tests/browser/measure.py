"""What a reader waits for and carries: times, frames per second and sizes, beside their targets.

    python tests/browser/measure.py

Needs the built book and a Chromium. Status 1 says that a target is missed. A benchmark, no test.
"""

import re
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path += [str(ROOT / "tests"), str(ROOT / "tools")]
import chromium  # noqa: E402
from execute import pages  # noqa: E402
from playwright.sync_api import Browser, Locator, Page  # noqa: E402

SITE = ROOT / "_build" / "html"
CHAPTERS = [page for page in pages() if re.match(r"book/\d", page)]
VISITS = 5  # the time told is their median
# An interactive figure's host; it gets the second attribute when it has drawn.
FIGURE, READY = "[data-wn-figure]", "[data-wn-ready]"
SLIDER = f"{FIGURE} input[type=range], {FIGURE} [role=slider]"
NOTE_READY = f"""
new MutationObserver(() => {{
  if (!window.wnReady && document.querySelector("{READY}")) window.wnReady = performance.now();
}}).observe(document, {{ subtree: true, childList: true, attributeFilter: ["data-wn-ready"] }});
"""


def sizes() -> Iterator[tuple[str, float]]:
    """In MB: the site without its archives, and each chapter with its pictures."""
    files = [p for p in SITE.rglob("*") if p.is_file() and p.suffix != ".zip"]
    yield "the whole site", sum(path.stat().st_size for path in files) / 1e6
    for page in CHAPTERS:
        path = SITE / f"{page}.html"
        loaded = set(re.findall(r'<img[^>]*\ssrc="([^":]+)"', path.read_text(encoding="utf-8")))
        parts = [path, *(path.parent / name for name in loaded)]
        yield f"page {path.stem}", sum(part.stat().st_size for part in parts) / 1e6


def first_figure(browser: Browser, home: str, chapter: str) -> float:
    """Seconds from navigation to the first figure that answers, with an empty cache."""
    seconds = []
    for _ in range(VISITS):
        context = browser.new_context(viewport=chromium.DESKTOP)
        page = context.new_page()
        page.add_init_script(NOTE_READY)
        page.goto(f"{home}{chapter}.html")
        page.wait_for_function("window.wnReady", timeout=10_000)
        seconds.append(page.evaluate("wnReady") / 1000)
        context.close()
    return statistics.median(seconds)


def dragging(browser: Browser, home: str, chapter: str) -> float:
    """Frames per second while the first slider of a chapter is dragged."""
    page = browser.new_page(viewport=chromium.DESKTOP)
    page.goto(f"{home}{chapter}.html")
    chromium.settled(page)
    page.wait_for_selector(READY)
    return drag(page, page.locator(SLIDER).first)


COUNT_FRAMES = """
() => {
  const count = window.wnFrames = { seconds: 0, frames: 0, on: true };
  let moved = false, before = false, last = performance.now();
  addEventListener("pointermove", () => { moved = true; }, true);
  const tick = () => {
    const now = performance.now(); // not the frame's own time: a slow handler ran since that
    const lasted = (now - last) / 1000;
    if (moved) { count.frames += 1; count.seconds += lasted; }
    else if (before) count.seconds += Math.max(0, lasted - 1 / 60); // drawing the move took longer
    before = moved; moved = false; last = now;
    if (count.on) requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
}"""


def drag(page: Page, handle: Locator, seconds: float = 2.0, reach: float = 200.0) -> float:
    """Frames per second while the mouse drags this element to and fro, `reach` pixels wide.

    Only frames that follow a move count: between moves even a slow figure is idle.
    """
    if not handle.is_visible():
        raise LookupError("nothing to drag: the element is not to be seen")
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.evaluate(COUNT_FRAMES)
    begin, step = time.monotonic(), 0
    while time.monotonic() - begin < seconds:
        step += 1
        page.mouse.move(x + reach * (abs((step / 25 + 0.5) % 2 - 1) - 0.5), y)
    page.mouse.up()
    frames, lasted = page.evaluate(
        "() => (wnFrames.on = false, [wnFrames.frames, wnFrames.seconds])"
    )
    if not frames:
        raise LookupError("nothing was dragged: the page saw no move")
    return frames / lasted


def main() -> int:
    try:
        with chromium.launched() as browser, chromium.served(SITE) as home:
            found = [
                ("first figure, s", first_figure(browser, home, CHAPTERS[0]), "<", 1.5),
                ("dragging a slider, frames/s", dragging(browser, home, CHAPTERS[0]), ">", 50),
            ]
    except LookupError as error:
        sys.exit(f"make measure {error}")
    (_, whole), *chapters = sizes()
    found += [("the whole site, MB", whole, "<", 25)]
    found += [(f"{name}, MB", size, "<", 1.5) for name, size in chapters]
    status = 0
    for name, value, sign, target in found:
        missed = value > target if sign == "<" else value < target
        status |= missed
        print(f"{name:<44}{value:>7.2f}  {sign} {target:g}{'  MISSED' * missed}")
    return status


if __name__ == "__main__":
    sys.exit(main())
