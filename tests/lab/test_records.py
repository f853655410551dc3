"""Records: what is written is what is read, and damage is named in one line."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wnlib import Norm, Recipe
from wnlib.lab import Run, load_runs
from wnlib.lab.records import PAPER, REPORT, RETIRED, RunError, write_whole
from wnlib.training import Row, State

NAN = float("nan")
RECORDED = Path(__file__).parents[2] / "book" / "runs"
OURS = sorted(RECORDED.glob("[!b]*/**/run.json"))  # those below beyond-* are of other networks
HEADER = "epoch,lr,train_loss,train_error,test_loss,test_error,seconds"


def run(norm="wn", errors=(0.5, 0.4), epochs=None, **fields):
    rows = [Row(i, 0.003, 1 / 3, 0.1, 2e-17, error, 1.5) for i, error in enumerate(errors, 1)]
    recipe = Recipe.paper(norm).replace(epochs=epochs or max(len(rows), 1))
    return Run(recipe, rows, **({"state": State.FINISHED} | fields))


@pytest.fixture
def saved(tmp_path):
    run(errors=[0.5, 0.4], epochs=3, state=State.INTERRUPTED).save(tmp_path)
    return tmp_path


def refused(folder):
    with pytest.raises(RunError) as caught:
        Run.load(folder)
    assert str(caught.value).isprintable()
    return str(caught.value).removeprefix(f"{folder}/")


number = st.floats(0) | st.just(NAN)


@given(st.lists(st.tuples(*[number] * 6), max_size=5))
def test_floats_come_back_bit_for_bit(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("run")
    rows = [Row(i, *numbers) for i, numbers in enumerate(values, 1)]
    Run(Recipe.paper("bn"), rows).save(folder)
    loaded = Run.load(folder)
    assert np.array(loaded.rows, float).tobytes() == np.array(rows, float).tobytes()
    assert all(type(row.epoch) is int for row in loaded.rows)


@pytest.mark.parametrize("norm", list(Norm))
def test_records_come_back_whole_and_are_replaced(tmp_path, norm):
    recipe = Recipe.report(norm).replace(width=7, lr=1 / 3, sigma=0, seed=2**63, name="é <b>")
    provenance = {"data": {"name": "sample", "digest": "d"}, "device": "cpu", "wall_seconds": 0.1}
    saved = Run(recipe, run().rows, State.DIVERGED, "somebody", provenance)
    run(errors=[0.1] * 9).save(tmp_path / "a" / "b")
    saved.save(tmp_path / "a" / "b")
    assert Run.load(str(tmp_path / "a" / "b")) == saved
    assert repr(saved) == f"Run(somebody, {norm}, 2 epochs, diverged at epoch 2)"
    assert len(list((tmp_path / "a" / "b").iterdir())) == 2


@pytest.mark.parametrize("path", OURS, ids=lambda p: str(p.parent.relative_to(RECORDED)))
def test_every_recorded_run_loads_and_is_written_as_it_was(path, tmp_path):
    loaded = Run.load(path.parent)
    loaded.save(tmp_path)
    history = (path.parent / "history.csv").read_text()
    assert (tmp_path / "history.csv").read_text() == history
    old, new = json.loads(path.read_text()), json.loads((tmp_path / "run.json").read_text())
    old["recipe"].pop(RETIRED[0], None)
    assert new == old | {"recipe": new["recipe"] | old["recipe"]}


@pytest.mark.parametrize("name", ["run.json", "history.csv"])
def test_what_is_no_file_of_text_is_named(saved, name):
    (saved / name).write_bytes(b"\xff\xfe")
    assert refused(saved).startswith(f"{name} cannot be read: 'utf-8' codec can't decode")
    (saved / name).unlink()
    assert refused(saved) == f"{name} is missing: {saved} holds no run"
    for put in (os.mkfifo, os.mkdir):  # nobody waits for a pipe
        put(saved / name)
        assert refused(saved) == f"{name} is no file: {saved} holds no run"
        (saved / name).rename(saved / put.__name__)
    assert refused(saved / ("x" * 300)).startswith("run.json cannot be read: [Errno")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": 2}, "ValueError: its schema is not 1, which this wnlib reads"),
        ({"recipe": None}, "'NoneType' object has no attribute 'items'"),
        ({"recipe": {"norm": "wn", "a\nb\x1b[2J": 3}}, "keyword argument 'a b?[2J'"),
        ({"recipe": {"norm": "wn", RETIRED[0]: "uniform"}}, "keyword argument 'noise'"),
        ({"recipe": {"norm": "wn", "epochs": 10**12}}, "whole number from 1 to 100,000, not 10"),
        ({"state": "finished"}, "it says finished, but history.csv has 2 of 3 epochs"),
        ({"state": "diverged at epoch 1"}, "it says diverged at epoch 1, but history.csv has 2"),
        ({"recipe": {"norm": "wn", "epochs": 1}}, "history.csv has 2 of 1 epochs"),
        ({"source": ...}, "KeyError: 'source'"),
    ],
)
def test_damaged_json_is_named(saved, changes, said):
    path = saved / "run.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))
    message = refused(saved)
    assert message.startswith("run.json cannot be read: ")
    assert said in message


def test_every_truncation_is_found(saved):
    """Unless whole lines of the history are gone: an interrupted run looks like that."""
    path, rows = saved / "history.csv", Run.load(saved).rows
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        if whole[:length].endswith(b"\n"):
            assert Run.load(saved).rows == rows[: whole[:length].count(b"\n") - 1]
        else:
            assert refused(saved).startswith("history.csv ")
    path.write_text("a,b\n1,2\n")
    assert refused(saved) == f"history.csv does not begin with {HEADER}"
    path.write_bytes(whole.replace(b"\n", b"\r\n"))  # as git writes it on Windows
    assert Run.load(saved).rows == rows
    text = (saved / "run.json").read_text()
    for content in ("[]", "[" * 10**5, *(text[:length] for length in range(0, len(text) - 1, 7))):
        (saved / "run.json").write_text(content)
        assert refused(saved).startswith("run.json cannot be read: ")


@pytest.mark.parametrize(
    "line", ["2,x,1,1,1,1,1", "2,1,1,1,1,1", "2,1,1,1,1,1,1,1", "", "0x2,1,1,1,1,1,1",
             "1,1,1,1,1,1,1", "3,1,1,1,1,1,1"],
)  # fmt: skip
def test_damaged_lines_are_named(saved, line):
    path = saved / "history.csv"
    path.write_text("\n".join([*path.read_text().splitlines()[:2], line, ""]))
    assert refused(saved) == f"history.csv, line 3 is damaged: {line!r}"


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    write_whole(tmp_path / "file", b"old")
    (tmp_path / "file.partial").mkdir()
    with pytest.raises(RunError, match=f"^{tmp_path} cannot be written: Is a directory$"):
        write_whole(tmp_path / "file", b"new")
    with pytest.raises(RunError, match=r"file/run cannot be written: Not a directory$"):
        run().save(tmp_path / "file" / "run")
    assert (tmp_path / "file").read_bytes() == b"old"


# --- many runs, and what they say


def test_runs_are_loaded_in_the_order_of_the_configurations(tmp_path):
    for i, norm in enumerate(reversed(list(Norm))):
        run(norm, source=f"late {norm}").save(tmp_path / "z" / str(i))
        run(norm, source=f"early {norm}").save(tmp_path / "a" / str(i))
    runs = load_runs(str(tmp_path))
    assert [r.source for r in runs] == [f"{w} {n}" for n in Norm for w in ("early", "late")]
    with pytest.raises(RunError, match=r"^no run in .*missing$"):
        load_runs(tmp_path / "missing")
    (tmp_path / "z" / "0" / "history.csv").unlink()
    with pytest.raises(RunError, match=r"history.csv is missing"):
        load_runs(tmp_path)


def test_summary_is_three_ways_to_pick_an_error():
    errors = [0.9, 0.2, 0.5, 0.2, 0.4] + [0.3] * 18
    s = run(errors=errors).summary()
    assert (s.best_error, s.best_epoch, s.final_error) == (0.2, 2, 0.3)
    assert s.last20_error == pytest.approx((0.2 + 0.4 + 18 * 0.3) / 20)
    assert s.wall_seconds == 1.5 * len(errors)
    assert run(provenance={"wall_seconds": 7}).summary().wall_seconds == 7.0
    assert run(errors=[0.5, 0.3]).summary().last20_error == pytest.approx(0.4)
    diverged = run(errors=[0.4, NAN], state=State.DIVERGED).summary()
    assert (diverged.best_error, diverged.best_epoch) == (0.4, 1), "a diverged epoch is never best"
    assert math.isnan(diverged.final_error + diverged.last20_error)
    with pytest.raises(RunError, match=r"^the wn run has no epoch to summarize$"):
        run(errors=[]).summary()


def test_tables_are_the_sources():
    paper = {"none": 8.43, "wn": 8.46, "mobn": 8.52, "bn": 8.05, "wn_mobn": 7.31}
    assert {str(n): round(100 * e, 9) for n, e in PAPER.items()} == paper
    assert list(REPORT) == list(Norm)  # its values are compared with its curves: tests/book
