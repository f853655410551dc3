"""Many runs: their order and their summaries."""

import math

import numpy as np
import pytest

from wnlib import Norm, Recipe
from wnlib.lab import Run, load_runs
from wnlib.lab.records import PAPER, REPORT, RunError
from wnlib.training import Row, State

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
