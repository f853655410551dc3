"""Smoothing beside scipy's and a fit by numpy."""

import math
from itertools import groupby

import numpy as np
import pytest
from figures.plots import smooth
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import savgol_filter

laws = settings(max_examples=50, deadline=None, derandomize=True)
NAN = float("nan")


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
