"""Figures in a real JupyterLab: widgets with a kernel, pictures or live HTML from a stored file."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from execute import KERNEL, WIDGET, normalize
from nbformat.sign import NotebookNotary
from playwright.sync_api import Browser, Locator, Page, expect

from . import checks

ROOT = Path(__file__).parent.parent.parent
WAIT = 60_000  # ms; a kernel that imports torch takes its time on a busy machine
DONE = re.compile(r"\[\d+\]:")

CELLS = {
    "show": "from figures import Activations\nfigure = Activations()\nfigure",
    "again": "figure",
    "set": "figure.at = 2.5\nfigure.kind = 'tanh'",
    "read": "print('slope', figure.slope, 'at', figure.at)",
    "train": """from wnlib import Recipe
from wnlib.training import Row
from figures import FiveCurves
curves = FiveCurves([])
display(curves)
for epoch in range(1, 4):
    curves.add(Recipe.report("wn"), Row(epoch, 0.003, 2.0, 0.8, 1.9, 0.7, 1.0))
    input()""",
}
ORDER = list(CELLS)


@pytest.fixture(scope="module")
def folder(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make lab` opens, and a notebook of these tests."""
    folder = tmp_path_factory.mktemp("notebooks")
    shutil.copytree(site.parent / "notebooks", folder / "book")
    cells = [nbformat.v4.new_code_cell(source, id=name) for name, source in CELLS.items()]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL})
    nbformat.write(notebook, folder / "live.ipynb")
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Everything that Jupyter keeps goes to a temporary home; nothing of the user's is read."""
    home = tmp_path_factory.mktemp("home")
    news = home / "settings" / "@jupyterlab" / "apputils-extension"
    news.mkdir(parents=True)
    (news / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "IPYTHON"))}
    kinds = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
    return (
        kept
        | {f"JUPYTER_{kind}": str(home / kind.lower()) for kind in kinds}
        | {
            "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
            "JUPYTER_PREFER_ENV_PATH": "1",
            "JUPYTER_NO_CONFIG": "1",
            "IPYTHONDIR": str(home / "ipython"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'book'}",
            "OMP_NUM_THREADS": "1",
        }
    )


@pytest.fixture(scope="module")
def lab(browser: Browser, folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """The address of a JupyterLab in the folder; it and its kernels end with the last test."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": folder,
        "ServerApp.allow_root": True,
        "ServerApp.terminals_enabled": False,
        "IdentityProvider.token": "",
        "LabApp.open_browser": False,
        "LabApp.extension_manager": "readonly",  # asks no package index
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    }
    log = folder.parent / "jupyterlab.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *(f"--{k}={v}" for k, v in options.items())],
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{address}api/status", timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError):
                assert server.poll() is None, log.read_text()
                time.sleep(0.1)
        else:
            pytest.fail(f"JupyterLab does not answer:\n{log.read_text()}")
        yield address
    finally:
        stop(server)


def stop(server: subprocess.Popen[bytes]) -> None:
    """First so that the server ends its kernels, each in a session of its own; then for sure."""
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def opened(browser: Browser, lab: str, name: str) -> Page:
    page = browser.new_context(viewport={"width": 1100, "height": 1400}).new_page()
    page.goto(f"{lab}doc/workspaces/{Path(name).stem}/tree/{name}")
    expect(page.locator(".jp-Cell").first).to_be_visible(timeout=WAIT)
    return page


@pytest.fixture(scope="module")
def page(browser: Browser, lab: str) -> Iterator[Page]:
    """The notebook with a kernel."""
    page = opened(browser, lab, "live.ipynb")
    expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=WAIT)
    yield page
    page.context.close()


def cell(page: Page, name: str) -> Locator:
    return page.locator(".jp-CodeCell").nth(ORDER.index(name))


def start(page: Page, name: str) -> Locator:
    """Begin to run a cell."""
    cell(page, name).locator(".jp-InputArea-editor").click()
    page.keyboard.press("Shift+Enter")
    return cell(page, name)


def run(page: Page, name: str) -> Locator:
    """Run a cell to its end."""
    where = start(page, name)
    expect(where.locator(".jp-InputArea-prompt")).to_have_text(DONE, timeout=WAIT)
    return where


def drawing(where: Locator) -> str:
    return where.locator("figure svg[role=img]").evaluate("svg => svg.outerHTML")


def printed(where: Locator) -> str:
    return where.locator(".jp-OutputArea-output").inner_text().strip()


def test_a_widget_shows(page: Page) -> None:
    """Through the widget manager, not as the HTML beside it."""
    first = run(page, "show")
    expect(first.locator("figure svg[role=img]")).to_be_visible(timeout=WAIT)
    expect(first.locator("[data-wn-figure]")).to_have_count(0)


def test_python_changes_the_picture_in_all_views(page: Page) -> None:
    first, second = cell(page, "show"), run(page, "again")
    expect(second.locator("figure svg[role=img]")).to_be_visible(timeout=WAIT)
    checks.redrawn(page)
    assert drawing(first) == drawing(second)
    before = drawing(first)
    run(page, "set")
    for view in (first, second):
        expect(view.get_by_label("tanh")).to_be_checked()
        expect(view.locator("svg text.read")).to_contain_text("t = 2.5: f(t) = 0.987")
    checks.redrawn(page)
    assert drawing(first) == drawing(second) != before


def test_the_reader_changes_python_and_only_the_figure(page: Page) -> None:
    """The keys that move and edit JupyterLab's cells do nothing to them inside of a figure."""
    first, second = cell(page, "show"), cell(page, "again")
    first.get_by_label("leaky ReLU").check()
    slider = first.get_by_label("Slope below zero")
    slider.focus()
    # Of a cell's classes one tells how wide its toolbar is; JupyterLab sets it when it has time.
    active = """() => [...document.querySelectorAll('.jp-Cell')].map(
      (c) => [...c.classList].filter((name) => name !== "jp-toolbar-overlap").join(" "))"""
    before = page.evaluate(active)
    for key in ("ArrowRight", "ArrowUp", "ArrowRight", "ArrowLeft", "j", "k", "a", "b", "d", "d"):
        page.keyboard.press(key)
    assert page.evaluate(active) == before
    first.get_by_role("application", name="Input").focus()
    for key in ("ArrowLeft", "ArrowDown", "ArrowUp", "x", "m"):
        page.keyboard.press(key)
    assert page.evaluate(active) == before
    expect(second.get_by_label("Slope below zero")).to_have_value("0.12")
    assert printed(run(page, "read")) == "slope 0.12 at 2.4"


def test_rows_stream_while_the_training_runs(page: Page) -> None:
    where = start(page, "train")
    curve = where.locator("figure svg[role=img] > g[clip-path] > path[stroke-width='2']").first
    for epoch in (1, 2, 3):
        points = re.compile(f"^([ML][^ML]*){{{epoch}}}$")
        expect(curve).to_have_attribute("d", points, timeout=WAIT)
        answer = where.locator("input.jp-Stdin-input")  # the cell waits, so it has not ended
        expect(answer).to_have_count(1, timeout=WAIT)
        answer.press("Enter")
    expect(where.locator(".jp-InputArea-prompt")).to_have_text(DONE, timeout=WAIT)


@pytest.fixture(scope="module")
def stored(page: Page, folder: Path) -> nbformat.NotebookNode:
    """The notebook as JupyterLab saves it, in the form of the book's."""
    cell(page, "read").locator(".jp-InputArea-editor").click()
    page.keyboard.press("Control+s")
    end = time.monotonic() + WAIT / 1000
    while WIDGET not in (folder / "live.ipynb").read_text(encoding="utf-8"):
        assert time.monotonic() < end, "JupyterLab saves no outputs"
        time.sleep(0.1)
    return normalize(nbformat.read(folder / "live.ipynb", as_version=4))


@pytest.mark.parametrize("trusted", [False, True])
def test_stored_it_is_a_picture(
    browser: Browser,
    lab: str,
    folder: Path,
    environment: dict[str, str],
    stored: nbformat.NotebookNode,
    trusted: bool,
) -> None:
    """Without a kernel, and away from the site, no script is there to bring it to life."""
    name = f"{'trusted' if trusted else 'stored'}.ipynb"
    nbformat.write(stored, folder / name)
    if trusted:
        notary = NotebookNotary(data_dir=environment["JUPYTER_DATA_DIR"])
        notary.sign(nbformat.read(folder / name, as_version=4))
        notary.store.close()
    page = opened(browser, lab, name)
    images = cell(page, "show").locator("img:visible")
    expect(images).to_have_count(1)
    expect(images).to_have_attribute("alt", re.compile("^Leaky ReLU"))
    assert images.evaluate("image => image.naturalWidth") > 300
    expect(page.get_by_text("Error displaying widget")).to_have_count(0)
    page.context.close()


def test_a_chapter_reads_as_on_the_page(browser: Browser, lab: str) -> None:
    """Folded code is closed, nothing of MyST is left, and links lead to the other notebooks."""
    page = opened(browser, lab, "book/intro.ipynb")
    first = page.locator(".jp-CodeCell").first
    expect(first.locator(".jp-InputPlaceholder")).to_be_visible(timeout=WAIT)
    link = page.locator(".jp-MarkdownOutput a[href*='08-reading-the-report.ipynb']").first
    expect(link).to_be_visible(timeout=WAIT)
    assert not re.search(r"\{(doc|cite|term|ref)", page.locator(".jp-Notebook").inner_text())
    link.click()
    tab = page.locator(".lm-TabBar-tab.jp-mod-current")
    expect(tab).to_contain_text("08-reading-the-report", timeout=WAIT)
    page.context.close()
