"""Records: what is written is what is read, and damage is named."""

import dataclasses
import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wnlib import Norm, Recipe
from wnlib.lab import Run, load_runs
from wnlib.lab.files import read_whole, remove_partial, write_whole
from wnlib.lab.record import LINE_BYTES, RECORD_BYTES, SCHEMA, Row, RunError

laws = settings(max_examples=50, deadline=None, derandomize=True)
NAN = float("nan")


def row(epoch, test_error=0.5, **values):
    numbers = {"lr": 0.003, "train_loss": 1 / 3, "train_error": 0.1, "test_loss": 2e-17}
    return Row(epoch=epoch, test_error=test_error, seconds=1.5, **(numbers | values))


def run(norm="wn", errors=(0.5, 0.4), epochs=None, **fields):
    rows = [row(i, error) for i, error in enumerate(errors, 1)]
    recipe = Recipe.paper(norm).replace(epochs=epochs or len(rows))
    return Run(recipe, rows, **({"state": "finished"} | fields))


def same(a, b):
    """Equal bit for bit, NaN equal to NaN."""
    return np.array(a, float).tobytes() == np.array(b, float).tobytes()


# --- save and load

nothing = st.just(NAN)
finite = st.floats(0, 1e12) | nothing
loss = st.floats(0) | nothing
error = st.floats(0, 1) | nothing


@laws
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
    run(errors=[0.5, 0.4, 0.3], state="interrupted").save(tmp_path)
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


ESCAPE = "\x1b]0;mine\x07\u202e\n"


def edit(folder, **changes):
    """Change run.json; a value of ... deletes."""
    path = folder / "run.json"
    record = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in record.items() if v is not ...}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": "x\x1b[2J"}, r"run.json cannot be read: 'x\x1b[2J' is not a line of text"),
        ({"note": ["a", {"b": ESCAPE}]}, "is not a line of text"),
        ({"note": {ESCAPE: 1}}, "is not a line of text"),
        ({"recipe": {"norm": "wn", ESCAPE: 1}}, "is not a line of text"),
        ({"recipe": {"norm": ESCAPE}}, "is not a line of text"),
        ({"schema": ESCAPE}, r"has schema '\x1b]0;mine"),
        ({"schema": [[1] * 9999]}, "has schema [[1, 1, 1, 1, 1, 1, ...]]; this wnlib reads 1"),
        ({"source": ""}, "source is a short name, not ''"),
        ({"source": "x" * 61}, "source is a short name, not 'xxxxxxxxxxxx...xxxxxxxxxxxxx'"),
        ({"source": 7}, "source is a short name, not 7"),
        ({"data": "mine"}, "data has a name and a digest, not 'mine'"),
        ({"data": {"digest": [1]}}, "data has a name and a digest, not {'digest': [1]}"),
        ({"wall_seconds": "1"}, "wall_seconds is a number from 0 up, not '1'"),
        ({"wall_seconds": True}, "wall_seconds is a number from 0 up, not True"),
        ({"wall_seconds": -1}, "wall_seconds is a number from 0 up, not -1"),
        ({"wall_seconds": None}, "wall_seconds is a number from 0 up, not None"),
        ({"wall_seconds": NAN}, "run.json cannot be read: NaN is not a number"),
        ({"wall_seconds": math.inf}, "run.json cannot be read: Infinity is not a number"),
        ({"recipe": {"norm": "wn", "lr": NAN}}, "run.json cannot be read: NaN is not a number"),
        ({"recipe": {"norm": "wn", "lr": True}}, "lr is a number above 0, not True"),
        ({"recipe": {"norm": "wn", "epochs": 10**12}}, "epochs is at most 100,000, not 10000"),
        ({"recipe": {"norm": "wn", "width": [1]}}, "width is a whole number from 1 up, not [1]"),
        ({"recipe": {"norm": "wn", "name": "../up"}}, "name is a short name without slashes"),
        ({"recipe": {"norm": ["wn"]}}, "['wn'] is not a valid Norm"),
        ({"recipe": {"norm": "x" * 9999}}, "run.json is damaged: 'xxx"),
    ],
)
def test_hostile_values_are_refused_in_one_printable_line(saved, changes, said):
    edit(saved, **changes)
    message = refused(saved)
    assert said in message
    assert len(message) < 350 + len(str(saved))


@pytest.mark.parametrize("text", ['{"a":' * 100_000, "[" * 100_000, "9" * 5000, '{"a": 1e999'])
def test_hostile_json_is_refused(saved, text):
    (saved / "run.json").write_text(text)
    assert refused(saved).startswith(f"{saved}/run.json cannot be read: ")


def test_deeply_nested_json_that_parses_is_refused_or_read(saved):
    """Between what json's parser and what this one's recursion bear."""
    text = (saved / "run.json").read_text().rstrip().removesuffix("}")
    for depth in (50, 400, 900, 990, 2000):
        (saved / "run.json").write_text(f'{text}, "note": {"[" * depth}{"]" * depth}}}')
        try:
            loaded = Run.load(saved)
        except RunError:
            assert depth > 300
        else:
            assert len(loaded.rows) == 3


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("finished", "says 'finished', but history.csv has 2 of 3 epochs"),
        ("diverged at epoch 1", "says 'diverged at epoch 1', but history.csv has 2 of 3 epochs"),
        ("diverged at epoch 02", "says 'diverged at epoch 02', but"),
        ("won", "says 'won', but"),
        (["finished"], "says ['finished'], but"),
        (None, "says None, but"),
    ],
)
def test_states_that_the_history_denies_are_refused(saved, state, said):
    run(errors=[0.5, 0.4], epochs=3, state=state).save(saved)
    assert f"{saved}/run.json {said}" in refused(saved)


def test_states_that_the_history_bears_are_read(saved):
    for epochs, states in (
        (0, ["interrupted"]),
        (2, ["interrupted", "diverged at epoch 2"]),
        (3, ["interrupted", "diverged at epoch 3", "finished"]),
    ):
        for state in states:
            one = run(errors=[0.5] * epochs, epochs=3, state=state)
            one.save(saved)
            assert Run.load(saved) == one
    (saved / "history.csv").unlink()
    run(errors=[0.5] * 4, epochs=3, state="interrupted").save(saved)
    assert refused(saved).endswith("but history.csv has 4 of 3 epochs")
    run(errors=[], epochs=3, state="diverged at epoch 0").save(saved)
    assert refused(saved).endswith("but history.csv has 0 of 3 epochs")


@pytest.mark.parametrize(
    "changes",
    [
        {"lr": -1.0}, {"lr": math.inf}, {"train_loss": -1e-9}, {"train_error": 1.01},
        {"test_loss": -math.inf}, {"test_error": -0.01}, {"test_error": 7.0},
        {"seconds": -1.0}, {"seconds": math.inf},
    ],
)  # fmt: skip
def test_impossible_numbers_are_refused(saved, changes):
    Run(Recipe.paper("wn"), [row(1)._replace(**changes)]).save(saved)
    assert refused(saved).startswith(f"{saved}/history.csv, line 2 is damaged: '1,")


def test_large_files_are_not_read(saved):
    limit = 4 * LINE_BYTES  # three epochs and the header
    for name, most in (("history.csv", limit), ("run.json", RECORD_BYTES)):
        run(errors=[0.5, 0.4, 0.3]).save(saved)
        with (saved / name).open("r+b") as file:
            file.truncate(10**9)  # a gigabyte, on paper
        said = f"{saved}/{name} cannot be read: it has more than {most:,} bytes"
        assert refused(saved) == said


def test_longest_rows_fit(tmp_path):
    """No number that Python writes is cut out by the limit."""
    long = [-2.2250738585072014e-308, 1.7976931348623157e308]
    assert len(f"100000{(',' + max(map(repr, long), key=len)) * 6}\n") <= LINE_BYTES
    recipe = Recipe.paper("wn").replace(epochs=3)
    rows = [Row(i, *[1.2345678901234567e-300] * 6) for i in (1, 2, 3)]
    Run(recipe, rows, "finished").save(tmp_path)
    assert Run.load(tmp_path).rows == rows


@pytest.mark.parametrize("name", ["run.json", "history.csv"])
def test_what_is_no_file_is_not_waited_for(saved, name):
    (saved / name).unlink()
    os.mkfifo(saved / name)
    assert refused(saved) == f"{saved / name} cannot be read: it is not a regular file"
    (saved / name).unlink()
    (saved / name).mkdir()
    assert refused(saved) == f"{saved / name} cannot be read: it is not a regular file"


def test_tables_with_carriage_returns_are_read(saved):
    """As git writes them on Windows."""
    rows = Run.load(saved).rows
    for name in ("run.json", "history.csv"):
        path = saved / name
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert Run.load(saved).rows == rows


def test_folders_with_hostile_names_are_said_printably(tmp_path):
    folder = tmp_path / "a\x1b[2J\nb"
    run().save(folder)
    assert len(load_runs(tmp_path)) == 1
    (folder / "history.csv").unlink()
    with pytest.raises(RunError) as caught:
        load_runs(tmp_path)
    assert str(caught.value).isprintable()
    assert r"a\x1b[2J\nb/history.csv is missing" in str(caught.value)


def check(loaded):
    """What everyone who reads a run may rely on."""
    n, epochs = len(loaded.rows), loaded.recipe.epochs
    assert n <= epochs
    assert loaded.state in ("interrupted", "finished", f"diverged at epoch {n}")
    assert loaded.state != "finished" or n == epochs
    assert [r.epoch for r in loaded.rows] == list(range(1, n + 1))
    assert not any(e < 0 or e > 1 for r in loaded.rows for e in (r.train_error, r.test_error))
    assert 0 < len(loaded.source) <= 60
    assert f"{loaded!r} {loaded.provenance} {loaded.recipe}".isprintable()
    assert loaded.summary().wall_seconds >= 0
    again = Run(loaded.recipe, loaded.rows, loaded.state, loaded.source, loaded.provenance)
    assert repr(again) == repr(loaded)


DAMAGE = settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@DAMAGE
@given(st.data())
def test_any_changed_byte_is_refused_or_harmless(tmp_path, data):
    name = data.draw(st.sampled_from(["run.json", "history.csv"]))
    provenance = {"data": {"name": "full", "digest": "d0"}, "device": "cpu", "wall_seconds": 4.5}
    whole = run(errors=[0.5, NAN, 0.3], provenance=provenance)
    whole.save(tmp_path)
    blob = bytearray((tmp_path / name).read_bytes())
    how = data.draw(st.sampled_from(["change", "cut", "insert", "delete"]))
    at = data.draw(st.integers(0, len(blob) - 1))
    byte = data.draw(st.integers(0, 255))
    if how == "change":
        blob[at] = byte
    elif how == "cut":
        del blob[at:]
    elif how == "insert":
        blob.insert(at, byte)
    else:
        del blob[at]
    (tmp_path / name).write_bytes(blob)
    try:
        loaded = Run.load(tmp_path)
    except RunError as error:
        said = str(error)
        assert said.isprintable() and said.startswith(str(tmp_path))  # noqa: PT018
    else:
        check(loaded)


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


def test_killed_writes_are_cleared_away_and_nothing_else(tmp_path):
    path = tmp_path / "run.json"
    for name in ("run.json.0a1b2c3d.partial", "run.json.99999999.partial"):
        (tmp_path / name).write_text("half")
    others = ["run.json.bak", "run.json.1", "history.csv.0a1b2c3d.partial", "run.json"]
    for name in others:
        (tmp_path / name).write_text("mine")
    (tmp_path / "run.json.folder.partial").mkdir()  # not ours
    remove_partial(path)
    assert {p.name for p in tmp_path.iterdir()} == {*others, "run.json.folder.partial"}


def test_files_are_read_up_to_their_limit(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_whole(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match=r"^it has more than 4 bytes$"):
        read_whole(tmp_path / "file", 4)


def test_interrupted_save_leaves_a_valid_record(tmp_path, monkeypatch):
    """Whichever of the two files was not replaced."""
    calls = []
    whole = Path.replace
    run(errors=[0.5], epochs=2, state="interrupted").save(tmp_path)

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


def test_recipes_are_written_as_they_are(tmp_path):
    run("wn_mobn").save(tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["recipe"] == json.loads(json.dumps(dataclasses.asdict(run("wn_mobn").recipe)))
