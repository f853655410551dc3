"""The figures where Colab shows them: with ipywidgets 7, and through its own widget manager."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from anywidget import _util as anywidget_util
from figures import FIGURES
from IPython.core.interactiveshell import InteractiveShell

from wnlib.lab import Activations

HERE = Path(__file__).parent.parent
# Colab's, and what it imports.
OLD = (
    "ipywidgets==7.7.1"
    " --hash=sha256:aa1076ab7102b2486ae2607c43c243200a07c17d6093676c419d4b6762489a50",
    "ipython_genutils==0.2.0"
    " --hash=sha256:72dd37233799e619666c9f639a9da83c34013a73e8bbc79a7a6348d93c61fab8",
)
WIDGET = "application/vnd.jupyter.widget-view+json"


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
    path = os.pathsep.join(map(str, (folder, HERE.parent, HERE)))
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
