"""Records: what is written is what is read, and damage is named."""

import dataclasses
import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import savgol_filter

from wnlib import Norm, Recipe, Run, load_runs
from wnlib.files import write_whole
from wnlib.runs import PAPER, REPORT, SCHEMA, Row, RunError, compare, smooth

laws = settings(max_examples=50, deadline=None, derandomize=True)
NAN = float("nan")


def row(epoch, test_error=0.5, **values):
    numbers = {"lr": 0.003, "train_loss": 1 / 3, "train_error": 0.1, "test_loss": 2e-17}
    return Row(epoch=epoch, test_error=test_error, seconds=1.5, **(numbers | values))


def run(norm="wn", errors=(0.5, 0.4), **fields):
    rows = [row(i, error) for i, error in enumerate(errors, 1)]
    return Run(Recipe.paper(norm), rows, **({"state": "finished"} | fields))


def same(a, b):
    """Equal bit for bit, NaN equal to NaN."""
    return np.array(a, float).tobytes() == np.array(b, float).tobytes()


# --- save and load

anything = st.floats(width=64).map(lambda x: NAN if math.isnan(x) else x)  # one NaN of the many


@laws
@given(st.lists(st.tuples(*[anything] * 6), max_size=5))
def test_floats_come_back_bit_for_bit(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("run")
    rows = [Row(i, *numbers) for i, numbers in enumerate(values, 1)]
    Run(Recipe.paper("bn"), rows).save(folder)
    loaded = Run.load(folder)
    assert same(loaded.rows, rows)
    assert all(type(r.epoch) is int for r in loaded.rows)


@pytest.mark.parametrize("norm", list(Norm))
def test_records_come_back_whole(tmp_path, norm):
    recipe = Recipe.report(norm).scaled(width=7, lr=1 / 3, sigma=0, seed=2**63)
    provenance = {"data": {"name": "sample", "digest": "d"}, "device": "cpu", "wall_seconds": 0.1}
    saved = Run(recipe, [row(1), row(2)], "diverged at epoch 2", "somebody", provenance)
    saved.save(tmp_path / "a" / "b")
    assert Run.load(str(tmp_path / "a" / "b")) == saved
    assert saved.norm is norm
    assert repr(saved) == f"Run(somebody, {norm}, 2 epochs, diverged at epoch 2)"


def test_what_was_not_recorded_is_an_empty_field(tmp_path):
    Run(Recipe.paper("wn"), [row(1, NAN, lr=NAN)]).save(tmp_path)
    header, line = (tmp_path / "history.csv").read_text().splitlines()
    assert header == "epoch,lr,train_loss,train_error,test_loss,test_error,seconds"
    assert line == "1,,0.3333333333333333,0.1,2e-17,,1.5"
    loaded = Run.load(tmp_path)
    assert np.isnan(loaded.column("lr")).all()
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["schema"] == SCHEMA == 1
    assert record["recipe"]["norm"] == "wn"
    assert not list(tmp_path.glob("*.csv.*"))


def test_saving_again_replaces(tmp_path):
    run(errors=[0.5] * 9).save(tmp_path)
    run(errors=[0.4]).save(tmp_path)
    assert Run.load(tmp_path) == run(errors=[0.4])
    assert len(list(tmp_path.iterdir())) == 2


# --- damage


@pytest.fixture
def saved(tmp_path):
    run(errors=[0.5, 0.4, 0.3]).save(tmp_path)
    return tmp_path


def refused(folder):
    with pytest.raises(RunError) as caught:
        Run.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["run.json", "history.csv"])
def test_missing_files_are_named(saved, name):
    (saved / name).unlink()
    assert refused(saved) == f"{saved / name} is missing: {saved} holds no run"


def test_missing_folder_is_named(tmp_path):
    folder = tmp_path / "no"
    assert refused(folder) == f"{folder}/run.json is missing: {folder} holds no run"
    (tmp_path / "file").write_text("")
    assert "cannot be read: [Errno 20]" in refused(tmp_path / "file")
    assert f"cannot be read: [Errno {errno.ENAMETOOLONG}]" in refused(tmp_path / ("x" * 300))


@pytest.mark.parametrize("schema", [2, 0, "1", None])
def test_other_schemas_are_refused(saved, schema):
    record = json.loads((saved / "run.json").read_text())
    record["schema"] = schema
    (saved / "run.json").write_text(json.dumps(record))
    assert refused(saved) == f"{saved}/run.json has schema {schema!r}; this wnlib reads 1"


@pytest.mark.parametrize("content", ["[]", "7", '"x"', "{}", "null"])
def test_json_of_another_kind_is_refused(saved, content):
    (saved / "run.json").write_text(content)
    assert refused(saved) == f"{saved}/run.json has schema None; this wnlib reads 1"


def test_every_truncation_of_the_json_is_found(saved):
    whole = (saved / "run.json").read_bytes()
    for length in range(0, len(whole) - 1, 7):  # the last byte is a line break
        (saved / "run.json").write_bytes(whole[:length])
        assert refused(saved).startswith(f"{saved}/run.json cannot be read: ")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("recipe", None, "argument after ** must be a mapping"),
        ("recipe", {"norm": "wn", "depth": 3}, "unexpected keyword argument 'depth'"),
        ("recipe", {"norm": "wn", "width": "24"}, "width is a whole number from 1 up, not '24'"),
        ("recipe", {"width": 24}, "missing 1 required positional argument: 'norm'"),
        ("recipe", {"norm": "layer"}, "'layer' is not a valid Norm"),
        ("state", ..., "'state'"),
        ("source", ..., "'source'"),
        ("recipe", ..., "'recipe'"),
    ],
)
def test_damaged_json_is_named(saved, key, value, said):
    record = json.loads((saved / "run.json").read_text())
    record[key] = value
    if value is ...:
        del record[key]
    (saved / "run.json").write_text(json.dumps(record))
    message = refused(saved)
    assert message.startswith(f"{saved}/run.json is damaged: ")
    assert said in message


def test_every_truncation_of_the_history_is_found(saved):
    """Unless whole lines are gone: an interrupted run looks like that."""
    whole = (saved / "history.csv").read_bytes()
    rows = Run.load(saved).rows
    for length in range(len(whole)):
        left = whole[:length]
        (saved / "history.csv").write_bytes(left)
        if left.endswith(b"\n"):
            assert Run.load(saved).rows == rows[: left.count(b"\n") - 1]
        else:
            assert refused(saved).startswith(f"{saved}/history.csv")


def test_cut_off_number_is_not_taken_for_a_number(saved):
    path = saved / "history.csv"
    path.write_bytes(path.read_bytes()[:-2])  # 1.5 became 1.
    assert refused(saved) == f"{path} is cut off in line 4"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("2,x,1,1,1,1,1", "line 3 is damaged: '2,x,1,1,1,1,1'"),
        ("2,1,1,1,1,1", "line 3 is damaged: '2,1,1,1,1,1'"),
        ("2,1,1,1,1,1,1,1", "line 3 is damaged: '2,1,1,1,1,1,1,1'"),
        ("", "line 3 is damaged: ''"),
        ("two,1,1,1,1,1,1", "line 3 is damaged: 'two,1,1,1,1,1,1'"),
        ("1,1,1,1,1,1,1", "line 3 is epoch 1, not 2"),
        ("3,1,1,1,1,1,1", "line 3 is epoch 3, not 2"),
        ("0x2,1,1,1,1,1,1", "line 3 is damaged: '0x2,1,1,1,1,1,1'"),
    ],
)
def test_damaged_lines_are_named(saved, line, said):
    path = saved / "history.csv"
    lines = path.read_text().splitlines()
    lines[2] = line
    path.write_text("\n".join(lines) + "\n")
    assert refused(saved) == f"{path}, {said}"


def test_other_tables_are_refused(saved):
    path = saved / "history.csv"
    said = (
        f"{path} does not begin with epoch,lr,train_loss,train_error,test_loss,test_error,seconds"
    )
    for content in ("", "a,b\n1,2\n", "\n"):
        path.write_text(content)
        assert refused(saved) == said


def test_bytes_that_are_no_text_are_refused(saved):
    for name in ("history.csv", "run.json"):
        path = saved / name
        path.write_bytes(b"\xff\xfe" + path.read_bytes())
        assert refused(saved).startswith(f"{path} cannot be read: 'utf-8' codec can't decode")


def test_endless_fields_are_refused(saved):
    (saved / "history.csv").write_text('epoch,"' + "x" * 200_000 + "\n")
    assert refused(saved).startswith(f"{saved}/history.csv cannot be read: field larger than")


# --- writing


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, b"old")

    def stop(*_):
        raise KeyboardInterrupt

    for owner, step in ((os, "fsync"), (Path, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, step, stop)
            with pytest.raises(KeyboardInterrupt):
                write_whole(path, b"new")
        assert path.read_bytes() == b"old"
        assert [p.name for p in tmp_path.iterdir()] == ["file"]
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"


def test_interrupted_save_leaves_a_valid_record(tmp_path, monkeypatch):
    """Whichever of the two files was not replaced."""
    calls = []
    whole = Path.replace
    run(errors=[0.5], state="interrupted").save(tmp_path)

    def stop_at(n):
        def step(path, target):
            calls.append(target)
            if len(calls) == n:
                raise KeyboardInterrupt
            return whole(path, target)

        return step

    for n in (1, 2):
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", stop_at(n))
            with pytest.raises(KeyboardInterrupt):
                run(errors=[0.5, 0.4]).save(tmp_path)
        loaded = Run.load(tmp_path)
        assert len(loaded.rows) == n
        assert loaded.state == "interrupted"


def test_unwritable_folders_are_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError) as caught:
            run().save(folder)
        assert str(caught.value).startswith(f"{folder} cannot be written: ")
    assert (tmp_path / "file").read_text() == "in the way"


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
    s = run(errors=[0.4, NAN], state="diverged at epoch 2").summary()
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
    empty = run("bn", [], state="interrupted")
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


@pytest.mark.parametrize(("window", "degree"), [(0, 1), (-3, 1), (4, 1), (5, -1)])
def test_impossible_windows_are_refused(window, degree):
    message = f"^window is odd and degree from 0 up, not {window} and {degree}$"
    with pytest.raises(ValueError, match=message):
        smooth([1.0, 2.0, 3.0], window, degree)


def test_recipes_are_written_as_they_are(tmp_path):
    run("wn_mobn").save(tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["recipe"] == json.loads(json.dumps(dataclasses.asdict(Recipe.paper("wn_mobn"))))
