"""The archive, unpacked anywhere and opened as files, with no server and no network."""

import subprocess
import sys
import zipfile
from pathlib import Path

import chromium
import pytest
from chromium import Visit
from offline import pack
from playwright.sync_api import BrowserContext, expect

from . import checks

OFFLINE = Path(__file__).parent.parent.parent / "tools" / "offline.py"


@pytest.fixture(scope="module")
def archive(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "the-book.zip"
    pack(site, path)
    return path


@pytest.fixture(scope="module")
def unpacked(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The archive in a folder whose name has a space and an umlaut; its address."""
    folder = tmp_path_factory.mktemp("für später")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    assert [path.name for path in folder.iterdir()] == ["the-book"]
    return f"{(folder / 'the-book').as_uri()}/"


@pytest.fixture
def cut_off(context: BrowserContext) -> BrowserContext:
    context.set_offline(True)
    return context


def test_same_site_same_bytes(archive: Path, site: Path, tmp_path: Path) -> None:
    again = tmp_path / archive.name
    pack(site, again)
    assert again.read_bytes() == archive.read_bytes()


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


def test_search(cut_off: BrowserContext, unpacked: str) -> None:
    visit = Visit(cut_off, unpacked, "search.html?q=whitening")
    found = visit.page.locator("#search-results li a")
    expect(found.first).to_be_visible()
    expect(found.filter(has_text="CIFAR-10").first).to_be_visible()
    found.filter(has_text="CIFAR-10").first.click()
    visit.page.wait_for_url("**/book/cifar-10.html*")
    chromium.settled(visit.page)
    assert visit.problems == []


def test_no_site_no_archive(tmp_path: Path) -> None:
    command = [sys.executable, OFFLINE, tmp_path, tmp_path / "a.zip"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert done.stderr == f"{tmp_path} holds no built book: run `make site` first\n"
    assert list(tmp_path.iterdir()) == []
