"""The introduction's numbers: each is computed anew from the records and found in its sentence."""

import json
from pathlib import Path

import numpy as np
import pytest
from beyond import plots
from scipy.stats import tukey_hsd

from wnlib import Norm
from wnlib.lab import load_runs
from wnlib.lab.records import PAPER
from wnlib.training import State

BOOK = Path(__file__).parent.parent.parent / "book"


@pytest.fixture(scope="module")
def said() -> str:
    cells = json.loads((BOOK / "intro.ipynb").read_text(encoding="utf-8"))["cells"]
    text = " ".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return " ".join(text.split())


def errors(folder: str, norm: str, **fields: float) -> np.ndarray:
    """Final test errors in percent of the runs that were set like this."""
    runs = [run for run in load_runs(BOOK / "runs" / folder) if run.norm == norm]
    runs = [r for r in runs if all(getattr(r.recipe, k) == v for k, v in fields.items())]
    return np.array([100 * run.rows[-1].test_error for run in runs])


def test_the_five_at_their_best_rates(said: str) -> None:
    at_best = {
        n: np.r_[errors("width24-paper-20", n), errors("width24-paper-20-seeds", n)] for n in Norm
    }
    slow, at_best["none"] = (errors("width24-paper-20-frozen", "none", lr=r) for r in (3e-4, 1e-3))
    assert {len(e) for e in [slow, *at_best.values()]} == {3}
    plain, wn, _, bn, both = (at_best[n].mean() for n in Norm)
    assert f"both end at {bn:.1f} % test error" in said
    assert round(bn, 1) == round(both, 1)
    assert f"weight norm alone at {wn:.1f} % and the plain network at {plain:.1f} %" in said
    assert f"it ends at {slow.mean():.1f} % at the paper's rate for it" in said
    assert f"at {plain:.1f} % at three times that rate; weight norm ends at {wn:.1f} %" in said
    test = tukey_hsd(*(at_best[n] for n in Norm))
    low, high = (getattr(test.confidence_interval(), side) for side in ("low", "high"))
    assert f"ends {plain - wn:.1f} point of test error below the plain network" in said
    assert f"(95 % interval: {low[0, 1]:.1f} to {high[0, 1]:.1f})" in said
    assert f"{wn - bn:.1f} points behind batch norm (95 % interval: {low[1, 3]:.1f} to" in said
    assert f"to {high[1, 3]:.1f}). It needs no minibatch" in said
    assert f"another {wn - bn:.1f} points lower" in said
    assert round(wn - both, 1) == round(wn - bn, 1)


def test_the_whole_width(said: str, beside) -> None:
    [bn], [both], [wn] = (errors("width96-paper-40", n) for n in ("bn", "wn_mobn", "wn"))
    assert f"batch norm ends at {bn:.1f} %, weight norm with mean-only" in said
    assert f"{both:.1f} % and weight norm alone at {wn:.1f} %" in said
    readme = " ".join((BOOK.parent / "README.md").read_text(encoding="utf-8").split())
    above = both - 100 * min(PAPER.values())
    told = f"ends at {both:.2f} %, {above:.2f} points above the paper's best"
    assert told in readme
    five = {run.norm: run for run in beside("gains").at_whole_width()}
    assert [*five] == [*Norm]
    alike = {"norm": "wn", "lr": 0.003, "plain": "divided"}  # all else is the same
    assert {run.recipe.replace(**alike) for run in five.values()} == {five[Norm.WN].recipe}
    assert round(min(100 * run.rows[-1].test_error for run in five.values()), 2) == round(both, 2)
    [mobn] = [r for r in load_runs(BOOK / "runs/width96-paper-40") if r.norm == "mobn"]
    assert "mean-only batch norm diverges from this seed; here it has a third of that." in readme
    assert mobn.state == State.DIVERGED
    assert 3 * five[Norm.MOBN].recipe.lr == pytest.approx(mobn.recipe.lr)
    assert [five[n].recipe.lr for n in Norm if n != Norm.MOBN] == [0.0003, *3 * [0.003]]  # paper's
    for other in (both, wn):
        noise = np.sqrt(sum(e * (100 - e) for e in (bn, other)) / 10_000)
        assert abs(bn - other) < 1.96 * noise


def test_a_rate_that_only_weight_norm_tolerates(said: str) -> None:
    assert (
        "at a rate of 0.003, every plain network diverged and every weight-normalized one finished "
        "(three seeds each)" in said
    )
    runs = load_runs(BOOK / "runs/width24-paper-6-edge/switched")
    for part in ("rates/switched", "lr"):  # seed 0, each as it was recorded
        runs += load_runs(BOOK / f"runs/width24-paper-6-{part}")
    states = {n: [r.state for r in runs if (r.norm, r.recipe.lr) == (n, 0.003)] for n in Norm}
    assert set(states[Norm.WN]) == {State.FINISHED}
    assert set(states[Norm.NONE]) == {State.DIVERGED}
    assert len(states[Norm.WN]) == 3 <= len(states[Norm.NONE])


def test_small_minibatches(said: str) -> None:
    rows = json.loads((BOOK / "records" / "small-batches.json").read_text())["rows"]
    two = {row["method"]: f"{100 * np.mean(row['test']):.1f}" for row in rows if row["size"] == 2}
    assert (
        f"batch norm ends at {two['batch norm']} % test error, a plain network with the same start "
        f"at {two['plain']} %, and weight norm at {two['weight norm']} %" in said
    )
    for size, told in (
        (2, "Batch norm is {} points behind plain there (95 % interval: {}"),
        (4, "and {} points with four images ({})"),
        (8, "With eight images no difference is clear"),
    ):
        at = {row["method"]: 100 * np.array(row["test"]) for row in rows if row["size"] == size}
        found, (bn, plain) = tukey_hsd(*at.values()), map([*at].index, ("batch norm", "plain"))
        interval = found.confidence_interval()
        ends = f"{interval.low[bn, plain]:.1f} to {interval.high[bn, plain]:.1f}"
        assert told.format(f"{found.statistic[bn, plain]:.1f}", ends) in said
    assert found.pvalue.min() > 0.05


def test_elsewhere(said: str) -> None:
    draw = plots.grid("draw")
    told, other = (draw.gain((s, 0.001), ("small", 0.001))[0] for s in ("wn-unit", "wn-small"))
    assert f"gains {told:.0f} nats if $g$ starts at 1, and loses {-other:.0f}" in said
    best = draw.best("wn-unit", "wn-small"), draw.best("unit", "small", "default")
    gain, half = draw.gain(*best)
    assert f"{gain:.1f} ± {half:.1f} nats are left" in said
    assert {rate for _, rate in best} == {min(draw.curves["unit"]), max(draw.curves["unit"])}
    for name, wn, starts in (
        ("draw", "wn-unit", ("unit", "small", "default")),
        ("policy", "wn-small", ("none-small", "none-he")),
        ("dqn", "wn", ("none",)),
        ("vae", "wn-init", ("plain", "plain-init")),
    ):
        grid = plots.grid(name)
        gain, half = grid.gain(grid.best(wn), grid.best(*starts))
        assert (gain + half < 0) if name == "vae" else abs(gain) < half


def test_the_ten_points(said: str) -> None:
    """Each rung in both readings: the last epoch, and the mean of the last five."""
    ends = {}
    for rung in ("mended", "quiet", "whitened"):
        [run] = [r for r in load_runs(BOOK / f"runs/width96-ladder-20/{rung}") if r.norm == "wn"]
        e = 100 * run.column("test_error")
        ends[rung] = np.array([e[-1], e[-5:].mean()])
    told = {10: "ten", 11: "eleven", 12: "twelve", 13: "thirteen"}
    for rung, words in (("quiet", "{} to {} points off"), ("whitened", "takes off {} to {} ")):
        off = sorted(round(x) for x in ends["mended"] - ends[rung])
        assert words.format(*(told[x] for x in off)) in said
    [report] = [run for run in load_runs(BOOK / "runs/report-2019") if run.norm == "wn"]
    last = 100 * report.summary().last20_error
    parts = last - ends["quiet"][1], last - 100 * PAPER[Norm.WN]
    assert "by {:.1f} of {:.1f} points".format(*parts) in said
