"""Many runs: their order, their summaries, the table, smoothing."""

import json
import math
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import savgol_filter

from wnlib import Norm, Recipe
from wnlib.lab import Run, load_runs
from wnlib.lab.runs import PAPER, REPORT, RunError, compare, smooth
from wnlib.training import Row, State

laws = settings(max_examples=50, deadline=None, derandomize=True)
NAN = float("nan")


def row(epoch, test_error=0.5, **values):
    numbers = {"lr": 0.003, "train_loss": 1 / 3, "train_error": 0.1, "test_loss": 2e-17}
    return Row(epoch=epoch, test_error=test_error, seconds=1.5, **(numbers | values))


def run(norm="wn", errors=(0.5, 0.4), **fields):
    rows = [row(i, error) for i, error in enumerate(errors, 1)]
    recipe = Recipe.paper(norm).replace(epochs=max(len(rows), 1))
    return Run(recipe, rows, **({"state": State.FINISHED} | fields))


# --- many runs


def test_runs_are_loaded_in_the_order_of_the_configurations(tmp_path):
    for i, norm in enumerate(reversed(list(Norm))):
        run(norm, source=f"late {norm}").save(tmp_path / "z" / str(i))
        run(norm, source=f"early {norm}").save(tmp_path / "a" / str(i))
    runs = load_runs(str(tmp_path))
    assert [r.source for r in runs] == [f"{w} {n}" for n in Norm for w in ("early", "late")]


def test_no_run_is_an_error(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RunError, match=f"^no run in {folder}$"):
            load_runs(folder)
    run().save(tmp_path / "good")
    run().save(tmp_path / "bad")
    (tmp_path / "bad" / "history.csv").unlink()
    with pytest.raises(RunError, match=r"bad/history.csv is missing"):
        load_runs(tmp_path)


# --- summaries


def test_summary_is_three_ways_to_pick_an_error():
    errors = [0.9, 0.2, 0.5, 0.2, 0.4] + [0.3] * 18
    s = run(errors=errors).summary()
    assert (s.best_error, s.best_epoch, s.final_error) == (0.2, 2, 0.3)
    assert s.last20_error == pytest.approx((0.2 + 0.4 + 18 * 0.3) / 20)
    assert s.wall_seconds == 1.5 * len(errors)
    assert run(provenance={"wall_seconds": 7}).summary().wall_seconds == 7.0
    short = run(errors=[0.5, 0.3]).summary()
    assert short.last20_error == pytest.approx(0.4)


def test_diverged_epochs_are_never_the_best():
    s = run(errors=[0.4, NAN], state=State.DIVERGED).summary()
    assert (s.best_error, s.best_epoch) == (0.4, 1)
    assert math.isnan(s.final_error)
    assert math.isnan(s.last20_error)
    s = run(errors=[NAN, NAN]).summary()
    assert math.isnan(s.best_error)
    rows = [row(1)._replace(seconds=NAN), row(2)]
    assert Run(Recipe.paper("wn"), rows).summary().wall_seconds == 1.5


def test_run_without_epochs_has_no_summary():
    with pytest.raises(RunError, match=r"^the wn run has no epoch to summarize$"):
        run(errors=[]).summary()


def test_columns_are_arrays():
    r = run(errors=[0.5, NAN])
    np.testing.assert_array_equal(r.column("test_error"), [0.5, NAN])
    np.testing.assert_array_equal(r.column("epoch"), [1, 2])
    assert run(errors=[]).column("lr").shape == (0,)


def test_tables_are_the_sources():
    assert list(PAPER) == list(REPORT) == list(Norm)
    paper = {"none": 8.43, "wn": 8.46, "mobn": 8.52, "bn": 8.05, "wn_mobn": 7.31}
    assert {str(n): round(100 * e, 9) for n, e in PAPER.items()} == paper


def test_comparison_has_a_line_a_configuration():
    wn = run("wn", [0.5, 0.25, 0.3])
    empty = run("bn", [], state=State.INTERRUPTED)
    table = compare([wn, run("wn", [0.1]), empty])
    assert [line["norm"] for line in table] == [str(n) for n in Norm]
    for line, norm in zip(table, Norm, strict=True):
        assert (line["label"], line["report"], line["paper"]) == (
            norm.label, REPORT[norm], PAPER[norm],
        )  # fmt: skip
    of = {line["norm"]: line for line in table}
    got = {
        k: of["wn"][k] for k in ("best", "final", "best_epoch", "epochs", "wall_seconds", "state")
    }
    assert got == {
        "best": 0.25, "final": 0.3, "best_epoch": 2, "epochs": 3, "wall_seconds": 4.5,
        "state": "finished",
    }  # fmt: skip
    assert of["wn"]["last20"] == pytest.approx(0.35)
    missing = ("best", "final", "last20", "best_epoch", "epochs", "wall_seconds", "state")
    assert {of["mobn"][k] for k in missing} == {None}
    assert (of["bn"]["best"], of["bn"]["epochs"], of["bn"]["state"]) == (None, 0, "interrupted")
    json.dumps(table)


# --- smoothing


@laws
@given(
    st.integers(1, 120),
    st.integers(0, 6),
    st.integers(0, 12),
    st.lists(st.floats(-1, 1), min_size=7, max_size=7),
)
def test_polynomials_of_its_degree_pass_through(n, degree, extra, coefficients):
    x = np.linspace(-1, 1, n)
    values = np.polynomial.Polynomial(coefficients[: degree + 1])(x)
    window = 2 * (degree + extra) + 1
    np.testing.assert_allclose(smooth(values, window, degree), values, atol=1e-7)


@laws
@given(st.integers(51, 120), st.integers(0, 1000))
def test_smoothing_is_scipys(n, seed):
    values = np.random.default_rng(seed).normal(size=n)
    np.testing.assert_allclose(smooth(values), savgol_filter(values, 51, 10))
    np.testing.assert_allclose(smooth(values, 7, 2), savgol_filter(values, 7, 2))


def test_smoothing_is_a_least_squares_fit():
    """In the middle of every window, the value of a polynomial fitted by numpy."""
    values = np.random.default_rng(0).normal(size=30)
    smoothed = smooth(values, 9, 3)
    for i in range(4, 26):
        fit = np.polynomial.Polynomial.fit(np.arange(-4, 5), values[i - 4 : i + 5], 3)
        assert smoothed[i] == pytest.approx(fit(0))


@pytest.mark.parametrize("n", range(1, 13))
def test_short_curves_are_smoothed_in_what_they_have(n):
    values = np.random.default_rng(n).normal(size=n)
    window = n if n % 2 else n - 1
    expected = savgol_filter(values, window, min(10, window - 1))
    np.testing.assert_allclose(smooth(list(values)), expected, atol=1e-9)


def test_nothing_is_smoothed_to_nothing():
    assert smooth([]).shape == (0,)


@laws
@given(st.lists(st.floats(-1, 1) | st.sampled_from([NAN, math.inf, -math.inf]), max_size=60))
def test_what_is_missing_parts_a_curve_in_two(values):
    """As for a run that diverged: what is known is smoothed, and what is not stays missing."""
    stretches = [
        (known, list(each)) for known, each in groupby(values, key=lambda v: math.isfinite(v))
    ]
    expected = [
        v
        for known, stretch in stretches
        for v in (smooth(stretch, 7, 2) if known else [NAN] * len(stretch))
    ]
    np.testing.assert_array_equal(smooth(values, 7, 2), expected)


@pytest.mark.parametrize(("window", "degree"), [(0, 1), (-3, 1), (4, 1), (5, -1)])
def test_impossible_windows_are_refused(window, degree):
    message = f"^window is odd and degree from 0 up, not {window} and {degree}$"
    with pytest.raises(ValueError, match=message):
        smooth([1.0, 2.0, 3.0], window, degree)
