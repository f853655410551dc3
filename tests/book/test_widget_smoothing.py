"""Smoothing: windows under node, beside numpy's own fit; broken runs."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import traitlets
from figures import Smoothing

from wnlib import Norm, Recipe
from wnlib.lab import Run, load_runs
from wnlib.lab.records import Row

RUNS = Path(__file__).parent.parent.parent / "book" / "runs"


@pytest.fixture(scope="module")
def report():
    return load_runs(RUNS / "report-2019")


@pytest.mark.parametrize(("at", "start"), [(0, 0), (25, 0), (26, 1), (100, 75), (199, 149)])
@pytest.mark.parametrize("degree", [0, 3, 10])
def test_the_polynomial_of_a_window(javascript, report, at, start, degree):
    errors = 100 * report[2].column("test_error")
    found = javascript("smoothing", "m.windowAt(v, i, 51, d)", v=errors.tolist(), i=at, d=degree)
    assert (found["start"], found["width"]) == (start, 51)
    x = np.arange(51)
    fit = np.polynomial.Legendre.fit(x, errors[start : start + 51], degree)
    np.testing.assert_allclose(found["fit"], fit(x), atol=1e-8)
    # Its own weight: how far the fitted value moves with the recorded one.
    moved = errors.copy()
    moved[at] += 1
    shifted = np.polynomial.Legendre.fit(x, moved[start : start + 51], degree)
    assert found["weight"] == pytest.approx(shifted(at - start) - fit(at - start), abs=1e-8)


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_fewer_epochs_than_the_window(javascript, count):
    errors = [0.5 - 0.01 * i for i in range(count)]
    found = javascript("smoothing", "v.map((_, i) => m.windowAt(v, i, 51, 10))", v=errors)
    width = count - (count % 2 == 0)
    for i, one in enumerate(found):
        assert one["width"] == width
        assert 0 <= i - one["start"] < width
        np.testing.assert_allclose(one["fit"], errors[one["start"] :][:width], atol=1e-12)
        assert one["weight"] == pytest.approx(1)


def test_it_keeps_one_whole_run_of_each_configuration(report):
    kept = Smoothing([*report, report[0]]).data["runs"]
    assert [run["norm"] for run in kept] == [n.value for n in Norm]
    assert kept[1]["test_error"] == report[1].column("test_error").tolist()
    gap = [Row(1, 0.1, 1.0, 1.0, 1.0, math.nan, 1.0)]
    for broken in ([], [Run(Recipe.paper("wn"))], [Run(Recipe.paper("wn"), gap)]):
        figure = Smoothing(broken)
        assert figure.data == {"runs": []}
        assert re.search("<img", figure.html())
    assert Smoothing(report[3:]).norm == "bn"


def test_windows_are_odd(report):
    with pytest.raises(traitlets.TraitError, match="odd"):
        Smoothing(report, window=20)
