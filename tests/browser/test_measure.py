"""tools/measure.py finds what it is told to look for, and tells what misses its target."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import chromium
import measure
import pytest
from measure import Measure
from playwright.sync_api import Browser

# A figure that draws a while after the page is there, with a slider that does as it is told.
FIGURE = """<!doctype html><title>A page</title><main><div id="host" data-wn-figure>
<input type="range" style="width: 600px; margin: 50px"></div>
<script>
  setTimeout(() => host.setAttribute("data-wn-ready", ""), DELAY);
  document.querySelector("input").oninput = () => {
    for (const begin = performance.now(); performance.now() - begin < EFFORT;);
  };
</script></main>
"""
PICTURE = """<!doctype html><title>A page</title><main><img alt="dot" src="dot.svg"></main>"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("site")
    for name, delay, effort in (("quick", "400", "0"), ("slow", "0", "60")):
        page = FIGURE.replace("DELAY", delay).replace("EFFORT", effort)
        (folder / f"{name}.html").write_text(page)
    (folder / "plain.html").write_text(PICTURE)
    (folder / "dot.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9"/>')
    with chromium.served(folder) as address:
        yield address


def test_first_figure(browser: Browser, home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "VISITS", 2)
    found = measure.first_figure(browser, home, "quick")
    assert found.value is not None
    assert 0.4 <= found.value < 5, "the time does not end when the figure has drawn"
    assert found.note == ""
    found = measure.first_figure(browser, home, "plain")
    assert found.value is not None
    assert 0 < found.value < 5
    assert "no interactive figure" in found.note


def test_dragging(browser: Browser, home: str) -> None:
    assert measure.dragging(browser, home, "slow").missed
    quick = measure.dragging(browser, home, "quick")
    assert quick.value is not None
    assert quick.value > 1000 / 60
    none = measure.dragging(browser, home, "plain")
    assert (none.value, none.missed) == (None, False)


def test_targets() -> None:
    assert Measure("a", 2.0, "s", most=1.5).missed
    assert not Measure("a", 1.5, "s", most=1.5).missed
    assert Measure("a", 49.0, "frames/s", least=50).missed
    assert not Measure("a", 0.0, "s", most=1.5).missed
    assert "MISSED" in str(Measure("a", 2.0, "s", most=1.5))


def test_sizes(site: Path) -> None:
    whole, *chapters = measure.sizes()
    assert whole.value is not None
    assert [f"page {Path(name).name}" for name in measure.chapters()] == [c.name for c in chapters]
    assert 1 < sum(c.value or 0 for c in chapters) < whole.value
    for size in (whole, *chapters):
        assert not size.missed, str(size)


def test_without_a_browser() -> None:
    code = "import runpy, sys, chromium; chromium.NAMES = (); sys.argv = sys.argv[1:]\n"
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code, measure.__file__, "--json"],
        env=os.environ | {"PYTHONPATH": str(Path(measure.__file__).parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"make measure {chromium.MISSING}\n"
