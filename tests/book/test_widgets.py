"""The figures' Python side, and the mathematics of their scripts under node."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import figures as widgets
import numpy as np
import pytest
import torch
import traitlets
from drawn import FIGURES, html_of, made
from figures.base import Figure, rounded
from figures.plots import COLORS, STYLES, Plot
from figures.scripts import site_script
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from wnlib import Norm

every_figure = pytest.mark.parametrize("name", FIGURES)


def stored(html):
    """The state that a page keeps."""
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.S)[1])


class Note(Figure):
    """A figure with a text of the caller's, on a script of another's."""

    script = "activations"
    text = traitlets.Unicode().tag(sync=True)

    def picture(self):
        return Plot(lambda axes: axes.plot([0, 1]), "a line")


def test_all_figures_are_here():
    assert list(FIGURES) == widgets.__all__


@every_figure
def test_same_figure_same_bytes_and_not_many(name):
    first, second = made(name), FIGURES[name]()
    assert html_of(name) == second.html()
    assert repr(first) == repr(second)
    assert len(html_of(name).encode()) < 150_000


@every_figure
def test_in_a_notebook_it_is_widget_page_and_text(name):
    figure = made(name)
    data, _ = figure._repr_mimebundle_()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == figure.model_id
    assert data["text/html"] == html_of(name)
    assert data["text/plain"] == repr(figure)
    assert "0x" not in repr(figure)


@every_figure
def test_the_page_keeps_the_whole_state(name):
    figure = made(name)
    state = stored(html_of(name))
    synced = set(type(figure).class_traits(sync=True))
    # What the front end reads is what Python offers, under the same names.
    assert set(state) <= synced
    assert {"title", "caption", "data"} <= set(state)
    assert state == json.loads(json.dumps(figure.state()))


@every_figure
def test_without_javascript_there_is_a_picture_that_says_what_it_shows(name):
    figure = made(name)
    alts = re.findall(r'<img [^>]*alt="([^"]+)"', html_of(name))
    assert len(alts) == 2  # light and dark
    assert len(figure.title) > 20
    assert len(figure.caption) > 40


@every_figure
def test_a_stored_output_holds_data_and_a_picture_and_no_code(name):
    html = html_of(name)
    assert re.findall("<script[^>]*>", html) == ['<script type="application/json">']
    assert f'data-wn-figure="{made(name).script}"' in html
    assert not re.search(r"\bon\w+=|javascript:", re.sub(r"<script.*?</script>", "", html))


def parses(text, path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node; with Debian: apt-get install nodejs")
    path.write_text(text)
    done = subprocess.run([node, "--check", path], capture_output=True, text=True)
    return done.returncode == 0 or done.stderr


@every_figure
def test_a_widget_is_one_module(name, tmp_path):
    text = made(name)._esm
    assert parses(text, tmp_path / "a.mjs") is True
    assert re.findall(r"^(?:export|import) .*", text, re.M) == [
        f"export default ${made(name).script}.default;"
    ]


def test_the_site_has_one_script_for_all_figures(tmp_path):
    text = site_script()
    assert parses(text, tmp_path / "a.cjs") is True  # classic: no module's syntax
    *_, call = re.findall(r"present\(\{(.*)\}\)", text)
    scripts = {getattr(widgets, name).script for name in widgets.__all__}
    assert {pair.split(":")[0].strip() for pair in call.split(",")} == scripts
    assert text.count("class Stage") == 1


def test_a_site_takes_the_script_along(tmp_path):
    (tmp_path / "conf.py").write_text("extensions = ['figure_script']\n")
    (tmp_path / "index.rst").write_text("A page\n======\n")
    book = Path(widgets.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", tmp_path, tmp_path / "site"],
        env=os.environ | {"PYTHONPATH": f"{book}{os.pathsep}{book.parent}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "_static" / "figures.js").read_text() == site_script()
    tags = re.findall(r"<script[^>]*figures\.js[^>]*>", (tmp_path / "site/index.html").read_text())
    assert len(tags) == 1
    assert "defer" in tags[0]
    assert "module" not in tags[0]  # a module doesn't run from file://


@pytest.mark.parametrize(
    "path", sorted(Path(widgets.__file__).parent.glob("*.js")), ids=lambda path: path.name
)
def test_scripts_ask_nobody_and_write_no_markup(path):
    text = path.read_text()
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "fetch(", "XMLHttp", "eval("):
        assert word not in text
    addresses = set(re.findall(r"https?://[^\"'` ]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}


@settings(deadline=None, max_examples=8)
@given(st.text())
def test_no_text_ends_the_script_or_becomes_markup(text):
    html = Note(text=text + "</script><img src=x onerror=alert(1)><!--").html()
    assert stored(html)["text"].startswith(text)
    assert "onerror" not in re.sub(r"<script.*?</script>", "", html, flags=re.S)


def test_missing_numbers_are_null():
    value = {"a": np.array([[1.23456789, np.nan]]), "b": (np.inf, 3, "x", None), "c": 2 / 3}
    assert rounded(value) == {"a": [[1.23457, None]], "b": [None, 3, "x", None], "c": 0.666667}


def test_configurations_look_the_same_as_in_plots(javascript):
    front = javascript("base", "m.NORMS")
    assert list(front) == list(Norm)
    for norm in Norm:
        assert front[norm]["label"] == norm.label
        assert front[norm]["color"] == COLORS[norm]
        style = {"-": (), "--": (3.7, 1.6), "-.": (6.4, 1.6, 1, 1.6)}.get(STYLES[norm])
        dashes = STYLES[norm][1] if style is None else style
        assert [float(d) for d in front[norm]["dash"].split()] == pytest.approx(
            [1.6 * d for d in dashes]
        )


@pytest.mark.parametrize(
    ("low", "high", "count"), [(0, 1, 5), (-3, 7, 4), (0, 1e-6, 5), (99, 101, 6), (0, 12345, 3)]
)
def test_ticks_are_round_and_within(javascript, low, high, count):
    ticks = javascript("base", "m.ticks(low, high, count)", low=low, high=high, count=count)
    assert all(low <= t <= high for t in ticks)
    steps = np.diff(ticks)
    assert steps == pytest.approx(steps[0])
    assert f"{steps[0]:.3e}"[0] in "125"
    assert count / 2.5 <= len(ticks) <= 2.5 * count


def test_numbers_as_people_read_them(javascript):
    numbers = [-0.123456, 1234567, -1e-9, 0, None, 2.5]
    text = javascript("base", "numbers.map((n) => m.format(n))", numbers=numbers)
    assert text == ["−0.123", "1230000", "−1e−9", "0", "–", "2.5"]


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        ("relu", torch.relu),
        ("leaky", lambda t: F.leaky_relu(t, 0.2)),
        ("sigmoid", torch.sigmoid),
        ("tanh", torch.tanh),
    ],
)
def test_activations_and_derivatives_are_those_of_torch(javascript, kind, function):
    t = torch.tensor([-4, -1.5, -0.01, 0, 0.01, 0.7, 4.0], dtype=torch.float64, requires_grad=True)
    f = function(t)
    f.sum().backward()
    pairs = javascript(
        "activations", "t.map((x) => m.KINDS[kind](x, 0.2))", t=t.tolist(), kind=kind
    )
    torch.testing.assert_close(torch.tensor(pairs, dtype=f.dtype), torch.stack([f, t.grad], 1))
