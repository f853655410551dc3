"""The checks bite: on a page where everything is wrong each finds its own; a good page passes."""

from collections.abc import Iterator

import chromium
import pytest
from chromium import Visit
from playwright.sync_api import BrowserContext

from . import checks

BAD = """<!doctype html><html lang="en"><title>A page</title>
<style>
  :focus, :focus-visible { outline: none }
  p { color: #999; background: #fff }
  .wide { width: 700px; height: 1px }
</style>
<main><h1>A page</h1><p>Too pale to read.</p><div class="wide"></div>
<img src="missing.png"><img alt="another host's" src="https://example.org/a.png">
<button>Press</button> <a href="#" style="position: absolute; width: 1px; height: 1px"></a>
<div style="height: 20px; width: 20px" id="handle"></div></main>
<script>console.warn("take care"); setTimeout(() => { throw new Error("broken") })</script>
"""
GOOD = """<!doctype html><html lang="en"><title>A page</title><main><h1>A page</h1>
<style>:focus-visible { outline: 2px solid blue }</style>
<p>A text.</p><img alt="a dot" src="dot.svg"><button>Press</button>
<div id="handle" style="height: 20px; width: 20px; margin-left: 300px"></div></main>
"""
DOT = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'


@pytest.fixture(scope="module")
def small_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "bad.html").write_text(BAD)
    (folder / "good.html").write_text(GOOD)
    (folder / "dot.svg").write_text(DOT)
    (folder / "favicon.ico").write_text(DOT)
    with chromium.served(folder) as address:
        yield address


def test_a_bad_page(context: BrowserContext, small_site: str) -> None:
    visit = Visit(context, small_site, "bad.html")
    visit.page.evaluate("() => new Promise((done) => setTimeout(done))")  # after its own
    problems = "\n".join(visit.problems)
    for said in ("warning: take care", "error: broken", "asks another host: https://example.org/"):
        assert said in problems
    assert f"did not get: {small_site}missing.png" in problems
    assert "did not get: https://example.org/a.png: net::ERR_" in problems, "the network was asked"

    found = "\n".join(checks.accessibility(visit.page))
    assert "color-contrast (serious): p" in found
    assert "image-alt (critical): img" in found
    assert "color-contrast" in "\n".join(checks.accessibility(visit.page, colors_only=True))
    found = "\n".join(checks.wider_than_a_phone(visit.page))
    assert "the page is 7" in found
    assert 'class="wide"' in found
    found = "\n".join(checks.images(visit.page))
    assert 'no alternative text: <img src="missing.png">' in found
    assert found.count("not drawn") == 2
    found = "\n".join(checks.focus(visit.page))
    assert "without an outline: <button>" in found
    assert "nowhere to be seen: <a" in found


def test_a_pale_text_is_found_wherever_it_stands(context: BrowserContext) -> None:
    """Among many that are not, after a hidden one that is, on another ground, within a figure."""
    page = context.new_page()
    page.set_content(
        "<!doctype html><html lang='en'><title>A page</title><main><h1>A page</h1>"
        + "<p>A text.</p>" * 9
        + "<p style='color: #bbb' hidden>Pale</p><p style='color: #bbb'>Pale</p>"
        "<section style='background: #111'><p>Dark on dark</p></section>"
        "<div></div></main>"
    )
    page.evaluate(
        """() => {
          const root = document.querySelector("div").attachShadow({ mode: "open" });
          root.innerHTML = "<b style='color: #ccc'>Pale</b>";
        }"""
    )
    for colors_only in (False, True):
        found = checks.accessibility(page, colors_only=colors_only)
        assert [line.split(":")[0] for line in found] == ["color-contrast (serious)"] * 3


def test_a_good_page(context: BrowserContext, small_site: str) -> None:
    visit = Visit(context, small_site, "good.html")
    page = visit.page
    assert checks.accessibility(page) + checks.wider_than_a_phone(page) + checks.images(page) == []
    assert checks.focus(page) == []
    assert visit.problems == []


def test_without_a_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(chromium, "NAMES", ("chromium",))
    assert chromium.find() is None
    with pytest.raises(LookupError, match="apt install chromium"), chromium.launched():
        pass
