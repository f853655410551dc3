"""Figures and tables: they show the records' numbers, in both themes, for any runs."""

import base64
import math
import re
from dataclasses import replace
from html import unescape
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from figures.plots import (
    COLORS,
    INK,
    PAPER_COLOR,
    STYLES,
    Checked,
    Gain,
    Plot,
    Table,
    bump,
    forest,
    heat,
    plot_running_time,
    plot_test_error,
    smooth,
    strip,
    table,
)
from PIL import Image

from wnlib import Norm, Recipe
from wnlib.lab import Run, load_runs
from wnlib.lab.records import PAPER, REPORT
from wnlib.training import Row, State

BOOK_RUNS = Path(__file__).parent.parent.parent / "book" / "runs"


def run_of(norm, errors, state=State.FINISHED, source="wnlib", seconds=2.0):
    rows = [
        Row(i, 0.003, 2.0 / i, math.nan, math.nan, error, seconds)
        for i, error in enumerate(errors, 1)
    ]
    return Run(Recipe.paper(norm), rows, state, source, {})


@pytest.fixture
def runs():
    return [run_of(norm, np.linspace(0.8, 0.2 + 0.01 * i, 60)) for i, norm in enumerate(Norm)]


def lines(plot):
    (axes,) = plot.figure().axes
    return axes.get_lines()


def legend(plot):
    (axes,) = plot.figure().axes
    return [text.get_text() for text in axes.get_legend().get_texts()]


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_curves_are_the_records(runs):
    for line, run in zip(lines(plot_test_error(runs)), runs, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 61))
        np.testing.assert_allclose(line.get_ydata(), 100 * run.column("test_error"))


def test_smoothed_curves_lie_over_the_raw_ones(runs):
    drawn = lines(plot_test_error(runs, smoothed=True, window=11, degree=2))
    raw, strong = drawn[:5], drawn[5:]
    for faint, line, run in zip(raw, strong, runs, strict=True):
        values = 100 * run.column("test_error")
        np.testing.assert_allclose(faint.get_ydata(), values)
        np.testing.assert_allclose(line.get_ydata(), smooth(values, 11, 2))
        assert faint.get_alpha() < 0.5 < line.get_alpha()
    assert len(legend(plot_test_error(runs, smoothed=True))) == 5


def test_one_color_and_style_a_configuration(runs):
    assert [line.get_color() for line in lines(plot_test_error(runs))] == [COLORS[n] for n in Norm]
    assert len(set(COLORS.values())) == len(set(map(str, STYLES.values()))) == 5


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colors_stand_out(theme):
    assert contrast(INK[theme], PAPER_COLOR[theme]) >= 7
    least = {"light": 3, "dark": 4.5}[theme]
    assert all(contrast(color, PAPER_COLOR[theme]) >= least for color in COLORS.values())


def test_sources_are_named_where_they_differ(runs):
    theirs = [replace(run, source="report-2019") for run in runs[:1]]
    assert legend(plot_test_error(runs)) == [n.label for n in Norm]
    assert legend(plot_test_error(runs + theirs))[-1] == "plain (report-2019)"


@pytest.mark.parametrize("name", ["$", r"$\frac{$", r"cost: 5$, \$6", "$x$ and $y$"])
@pytest.mark.parametrize("plot", [plot_test_error, plot_running_time])
def test_a_name_is_no_formula(runs, name, plot, tmp_path):
    drawn = plot([*runs[:1], replace(runs[1], source=name)])
    with plt.rc_context({"svg.fonttype": "none"}):
        drawn.figure().savefig(tmp_path / "a.svg")
    assert f"weight norm ({name})" in unescape((tmp_path / "a.svg").read_text())


def test_a_diverged_run_is_said_to_be(runs):
    diverged = run_of("none", [0.5, 0.9], State.DIVERGED)
    (axes,) = plot_test_error([diverged, *runs[1:]]).figure().axes
    assert any("plain: diverged at epoch 2" in text.get_text() for text in axes.texts)


@pytest.mark.parametrize("error", [0.9, math.nan])
def test_a_run_that_diverges_at_once_is_drawn_with_the_others(runs, error):
    gone = run_of("none", [error], State.DIVERGED)
    for shown in ([gone, *runs[1:]], [gone]):
        plot_test_error(shown, smoothed=True).figure().draw_without_rendering()


def test_seeds_stand_once_in_the_legend(runs):
    seeds = [replace(run, recipe=replace(run.recipe, seed=s)) for run in runs for s in range(3)]
    assert legend(plot_test_error(seeds)) == [n.label for n in Norm]
    assert len(lines(plot_test_error(seeds))) == 15


def test_one_epoch_shows_a_point():
    (line,) = lines(plot_test_error([run_of("wn", [0.5])]))
    assert line.get_marker() == "o"


@pytest.mark.parametrize("plot", [plot_test_error, plot_running_time])
def test_nothing_to_show_says_so_or_is_empty(plot):
    drawn = plot([run_of("wn", [])])
    assert "no runs to show" in drawn.alt
    assert drawn._repr_html_()


def test_running_time_in_bars(runs):
    (axes,) = plot_running_time(runs).figure().axes
    assert [bar.get_width() for bar in axes.patches] == [120.0] * 5
    assert axes.get_xlabel() == "seconds"
    (axes,) = plot_running_time([run_of("bn", [0.5] * 2, seconds=90.0)]).figure().axes
    assert [bar.get_width() for bar in axes.patches] == [3.0]
    assert axes.get_xlabel() == "minutes"


def test_html_has_both_themes_alt_text_and_no_script(runs):
    page = plot_test_error(runs, "A <title>")._repr_html_()
    assert page.count("<img") == 2
    assert len(re.findall(r'alt="A &lt;title&gt;: [^"]+', page)) == 2
    assert "<script" not in page
    pictures = re.findall(r"base64,([^\"]+)", page)
    light, dark = (
        np.asarray(Image.open(BytesIO(base64.b64decode(p))).convert("RGBA")) for p in pictures
    )
    ink = light[..., 3] > 200
    assert light.shape == dark.shape
    assert 0.005 < ink.mean() < 0.5  # drawn on a transparent ground
    assert dark[..., :3][dark[..., 3] > 200].mean() > light[..., :3][ink].mean()
    assert len(page) < 120_000


def test_same_runs_same_bytes(runs):
    assert plot_test_error(runs)._repr_html_() == plot_test_error(runs)._repr_html_()


def test_a_file_has_no_date(runs, tmp_path):
    for name in ("a.png", "b.png"):
        plot_test_error(runs).save(tmp_path / name, "dark")
    a, b = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert len(a) > 1000
    assert a == b


def test_table_lists_report_paper_and_runs():
    run = run_of("wn", [0.5, 0.1234, 0.2])
    rows = {row[0]: row[1:] for row in table([run]).rows}
    assert list(rows) == [n.label for n in Norm]
    assert rows["weight norm"] == ("17.88", "8.46", "12.34 (2)", "20.00", "27.45", "finished")
    assert rows["batch norm"] == (
        f"{100 * REPORT['bn']:.2f}",
        f"{100 * PAPER['bn']:.2f}",
        "",
        "",
        "",
        "no run",
    )


def test_table_as_text_and_html(runs):
    shown = table(runs)
    text = repr(shown).splitlines()
    assert len(text) == 6
    assert len({line.index("finished") + 8 for line in text[1:]}) == 1  # columns line up
    assert shown._repr_html_().count("<tr>") == 6
    assert 'scope="row"' in shown._repr_html_()


def test_report_table_is_its_best_epochs():
    for run in load_runs(BOOK_RUNS / "report-2019"):
        assert run.source == "report-2019"
        assert len(run.rows) == 200
        # To the digit, but for mean-only BN, where text and arrays differ in the last one.
        assert abs(run.summary().best_error - REPORT[run.norm]) <= 1.01e-4


def test_a_plot_draws_on_one_axes_or_on_a_grid():
    drawn = Plot(lambda axes: [a.plot([1, 2]) for a in axes.flat], "four lines", grid=(2, 2))
    assert [len(axes.get_lines()) for axes in drawn.figure().axes] == [1] * 4
    assert repr(drawn) == "Plot('four lines')"


def test_a_column_of_numbers_lines_up_and_one_of_words_does_not():
    rows = [("plain", "w, b", "1,406,794", ""), ("batch norm", "", "-2.9 ± 5.9", "17.88 (190)")]
    html = Table(("", "learns", "in all", "best"), rows)._repr_html_()
    right = re.findall(r'style="text-align:right">([^<]*)', html)
    assert right == ["in all", "best", "1,406,794", "", "-2.9 ± 5.9", "17.88 (190)"]
    assert "style" not in Table(("", "a"), [])._repr_html_()


def test_a_caption_stands_above():
    shown = Table(("", "a"), [("x", "1")], caption="Errors & gains")
    assert repr(shown).splitlines()[0] == "Errors & gains"
    assert "<caption>Errors &amp; gains</caption>" in shown._repr_html_()


def test_what_is_checked_holds_and_leads_to_its_claim():
    shown = Checked("a < b", [True, True], "P2")
    assert repr(shown) == "a < b: True"
    assert '<a href="claims.html#P2">✓ checked</a>: a &lt; b' in shown._repr_html_()
    assert "<a" not in Checked("a", True)._repr_html_()
    with pytest.raises(AssertionError, match=r"^this does not hold: a < b$"):
        Checked("a < b", [True, False])


def test_the_order_by_epoch_is_that_of_the_means():
    seeds = [run_of("wn", [0.5, 0.1, 0.3]), run_of("wn", [0.3, 0.3, 0.3])]  # 0.4, 0.2, 0.3
    others = [run_of("bn", [0.45, 0.1, 0.4]), run_of("none", [0.1], State.DIVERGED)]
    plot = bump([*seeds, *others], at=(1, 2, 3))
    assert plot.alt == (
        "Order by epoch, lowest first. epoch 1: weight norm, batch norm; epoch 2: batch norm, "
        "weight norm; epoch 3: weight norm, batch norm."
    )
    drawn = {line.get_color(): line.get_ydata() for line in lines(plot)}
    assert list(drawn[COLORS[Norm.WN]]) == [1, 2, 1]
    assert np.isnan(drawn[COLORS[Norm.NONE]]).all()


def test_a_heat_map_has_its_numbers():
    cells = {"held": [[1.0, np.nan]], "falling": [[0.25, 3.0]]}
    plot = heat(cells, ["plain"], ["0.001", "0.003"], title="Loss")
    shown = [[text.get_text() for text in axes.texts] for axes in plot.figure().axes]
    assert shown == [["1.00", "×"], ["0.25", "3.00"]]
    assert {axes.images[0].get_clim() for axes in plot.figure().axes} == {(0.25, 3.0)}
    assert "falling, plain: 0.001 0.25, 0.003 3.00" in plot.alt


def test_a_strip_has_a_point_per_seed_and_the_mean():
    plot = strip({Norm.NONE: [2.0, np.nan], Norm.WN: [1.0, 3.0]}, title="Seeds", xlabel="error")
    plain, mean, wn, other = lines(plot)
    assert (list(plain.get_xdata()), list(mean.get_xdata())) == ([2.0], [2.0, 2.0])
    assert (list(wn.get_xdata()), list(other.get_xdata())) == ([1.0, 3.0], [2.0, 2.0])
    (axes,) = plot.figure().axes
    assert [text.get_text() for text in axes.texts] == ["× 1 of 2 diverged"]
    assert plot.alt == "Seeds, error. plain: 2.00, diverged; weight norm: 1.00, 3.00."
    named = lines(strip({"plain, 0.01": [2.0], "both": [1.0]}, title="Seeds", xlabel="error"))
    assert [line.get_color() for line in named[::2]] == [COLORS[Norm.NONE], "C0"]


def test_a_forest_has_gains_with_their_intervals():
    rows = [Gain("a", 1.0, -0.5, 2.5, "one"), Gain("b", -1.0, group="two")]
    (axes,) = forest(rows, title="Gains", xlabel="points").figure().axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["one", "a", "two", "b"]
    assert [t.get_text() for t in axes.texts] == ["+1.0 (−0.5 to +2.5)", "−1.0"]
    assert [list(line.get_xdata()) for line in axes.get_lines()[1:]] == [[-0.5, 2.5], [1.0], [-1.0]]
