"""The archive, unpacked anywhere and opened as files, with no server and no network."""

import zipfile
from pathlib import Path

import chromium
import pytest
from chromium import Visit
from pack import PAGES, archive, needed, pages
from playwright.sync_api import BrowserContext

from . import checks


@pytest.fixture(scope="module")
def unpacked(site: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The archive in a folder whose name has a space and an umlaut; its address."""
    folder = tmp_path_factory.mktemp("für später")
    with zipfile.ZipFile(site / f"{PAGES}.zip") as packed:
        packed.extractall(folder)
    assert [path.name for path in folder.iterdir()] == [PAGES]
    return f"{(folder / PAGES).as_uri()}/"


@pytest.fixture
def cut_off(context: BrowserContext) -> BrowserContext:
    context.set_offline(True)
    return context


def test_same_site_same_bytes(site: Path, tmp_path: Path) -> None:
    again = tmp_path / f"{PAGES}.zip"
    archive(again, pages(site))
    assert again.read_bytes() == (site / again.name).read_bytes()


def test_double_click(cut_off: BrowserContext, unpacked: str) -> None:
    visit = Visit(cut_off, unpacked, "index.html", leads_to="book/intro.html")
    assert visit.page.locator("mjx-container svg").count() > 0, "formulas are not set"
    visit.page.locator("main").get_by_role("link", name="Why reparameterize").first.click()
    visit.page.wait_for_url("**/book/01-*.html")
    chromium.settled(visit.page)
    assert visit.problems == []


@pytest.mark.parametrize("name", ["intro", "01-why-reparameterize", "cifar-10"])
def test_page(cut_off: BrowserContext, unpacked: str, name: str) -> None:
    visit = Visit(cut_off, unpacked, f"book/{name}.html")
    light = checks.shown_images(visit.page)
    assert light or visit.page.locator("[data-wn-figure][data-wn-ready]").count()
    assert checks.images(visit.page) == []
    checks.switch_theme(visit.page)
    assert not set(light) & set(checks.shown_images(visit.page))
    assert checks.accessibility(visit.page, colors_only=True) == []
    assert checks.wider_than_a_phone(visit.page) == []
    assert visit.problems == []


def test_no_site_no_archive(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="holds no notebooks: run `make site` first"):
        archive(tmp_path / "a.zip", needed("notebooks", tmp_path))
    assert not (tmp_path / "a.zip").exists()
