"""Records: what is written is what is read, and damage is named."""

import dataclasses
import errno
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wnlib import Norm, Recipe
from wnlib.lab import Run, load_runs
from wnlib.lab.records import PAPER, REPORT, RETIRED, SCHEMA, RunError, write_whole
from wnlib.training import Row, State

NAN = float("nan")
RECORDED = Path(__file__).parents[2] / "book" / "runs"
OURS = sorted(RECORDED.glob("[!b]*/**/run.json"))  # those below beyond-* are of other networks


def row(epoch, test_error=0.5, **values):
    numbers = {"lr": 0.003, "train_loss": 1 / 3, "train_error": 0.1, "test_loss": 2e-17}
    return Row(epoch=epoch, test_error=test_error, seconds=1.5, **(numbers | values))


def run(norm="wn", errors=(0.5, 0.4), epochs=None, **fields):
    rows = [row(i, error) for i, error in enumerate(errors, 1)]
    recipe = Recipe.paper(norm).replace(epochs=epochs or max(len(rows), 1))
    return Run(recipe, rows, **({"state": State.FINISHED} | fields))


def same(a, b):
    """Equal bit for bit, NaN equal to NaN."""
    return np.array(a, float).tobytes() == np.array(b, float).tobytes()


# --- save and load

nothing = st.just(NAN)
finite = st.floats(0, 1e12) | nothing
loss = st.floats(0) | nothing
error = st.floats(0, 1) | nothing


@given(st.lists(st.tuples(finite, loss, error, loss, error, finite), max_size=5))
def test_floats_come_back_bit_for_bit(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("run")
    rows = [Row(i, *numbers) for i, numbers in enumerate(values, 1)]
    Run(Recipe.paper("bn"), rows).save(folder)
    loaded = Run.load(folder)
    assert same(loaded.rows, rows)
    assert all(type(r.epoch) is int for r in loaded.rows)


@pytest.mark.parametrize("norm", list(Norm))
def test_records_come_back_whole(tmp_path, norm):
    recipe = Recipe.report(norm).replace(width=7, lr=1 / 3, sigma=0, seed=2**63, name="é <b>")
    provenance = {"data": {"name": "sample", "digest": "d"}, "device": "cpu", "wall_seconds": 0.1}
    saved = Run(recipe, [row(1), row(2)], State.DIVERGED, "somebody", provenance)
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
    run(errors=[0.5, 0.4, 0.3], state=State.INTERRUPTED).save(tmp_path)
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


def test_json_without_a_bottom_is_refused(saved):
    (saved / "run.json").write_text("[" * 10**5)
    assert refused(saved).startswith(f"{saved}/run.json cannot be read: ")


@pytest.mark.parametrize("schema", [2, 0, "1", None, True, 1.0])
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
        ("recipe", None, "'NoneType' object is not iterable"),
        ("recipe", {"norm": "wn", "depth": 3}, "unexpected keyword argument 'depth'"),
        ("recipe", {"norm": "wn", "a\nb\x1b[2J": 3}, "keyword argument 'a b?[2J'"),
        ("recipe", {"norm": "wn", "width": "24"}, "width is of type int, not '24'"),
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
        ("1,1,1,1,1,1,1", "line 3 is damaged: '1,1,1,1,1,1,1'"),
        ("3,1,1,1,1,1,1", "line 3 is damaged: '3,1,1,1,1,1,1'"),
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


def edit(folder, **changes):
    """Change run.json; a value of ... deletes."""
    path = folder / "run.json"
    record = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in record.items() if v is not ...}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": ""}, "source is a short name, not ''"),
        ({"source": 7}, "source is a short name, not 7"),
        ({"data": "mine"}, "data has a name and a digest, not 'mine'"),
        ({"data": {"digest": [1]}}, "data has a name and a digest, not {'digest': [1]}"),
        ({"wall_seconds": "1"}, "wall_seconds is a number from 0 up, not '1'"),
        ({"wall_seconds": True}, "wall_seconds is a number from 0 up, not True"),
        ({"wall_seconds": -1}, "wall_seconds is a number from 0 up, not -1"),
        ({"wall_seconds": None}, "wall_seconds is a number from 0 up, not None"),
        ({"recipe": {"norm": "wn", "lr": True}}, "lr is of type float, not True"),
        ({"recipe": {"norm": "wn", "epochs": 10**12}}, "epochs is from 1 to 100,000, not 10000"),
        ({"recipe": {"norm": "wn", "width": [1]}}, "width is of type int, not [1]"),
        ({"recipe": {"norm": ["wn"]}}, "['wn'] is not a valid Norm"),
    ],
)
def test_values_that_no_run_has_are_refused_in_one_line(saved, changes, said):
    edit(saved, **changes)
    message = refused(saved)
    assert said in message


@pytest.mark.parametrize(
    "changes",
    [
        {"lr": -1.0}, {"train_loss": -1e-9}, {"train_error": 1.01},
        {"test_loss": -math.inf}, {"test_error": -0.01}, {"test_error": 7.0},
        {"seconds": -1.0},
    ],
)  # fmt: skip
def test_impossible_numbers_are_refused(saved, changes):
    Run(Recipe.paper("wn"), [row(1)._replace(**changes)]).save(saved)
    assert refused(saved).startswith(f"{saved}/history.csv, line 2 is damaged: '1,")


def test_tables_with_carriage_returns_are_read(saved):
    """As git writes them on Windows."""
    rows = Run.load(saved).rows
    for name in ("run.json", "history.csv"):
        path = saved / name
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert Run.load(saved).rows == rows


@pytest.mark.parametrize("said", ["finished", "diverged at epoch 1", "won", ["finished"], None])
def test_states_that_the_history_denies_are_refused(saved, said):
    run(errors=[0.5, 0.4], epochs=3).save(saved)
    edit(saved, state=said)
    assert f"says {said!r}, but history.csv has 2 of 3 epochs" in refused(saved)


def test_states_that_the_history_bears_are_read(saved):
    for epochs, states in (
        (0, [State.INTERRUPTED]),
        (2, [State.INTERRUPTED, State.DIVERGED]),
        (3, list(State)),
    ):
        for state in states:
            one = run(errors=[0.5] * epochs, epochs=3, state=state)
            one.save(saved)
            assert Run.load(saved) == one
    run(errors=[0.5] * 4, epochs=3, state=State.INTERRUPTED).save(saved)
    assert refused(saved).endswith("but history.csv has 4 of 3 epochs")


@pytest.mark.parametrize("path", OURS, ids=lambda p: p.parent.name)
def test_every_recorded_run_loads_and_is_written_as_it_was(path, tmp_path):
    loaded = Run.load(path.parent)
    loaded.save(tmp_path)
    assert Run.load(tmp_path) == loaded or any(map(np.isnan, np.ravel(loaded.rows)))
    old, new = json.loads(path.read_text()), json.loads((tmp_path / "run.json").read_text())
    kept = {name: value for name, value in old["recipe"].items() if name not in RETIRED}
    assert new == {**old, "recipe": {**new["recipe"], **kept}}
    assert new["state"] == loaded.outcome


def test_a_retired_setting_loads_only_at_the_value_that_it_had(tmp_path):
    run().save(tmp_path)
    content = json.loads((tmp_path / "run.json").read_text())
    for value in ("gaussian", "uniform"):
        content["recipe"]["noise"] = value
        (tmp_path / "run.json").write_text(json.dumps(content))
        if value == "gaussian":
            assert Run.load(tmp_path) == run()
    with pytest.raises(RunError, match=r"is damaged: .*unexpected keyword argument 'noise'"):
        Run.load(tmp_path)


# --- writing


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    write_whole(tmp_path / "file", b"old")
    (tmp_path / "file.partial").mkdir()
    with pytest.raises(RunError, match=f"^{tmp_path} cannot be written: Is a directory$"):
        write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"


def test_unwritable_folders_are_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError) as caught:
            run().save(folder)
        assert str(caught.value).startswith(f"{folder} cannot be written: ")
    assert (tmp_path / "file").read_text() == "in the way"


def test_recipes_are_written_as_they_are(tmp_path):
    run("wn_mobn").save(tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["recipe"] == json.loads(json.dumps(dataclasses.asdict(run("wn_mobn").recipe)))


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
