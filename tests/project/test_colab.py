"""As Colab runs it: the first cell, alone; and figures, with ipywidgets 7 and its own manager."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nbformat
import pytest
import repository
import setup_cell
from anywidget import _util as anywidget_util
from drawn import FIGURES
from figures import Activations
from IPython.core.interactiveshell import InteractiveShell
from lone import Machine
from nbclient.exceptions import CellExecutionError

HERE = Path(__file__).parent.parent
# Colab's, and what it imports.
OLD = (
    "ipywidgets==7.7.1"
    " --hash=sha256:aa1076ab7102b2486ae2607c43c243200a07c17d6093676c419d4b6762489a50",
    "ipython_genutils==0.2.0"
    " --hash=sha256:72dd37233799e619666c9f639a9da83c34013a73e8bbc79a7a6348d93c61fab8",
)
WIDGET = "application/vnd.jupyter.widget-view+json"
ROOT = HERE.parent
NOTEBOOKS = sorted(ROOT.glob("book/*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_begins_with_this_cell(path: Path) -> None:
    code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert [setup_cell.is_one(cell) for cell in code] == [True] + [False] * (len(code) - 1)
    assert code[0].source == setup_cell.TEXT, "run tools/setup_cell.py"


def test_the_cell_is_written_where_it_is_old() -> None:
    old = nbformat.v4.new_code_cell("# Setup, as it was", metadata={"tags": ["hide-input"]})
    notebook = nbformat.v4.new_notebook(cells=[old, nbformat.v4.new_code_cell("1 + 1")])
    setup_cell.stamp(notebook)
    assert [cell.source for cell in notebook.cells] == [setup_cell.TEXT, "1 + 1"]


PACKAGE = """[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "wnlib"
version = "0"
dependencies = ["torch==1.0", "numpy==1.0"]
[tool.setuptools]
packages = ["wnlib"]
"""


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a package and a folder of a book. The package would like other versions."""
    folder = tmp_path_factory.mktemp("origin")
    for name, text in {
        "pyproject.toml": PACKAGE,
        "wnlib/__init__.py": "HERE = __file__",
        "book/noise.py": "LOUD = True",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    commit(folder, "init", "--quiet", "--initial-branch", repository.BRANCH)
    return folder


def commit(folder: Path, *before: str) -> None:
    if before:
        subprocess.run(["git", *before], cwd=folder, check=True)
    named = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "add", "--all"], cwd=folder, check=True)
    subprocess.run(["git", *named, "commit", "--quiet", "-m", "m"], cwd=folder, check=True)


@pytest.fixture
def machine(tmp_path: Path, origin: Path) -> Machine:
    return Machine(tmp_path, origin)


def printed(machine: Machine, *sources: str) -> list[str]:
    """What cells print after the first, which is the book's."""
    cells = [nbformat.v4.new_code_cell(source) for source in (setup_cell.TEXT, *sources)]
    done = machine.run(nbformat.v4.new_notebook(cells=cells))
    assert not done.cells[0].outputs, "the cell is not silent"
    return ["".join(o.text for o in cell.outputs) for cell in done.cells[1:]]


def failure(machine: Machine) -> str:
    """The one line that is left when the first cell fails, with nothing after it run."""
    cells = [nbformat.v4.new_code_cell(text) for text in (setup_cell.TEXT, "import wnlib")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    with pytest.raises(CellExecutionError) as caught:
        machine.run(notebook)
    assert caught.value.ename == "SystemExit"
    assert "\n" not in caught.value.evalue
    assert notebook.cells[1].execution_count is None, "the next cell fails on top of it"
    return caught.value.evalue


def test_alone_it_fetches_the_book_once(machine: Machine) -> None:
    asked = "import os, sys, wnlib, noise, torch, numpy\n"
    asked += "print(wnlib.HERE.startswith(sys.prefix), os.getcwd().endswith('/book/book'))\n"
    asked += "print(os.environ['OMP_WAIT_POLICY'], torch.__version__, numpy.__version__)"
    first, again, restarted = printed(
        machine,
        asked,
        f"{setup_cell.TEXT}\n{asked}",
        f"os.chdir('../..')\n{setup_cell.TEXT}\n{asked}",  # a new kernel, the files still there
    )
    import numpy
    import torch

    assert first == f"True True\nPASSIVE {torch.__version__} {numpy.__version__}\n"
    assert again == first
    assert restarted == first
    assert not list(machine.folder.glob("*/x")), "a folder's name was run as a command"


def test_kaggle_has_another_sign(machine: Machine) -> None:
    (startup,) = machine.folder.glob("ipython/profile_default/startup/*.py")
    startup.unlink()
    machine.environment["KAGGLE_KERNEL_RUN_TYPE"] = "Interactive"
    asked = (
        "import sys, wnlib\nprint('google.colab' in sys.modules, wnlib.HERE.startswith(sys.prefix))"
    )
    assert printed(machine, asked) == ["False True\n"]


def test_elsewhere_it_does_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"{setup_cell.TEXT}\nprint(os.environ['OMP_WAIT_POLICY'])"],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (done.stdout, done.stderr) == ("PASSIVE\n", "")
    assert list(tmp_path.iterdir()) == []


def test_no_repository(tmp_path: Path) -> None:
    machine = Machine(tmp_path, tmp_path / "nowhere")
    said = failure(machine)
    github = f"https://github.com/{repository.PLACEHOLDER}"
    assert said.startswith(f"The book could not be fetched, {github}: fatal: ")
    assert "nowhere" in said
    machine.environment["KAGGLE_KERNEL_RUN_TYPE"] = "Interactive"
    assert failure(machine) == f"{said} (Kaggle: is Settings → Internet on?)"


def test_no_such_branch(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "a").touch()
    commit(other, "init", "--quiet", "--initial-branch", "main")
    assert "fatal: Remote branch colab not found" in failure(Machine(tmp_path, other))


def test_pip_fails(tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "book").mkdir(parents=True)
    (other / "book" / "a").touch()
    commit(other, "init", "--quiet", "--initial-branch", repository.BRANCH)
    said = failure(Machine(tmp_path, other))
    assert "ERROR: Directory" in said
    assert "is not installable" in said


def test_another_folder_of_that_name(tmp_path: Path, origin: Path) -> None:
    """It installs, but has no chapters."""
    other = tmp_path / "other"
    (other / "wnlib").mkdir(parents=True)
    for name in ("pyproject.toml", "wnlib/__init__.py"):
        (other / name).write_bytes((origin / name).read_bytes())
    commit(other, "init", "--quiet", "--initial-branch", repository.BRANCH)
    said = failure(Machine(tmp_path, other))
    assert said.startswith("Delete the folder ")
    assert said.endswith("/book, and run this again")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tests/colab.py finds, with the old ipywidgets before the installed one."""
    folder = tmp_path_factory.mktemp("ipywidgets7")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    options = ["--no-deps", "--no-compile", "--retries", "0", "--timeout", "10"]
    listed = folder / "requirements.txt"
    listed.write_text("\n".join(OLD))
    checked = ["--require-hashes", "--requirement", str(listed)]
    install = [*pip, *options, "--target", str(folder), *checked]
    if subprocess.run(install, capture_output=True, timeout=120).returncode != 0:
        pytest.skip("needs a package index that has ipywidgets 7.7.1")
    path = os.pathsep.join(map(str, (folder, HERE.parent, HERE, HERE.parent / "book")))
    done = subprocess.run(
        [sys.executable, str(HERE / "colab.py")],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])  # before it, what a plain widget displays
    assert result["version"] == "7.7.1"
    return result


@pytest.mark.parametrize("name", FIGURES)
def test_constructs_and_shows(old: dict[str, Any], name: str) -> None:
    found = old["figures"][name]
    assert found["opened"], "the browser is told another state than Python has"
    assert found["module"]
    assert found["model"]
    assert {WIDGET, "text/html", "text/plain"} <= set(found["bundle"])


def test_other_widgets_display_themselves_and_leave_no_bundle(old: dict[str, Any]) -> None:
    """So the route is Colab's: `_ipython_display_` goes first."""
    assert old["plain"] == []


def test_traits_are_checked_and_go_both_ways(old: dict[str, Any]) -> None:
    found = old["synchronized"]
    assert found["sent"] == [{"slope": 0.5}]
    assert found["refused"] == [True, True]
    assert found["silent"] == []  # what was refused is not sent, nor what came from there
    assert (found["slope"], found["at"]) == (0.5, 3.0)


def test_rows_of_a_training_are_sent(old: dict[str, Any]) -> None:
    lengths = [len(sent["data"]["curves"][0]["runs"][0]["test_error"]) for sent in old["added"]]
    assert lengths == [1, 2]
    assert all(set(sent) == {"data"} for sent in old["added"])


@pytest.fixture
def colab(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A `google.colab` that counts how often its widget manager is enabled."""
    enabled: list[str] = []
    output = ModuleType("google.colab.output")
    output.enable_custom_widget_manager = lambda: enabled.append("once")
    output._widgets = SimpleNamespace(_installed_url="https://example.org/manager.js")
    for name, module in {
        "google": ModuleType("google"),
        "google.colab": ModuleType("google.colab"),
        "google.colab.output": output,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    anywidget_util.enable_custom_widget_manager_once.cache_clear()
    yield enabled
    anywidget_util.enable_custom_widget_manager_once.cache_clear()


def test_colab_is_told_once_that_a_widget_is_another_s(colab: list[str]) -> None:
    first, second = Activations(), Activations()
    assert colab == ["once"]
    for figure in (first, second):
        data, metadata = InteractiveShell.instance().display_formatter.format(figure)
        assert metadata[WIDGET]["colab"]["custom_widget_manager"]["url"]
        assert {WIDGET, "text/html"} <= set(data)
    assert colab == ["once"]


def test_elsewhere_nobody_is_told() -> None:
    _, metadata = Activations()._repr_mimebundle_()
    assert metadata == {}
