"""What several seeds tell: means, deviations and differences, restated."""

import json
from itertools import product
from statistics import stdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from wnlib import Norm
from wnlib.lab import Run
from wnlib.lab.plans import Setting, differences, plan_grid, spread, summarize, summary_text
from wnlib.training import Row, State

errors = st.floats(0, 1)


@given(st.lists(errors, min_size=2, max_size=9))
def test_spread_is_mean_and_standard_deviation(values):
    n, mean, sd = spread(values)
    assert n == len(values)
    np.testing.assert_allclose([mean, sd], [np.mean(values), stdev(values)], atol=1e-12)


def test_one_seed_has_no_spread():
    assert spread([0.25]) == (1, 0.25, None)


@given(st.lists(st.tuples(errors, errors), min_size=2, max_size=9))
def test_difference_is_scipys(pairs):
    a, b = Setting("paper", None, "linear", Norm.NONE), Setting("paper", None, "linear", Norm.WN)
    by_setting = {a: {seed: x for seed, (x, _) in enumerate(pairs)}}
    # Seeds that only one of them has say nothing, and their order is not theirs.
    by_setting[b] = {99: 0.5} | {seed: y for seed, (_, y) in reversed(list(enumerate(pairs)))}
    (found,) = differences(by_setting)
    x, y = np.array(pairs).T
    assert (found.setting, found.other, found.n) == (b, a, len(pairs))
    np.testing.assert_allclose(
        [found.mean, found.se], [np.mean(y - x), stats.sem(y - x)], atol=1e-12
    )


def test_difference_over_its_error_is_the_paired_t():
    x, y = [0.20, 0.25, 0.22, 0.27], [0.18, 0.19, 0.21, 0.20]
    a, b = Setting("paper", 0.1, "linear", Norm.WN), Setting("paper", 0.1, "exp", Norm.WN)
    (found,) = differences({a: dict(enumerate(x)), b: dict(enumerate(y))})
    assert found.mean / found.se == pytest.approx(stats.ttest_rel(y, x).statistic)


def test_only_one_axis_differs_and_seeds_are_shared():
    settings = [
        Setting(*each)
        for each in product(["paper", "report"], [0.1, 0.2], ["linear"], [Norm.WN, Norm.BN])
    ]
    found = differences({setting: {0: 0.1, 1: 0.2} for setting in settings})
    assert len(found) == 12  # the edges of a cube
    assert not differences({setting: {0: 0.1} for setting in settings})
    one_each = {setting: {n: 0.1, n + 100: 0.2} for n, setting in enumerate(settings)}
    assert not differences(one_each), "no seed is shared"


def recorded(out, errors, **axes):
    """A grid whose runs end with these errors, in the order of its plans."""
    plans = plan_grid(out, width=2, epochs=1, **axes)
    rows = [Row(1, 0.1, 1.0, 0.5, 1.0, error, 1.0) for error in errors]
    made = zip(plans, rows, strict=True)
    return {plan: Run(plan.recipe, [row], State.FINISHED) for plan, row in made}


def test_summary_tells_percent_and_points(tmp_path):
    results = recorded(
        tmp_path, [0.30, 0.20, 0.32, 0.25, 0.34, 0.21], norms=[Norm.NONE, Norm.WN], seeds=[0, 1, 2]
    )
    summary = summarize(results)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    d = np.array([0.20, 0.25, 0.21]) - [0.30, 0.32, 0.34]
    text = summary_text(summary).splitlines()
    assert text[1].split() == ["none", "3", "32.00", "2.00"]
    assert text[2].split()[:2] == ["wn", "3"]
    expected = f"wn − none {100 * d.mean():+.2f} ± {100 * stats.sem(d):.2f} n = 3"
    assert text[-1].split() == expected.split()


def test_one_seed_is_not_compared(tmp_path):
    summary = summarize(recorded(tmp_path, [0.3, 0.2], norms=[Norm.NONE, Norm.WN]))
    assert summary["differences"] == []
    text = summary_text(summary)
    assert "nothing is compared" in text
    assert "±" not in text
    assert text.splitlines()[1].split() == ["none", "1", "30.00", "–"]
