"""FiveCurves: what it keeps of runs, and its mathematics under node beside scipy and numpy."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import traitlets
from figures import FiveCurves
from figures.plots import smooth
from numpy.polynomial import legendre
from scipy.signal import savgol_filter

from wnlib import Norm, Recipe
from wnlib.lab import Run, load_runs
from wnlib.lab.records import Row
from wnlib.training import DIVERGED

RUNS = Path(__file__).parent.parent.parent / "book" / "runs"
METRICS = ("train_loss", "train_error", "test_loss", "test_error")


@pytest.fixture(scope="module")
def report():
    return load_runs(RUNS / "report-2019")


def rows(count, **columns):
    known = {"lr": 0.003, "train_loss": 1.5, "train_error": 0.5, "test_loss": 1.4}
    known |= {"test_error": 0.4375, "seconds": 2.0}
    return [
        Row(epoch=e + 1, **known | {name: values[e] for name, values in columns.items()})
        for e in range(count)
    ]


def run(norm="wn", count=3, state="finished", source="wnlib", columns=None, **changes):
    recipe = Recipe.paper(norm).replace(epochs=count, **changes)
    return Run(recipe, rows(count, **columns or {}), state, source)


def labels(runs, key="short"):
    return [curve[key] for curve in FiveCurves(runs).data["curves"]]


# What is kept of the records.


@pytest.mark.parametrize("folder", ["report-2019", "width24-paper-20"])
def test_values_are_the_records(folder):
    runs = load_runs(RUNS / folder)
    state = json.loads(
        re.search(r'"application/json">(.*?)</script>', FiveCurves(runs).html(), re.S)[1]
    )
    curves = state["data"]["curves"]
    assert [curve["norm"] for curve in curves] == [recorded.norm for recorded in runs]
    for curve, recorded in zip(curves, runs, strict=True):
        for name in METRICS:
            kept, column = curve["runs"][0].get(name), recorded.column(name)
            if kept is None:
                assert np.isnan(column).all()
            elif name.endswith("error"):
                assert kept == column.tolist()  # exact
            else:
                np.testing.assert_allclose(kept, column, rtol=5e-6)


def test_labels_say_what_distinguishes(report):
    assert labels(report) == [norm.label for norm in Norm]
    assert labels([*report, run("bn")], "label") == [
        *(f"{norm.label}, report-2019" for norm in Norm),
        "batch norm, wnlib",
    ]
    rates = [run("wn", lr=lr) for lr in (0.001, 0.003)] + [run("bn")]
    assert labels(rates) == ["weight norm, lr 0.001", "weight norm, lr 0.003", "batch norm"]
    assert labels([run(width=24), run(width=48, lr=0.01)]) == [
        "weight norm, width 24, lr 0.003",
        "weight norm, width 48, lr 0.01",
    ]


def test_sources_can_be_named(report):
    figure = FiveCurves({"the report": report, "yours": [run()]})
    assert {r["source"] for c in figure.data["curves"] for r in c["runs"]} == {
        "the report",
        "yours",
    }
    assert report[0].source == "report-2019"


def test_seeds_of_one_source_are_one_curve(javascript):
    data = FiveCurves({"a": [run(seed=s) for s in (3, 1)] + [run(lr=0.01)], "b": [run()]}).data
    assert [len(curve["runs"]) for curve in data["curves"]] == [2, 1, 1]
    expression = "m.linesOf(data, hidden).map(({ label, variant }) => [label, variant])"
    assert javascript("history", expression, data=data, hidden=["a"]) == [["weight norm", 0]]
    shown = javascript("history", expression, data=data, hidden=[])
    assert shown[2] == ["weight norm, b", 2]


def test_the_axis_is_that_of_the_long_end(javascript):
    errors = [0.6, 0.5, 0.4, *np.linspace(0.24, 0.2, 10).tolist()]
    one = {"raw": errors, "values": errors, "best": 12}
    wild = {"raw": [0.6] + [0.9] * 12, "values": [0.6] + [0.9] * 12, "best": 0, "diverged": "yes"}
    expression = "m.rangeOf(c, whole)"
    assert javascript("history", expression, c=[one, wild], whole=False) == [0.2, 0.24]
    # Nor is the room for them given away to a round number far below.
    long = np.linspace(0.33, 0.146, 30).tolist()
    low, high = javascript(
        "history", expression, c=[{"raw": long, "values": long, "best": 29}], whole=False
    )
    assert low == 0.14
    assert high < 0.3
    assert javascript("history", expression, c=[one], whole=True)[1] == 0.6
    assert javascript("history", expression, c=[wild], whole=False)[1] >= 0.9


def test_what_is_not_a_number_is_kept_as_missing():
    columns = {"train_loss": [1.5, math.inf, math.nan], "test_loss": [math.nan] * 3}
    kept = FiveCurves([run(columns=columns)]).data["curves"][0]["runs"][0]
    assert kept["train_loss"] == [1.5, None, None]
    assert "test_loss" not in kept


def test_smoothing_at_first_is_for_long_runs(report, javascript):
    assert javascript("history", "[1, 99, 100].map((n) => m.windowFor(null, n))") == [0, 0, 21]
    assert javascript("history", "[m.windowFor(0, 200), m.windowFor(51, 40)]") == [0, 51]
    with pytest.raises(traitlets.TraitError, match="odd"):
        FiveCurves(report, window=20)


# Runs in training.


def test_rows_are_added_one_by_one():
    figure, seen = FiveCurves([]), []
    figure.observe(lambda change: seen.append(change.new["curves"]), "data")
    first, second = (Recipe.paper(norm).replace(epochs=3) for norm in ("wn", "bn"))
    for row in rows(3):
        figure.add(first, row)
    figure.add(second, rows(1)[0])
    assert [[len(c["runs"][0]["test_error"]) for c in curves] for curves in seen] == [
        *([1], [2], [3]),
        [3, 1],
    ]
    assert [curve["done"] for curve in seen[-1]] == [True, False]
    assert {curve["runs"][0]["source"] for curve in seen[-1]} == {"yours"}


def test_a_row_that_comes_again_replaces():
    figure = FiveCurves([])
    recipe = Recipe.paper("wn").replace(epochs=3)
    for row in rows(3):
        figure.add(recipe, row)
    figure.add(recipe, rows(1)[0])
    assert len(figure.runs[0].rows) == 1
    with pytest.raises(ValueError, match="epoch 3 does not follow epoch 1"):
        figure.add(recipe, rows(3)[2])
    with pytest.raises(ValueError, match="epoch 2 does not follow epoch 0"):
        figure.add(recipe, rows(3)[1], source="another's")


@pytest.mark.parametrize(
    "column",
    [{"train_loss": [2 * DIVERGED]}, {"train_loss": [math.nan]}, {"test_loss": [math.inf]}],
)
def test_a_run_in_training_diverges(column):
    figure = FiveCurves([])
    figure.add(Recipe.paper("none").replace(epochs=9), rows(1, **column)[0])
    member = figure.data["curves"][0]
    assert member["runs"][0]["state"] == "diverged at epoch 1"
    assert member["done"]


# The mathematics.


def legendre_smooth(values, window, degree):
    """The same filter in a basis that is well-conditioned."""
    window = min(window, len(values) - (len(values) % 2 == 0))
    degree = min(degree, window - 1)
    q, _ = np.linalg.qr(legendre.legvander(np.linspace(-1, 1, window), degree))
    hat, result = q @ q.T, np.empty(len(values))
    for i in range(len(values)):
        start = np.clip(i - window // 2, 0, len(values) - window)
        result[i] = hat[i - start] @ values[start : start + window]
    return result


@pytest.mark.parametrize("count", [1, 2, 5, 51, 200])
def test_smoothing_is_scipys_ends_included(javascript, report, count):
    values = 100 * report[2].column("test_error")[:count]
    kinds = [(w, d) for w in (1, 3, 21, 51, 101) for d in (0, 1, 2, 3, 5, 10)]
    found = javascript(
        "savgol", "kinds.map(([w, d]) => m.smooth(v, w, d))", v=values.tolist(), kinds=kinds
    )
    for (window, degree), smoothed in zip(kinds, found, strict=True):
        np.testing.assert_allclose(smoothed, legendre_smooth(values, window, degree), atol=1e-9)
        # Above degree 5 scipy's own raw powers lose digits, in wide windows the second after the
        # point; in narrow ones it agrees.
        if degree <= 5 or min(window, count) <= 21:
            tolerance = 1e-6 if degree <= 5 else 1e-4
            np.testing.assert_allclose(smoothed, smooth(values, window, degree), atol=tolerance)
            width = min(window, count - (count % 2 == 0))
            by_scipy = savgol_filter(values, width, min(degree, width - 1))
            np.testing.assert_allclose(smoothed, by_scipy, atol=tolerance)


def test_smoothing_goes_around_what_is_missing(javascript):
    values = [1.0, 3.0, 2.0, None, 5.0, None, 8.0, 6.0, 7.0, 9.0]
    smoothed = javascript("savgol", "m.smooth(v, 3, 1)", v=values)
    assert [v is None for v in smoothed] == [v is None for v in values]
    assert smoothed[4] == 5.0
    np.testing.assert_allclose(smoothed[:3], smooth(values[:3], 3, 1))
    np.testing.assert_allclose(smoothed[6:], smooth(values[6:], 3, 1))
    assert javascript("savgol", "[m.smooth([], 5, 2), m.smooth([null], 5, 2)]") == [[], [None]]


def test_hat_matrix_is_a_projection(javascript):
    for window, degree in ((1, 0), (51, 10), (101, 10)):
        hat = np.array(javascript("savgol", "m.hatMatrix(w, d)", w=window, d=degree))
        np.testing.assert_allclose(hat @ hat, hat, atol=1e-12)
        assert np.trace(hat) == pytest.approx(degree + 1)


def test_spread_over_seeds_is_numpys(javascript):
    columns = np.random.default_rng(0).random((3, 7)).tolist()
    found = javascript("history", "m.spreadOf(c)", c=columns)
    for name, numpys in (("mean", np.mean), ("low", np.min), ("high", np.max)):
        np.testing.assert_allclose(found[name], numpys(columns, 0))


def test_spread_of_unequal_lengths_and_gaps(javascript):
    found = javascript("history", "m.spreadOf(c)", c=[[1, None, 5], [3, None], [5, None, None, 2]])
    assert found["mean"] == [3, None, 5, 2]
    assert found["low"] == [1, None, 5, 2]
    assert javascript("history", "m.spreadOf([]).mean") == []


def series(**values):
    return {"raw": None, "values": None, "band": None, "diverged": None} | values


def test_a_diverged_run_does_not_flatten_the_others(javascript):
    good = np.linspace(2, 0.4, 10).tolist()
    wild = [2.1, 1.8, 40, 1e5, 1e12, None]
    curves = [series(raw=v, values=v) for v in (good, wild)]
    curves[1]["diverged"] = "diverged at epoch 6"
    low, high = javascript("history", "m.rangeOf(c)", c=curves)
    assert low <= 0.4
    assert 2.1 <= high <= 4
    assert javascript("history", "m.rangeOf(c.slice(1))", c=curves)[1] <= 4


def test_ranges_of_little(javascript):
    for values in ([0.5], [0.5] * 9, [0], [None], [], [1, None, 2], [0, 1e-9]):
        one = series(raw=values, values=values)
        low, high = javascript("history", "m.rangeOf([c])", c=one)
        assert low < high
        there = [v for v in values if v is not None]
        assert not there or (low <= min(there) and high >= max(there))


def test_the_axis_rests_while_a_run_grows(javascript):
    losses = (2.3 * np.exp(-np.arange(1, 21) / 8)).tolist()
    expression = (
        "l.map((_, i) => m.rangeOf([{ raw: l.slice(0, i + 1), values: l.slice(0, i + 1) }]))"
    )
    ranges = javascript("history", expression, l=losses)
    assert len({tuple(r) for r in ranges[3:]}) <= 4


def test_labels_are_apart(javascript):
    def placed(wanted):
        return javascript("history", "m.apart(w, 10, 0, 100)", w=wanted)

    assert placed([20, 50]) == [20, 50]
    assert placed([50, 50, 49]) == [59, 69, 49]
    assert placed([99, 100, 98]) == [90, 100, 80]
    assert placed([]) == []


def test_ranks_share_a_place(javascript):
    assert javascript("history", "m.ranks([3, 1, null, 1, 2])") == [4, 1, None, 1, 3]


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("test_error", 0.1788, "17.88 %"),
        ("test_error", 0.2, "20.00 %"),
        ("test_error", 1, "100.00 %"),
        ("train_error", 0.38826, "38.826 %"),
        ("test_error", None, "–"),
        ("train_loss", 1.45317, "1.45317"),
        ("test_loss", 123456789, "1.23457e+8"),
    ],
)
def test_values_as_recorded(javascript, metric, value, text):
    assert javascript("history", "m.shown(metric, value)", metric=metric, value=value) == text


# The race.


def test_a_race_shows_what_has_been_run(javascript):
    raw = [0.5, 0.4, 0.2]
    one = {"raw": raw, "values": raw, "band": [raw, raw], "diverged": "diverged", "gone": 3}
    expression = (
        "[0.5, 1, 2.5, 3, 9].map((head) => m.upTo([{ ...one, allGone: true, x: (i) => i + 1 }],"
        " head).map(({ raw, band, best, last, told, diverged, x }) =>"
        " [raw, band[0].length, best, last, told, diverged, x(last)]))"
    )
    before, first, between, whole, later = javascript("race", expression, one=one)
    assert before == []
    assert first == [[[0.5], 1, 0, 0, 0.5, None, 1]]
    assert between[0][0] == pytest.approx([0.5, 0.4, 0.3])
    # On its way to where it diverges it is out of the race; what is said of it was recorded.
    assert between[0][1:] == [3, 1, 2, 0.4, "diverged", 2.5]
    assert whole[0][:3] == later[0][:3] == [raw, 3, 2]


def test_a_bet_is_compared_with_the_result(javascript):
    def said(bet, places, is_open="false"):
        entries = [
            {"one": {"line": {"norm": norm}, "raw": [error], "diverged": gone}, "i": 0, "place": p}
            for norm, error, gone, p in places
        ]
        return javascript("race", f"m.outcome(e, 'test_error', bet, {is_open})", e=entries, bet=bet)

    places = [
        ("wn", 0.1, None, 1),
        ("bn", 0.2, None, 2),
        ("none", 0.9, "diverged at epoch 4", None),
    ]
    first = "The winner is weight norm, with 10.00 %."
    assert said("", places) == first
    assert said("wn", places) == "Your bet wins: weight norm, with 10.00 %."
    assert said("bn", places) == f"Your bet, batch norm, with 20.00 %, comes second. {first}"
    assert said("none", places) == f"Your bet, plain, has diverged at epoch 4. {first}"
    assert said("mobn", places) == f"Your bet, mean-only BN, is not among them. {first}"
    assert said("none", places[2:]) == "Nobody has arrived."
    assert said("bn", places, "true") == "In the lead: weight norm, with 10.00 %.", "not over yet"


def test_a_page_adds_rows_of_its_own(javascript):
    row = {"source": "here", "norm": "wn", "train_loss": 2.0, "test_error": 0.5}
    expression = """(() => {
      const live = new m.Live();
      live.begin({ source: "here", epochs: 3, norms: ["wn", "bn"] });
      for (const epoch of [1, 2, 3, 2]) live.push({ ...row, epoch });
      live.end({ source: "here", norm: "wn", state: "diverged" });
      const refused = [{ ...row, epoch: 4 }, { ...row, source: "there", epoch: 1 }].map((other) => {
        try { live.push(other); } catch (error) { return error.message; }
      });
      const states = live.curves.map(({ done, runs: [run] }) => [done, run.state]);
      return [live.rows("here"), states, refused];
    })()"""
    rows_of, states, refused = javascript("race", expression, row=row)
    missing = {"train_error": None, "test_loss": None}
    assert rows_of == [row | missing | {"epoch": epoch} for epoch in (1, 2)]
    assert states == [[True, "diverged at epoch 2"], [False, "interrupted"]]
    assert refused[0] == "epoch 4 does not follow epoch 2"
    assert refused[1].startswith('begin({source: "there"')


def test_the_epoch_in_which_a_run_diverges_is_no_part_of_the_mean(javascript):
    runs = [
        {"name": "a", "source": "x", "state": "finished", "train_loss": [2.0, 1.0, 1.0]},
        {"name": "b", "source": "x", "state": "diverged at epoch 2", "train_loss": [4.0, 1e6]},
    ]
    line = {"norm": "wn", "runs": runs}
    of = javascript("history", "m.seriesOf(line, 'train_loss', 0)", line=line)
    assert of["raw"] == [3.0, 1.0, 1.0]
    assert (of["diverged"], of["gone"]) == ("1 of 2 runs diverged at epoch 2", 2)
    assert not of["allGone"]


def test_a_race_begins_with_its_first_heat(report):
    race = FiveCurves({"a": report, "b": [run()]}, mode="race")
    assert (race.epoch, race.hidden_sources) == (0, ["b"])
    assert FiveCurves([], mode="race").epoch is FiveCurves(report, mode="play").epoch is None


def test_a_kernel_sends_what_a_widget_asks_for(report, monkeypatch):
    race, sent = FiveCurves(report, mode="race", train=True), []
    monkeypatch.setattr("figures.curves.panel_script", lambda: "the script")
    monkeypatch.setattr(race, "send", sent.append)
    for content in ({"load": "train"}, {"load": "../secret"}, "train"):
        race._handle_custom_msg(content, [])
    assert sent == [{"name": "train", "script": "the script"}]
