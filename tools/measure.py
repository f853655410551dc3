"""What a reader waits for and carries: times, frames per second and sizes, beside their targets.

    python tools/measure.py [--json]

Needs the built book and a Chromium. Status 1 says that a target is missed.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import chromium
from execute import ROOT, pages
from playwright.sync_api import Browser, Page

SITE = ROOT / "_build" / "html"
VISITS = 5  # the time told is their median
# An interactive figure's host; it gets the second attribute when it has drawn.
FIGURE, READY = "[data-wn-figure]", "[data-wn-ready]"
SLIDER = f"{FIGURE} input[type=range], {FIGURE} [role=slider]"
NOTE_READY = f"""
new MutationObserver(() => {{
  if (!window.wnReady && document.querySelector("{READY}")) window.wnReady = performance.now();
}}).observe(document, {{ subtree: true, childList: true, attributeFilter: ["data-wn-ready"] }});
"""


@dataclass(frozen=True)
class Measure:
    """One line of the answer; `most` and `least` are targets."""

    name: str
    value: float | None
    unit: str
    most: float | None = None
    least: float | None = None
    note: str = ""

    @property
    def missed(self) -> bool:
        if self.value is None:
            return False
        above = self.most is not None and self.value > self.most
        return above or (self.least is not None and self.value < self.least)

    def __str__(self) -> str:
        value = "none" if self.value is None else f"{self.value:.{1 if self.value >= 10 else 2}f}"
        target = f"at most {self.most:g}" if self.most is not None else f"at least {self.least:g}"
        words = [f"{self.name:<44}{value:>7} {self.unit:<9} {target}"]
        words += ["MISSED"] * self.missed + [f"({self.note})"] * bool(self.note)
        return "  ".join(words)


def build() -> Measure:
    """Build the whole site again."""
    (SITE / ".built").unlink(missing_ok=True)
    begin = time.perf_counter()
    subprocess.run(
        ["make", "--no-print-directory", "site"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )
    return Measure("make site", time.perf_counter() - begin, "s", most=60)


def sizes() -> Iterator[Measure]:
    """The site, and each chapter with the pictures that it loads from files."""
    files = [path for path in SITE.rglob("*") if path.is_file()]
    yield Measure("the whole site", sum(p.stat().st_size for p in files) / 1e6, "MB", most=20)
    for page in chapters():
        path = SITE / f"{page}.html"
        loaded = set(re.findall(r'<img[^>]*\ssrc="([^":]+)"', path.read_text(encoding="utf-8")))
        parts = [path, *(path.parent / name for name in loaded)]
        size = sum(part.stat().st_size for part in parts) / 1e6
        yield Measure(f"page {Path(page).name}", size, "MB", most=1.5)


def chapters() -> list[str]:
    return [page for page in pages() if re.match(r"\d", Path(page).name)]


def first_figure(browser: Browser, home: str, chapter: str) -> Measure:
    """From navigation to the first figure that answers, with an empty cache."""
    seconds, note = [], ""
    for _ in range(VISITS):
        context = browser.new_context(viewport=chromium.DESKTOP)
        page = context.new_page()
        page.add_init_script(NOTE_READY)
        page.goto(f"{home}{chapter}.html")
        if page.locator(FIGURE).count():
            page.wait_for_function("window.wnReady", timeout=10_000)
            seconds.append(page.evaluate("wnReady") / 1000)
        else:
            note = "no interactive figure: until the page's first picture is decoded"
            seconds.append(_first_picture(page) / 1000)
        context.close()
    name = f"first figure, {Path(chapter).name}"
    return Measure(name, statistics.median(seconds), "s", most=1.5, note=note)


def _first_picture(page: Page) -> float:
    return page.evaluate(
        """async () => {
          const loaded = performance.getEntriesByType("navigation")[0].domContentLoadedEventEnd;
          const image = [...document.querySelectorAll("main img")].find((i) => i.checkVisibility());
          const before = performance.now();
          await image?.decode();
          return loaded + performance.now() - before;
        }"""
    )


def dragging(browser: Browser, home: str, chapter: str) -> Measure:
    """Frames per second while the first slider of a chapter is dragged."""
    context = browser.new_context(viewport=chromium.DESKTOP)
    page = context.new_page()
    page.goto(f"{home}{chapter}.html")
    name, value, note = f"dragging a slider, {Path(chapter).name}", None, "no slider there"
    chromium.settled(page)
    slider = page.locator(SLIDER).first
    if slider.count():
        page.wait_for_selector(READY)
        value, note = chromium.drag(page, slider), ""
    context.close()
    return Measure(name, value, "frames/s", least=50, note=note)


def measure() -> Iterator[Measure]:
    """All of them; LookupError without a browser."""
    with chromium.launched() as browser:
        yield build()
        first = chapters()[0]
        with chromium.served(SITE) as home:
            yield first_figure(browser, home, first)
            yield dragging(browser, home, first)
    yield from sizes()


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON list, for machines")
    options = parser.parse_args()
    found = []
    try:
        for each in measure():
            found.append(each)
            if not options.json:
                print(each, flush=True)
    except LookupError as error:
        sys.exit(f"make measure {error}")
    except subprocess.CalledProcessError:
        return 1  # make has said why
    if options.json:
        print(json.dumps([{**asdict(each), "missed": each.missed} for each in found], indent=1))
    return int(any(each.missed for each in found))


if __name__ == "__main__":
    sys.exit(main())
