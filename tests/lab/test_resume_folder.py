"""A training and its folder: full or read-only disks, clocks, locks, two trainings in one."""

import dataclasses
import gc
import os
import sqlite3
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
from training import contents, refused, small, timeless

import wnlib
from wnlib import graph, train
from wnlib.lab import Run, lock, resume
from wnlib.lab.record import RunError

pytestmark = pytest.mark.usefixtures("on_the_cpu", "one_thread")
module = import_module("wnlib.train")  # the name in the package is the function
ROOT = Path(wnlib.__file__).parents[1]


# --- a disk, a clock and a folder that fail


def test_unwritable_folders_are_refused(tiny, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError) as caught:
            train(small(), tiny, folder)
        assert str(caught.value).startswith(f"{folder} cannot be written: ")
    folder = tmp_path / ("x" * 300)
    with pytest.raises(RunError, match=r"cannot be (read|written): File name too long$"):
        train(small(), tiny, folder)


def test_checkpoint_that_cannot_be_written_is_told(tiny, tmp_path):
    rows = train(small(), tiny, tmp_path)
    next(rows)
    (tmp_path / "checkpoint.pt").unlink()
    (tmp_path / "checkpoint.pt").mkdir()  # nothing can be put in its place
    with pytest.raises(RunError, match=f"^{tmp_path} cannot be written: Is a directory$"):
        list(rows)
    assert len(Run.load(tmp_path).rows) == 2
    with pytest.raises(RunError, match=r"checkpoint\.pt cannot be read: it is not a regular file"):
        list(train(small(), tiny, tmp_path))


FULL = """
import resource, sys
from wnlib import Recipe, load_cifar10
from wnlib.lab.record import RunError
from wnlib.train import train

recipe = Recipe(**{recipe})
try:
    rows = train(recipe, load_cifar10(), sys.argv[1], device="cpu")
    next(rows)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
    print(next(rows).epoch)
except RunError as error:
    print(error)
"""


@pytest.mark.parametrize(("limit", "recorded"), [(200, 1), (10_000, 2)])
def test_full_disk_loses_at_most_an_epoch(sample, tmp_path, limit, recorded):
    """The system's own limit: the history does not fit, or the checkpoint."""
    recipe = small("none", width=1, epochs=3, batch_size=1000, inputs="unit")
    fields = dataclasses.asdict(recipe) | {"norm": "none"}
    done = subprocess.run(
        [sys.executable, "-c", FULL.format(recipe=fields), tmp_path, str(limit)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"{tmp_path} cannot be written: File too large\n", done.stderr
    names = {"run.json", "history.csv", "checkpoint.pt", "lock"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert len(Run.load(tmp_path).rows) == recorded
    assert timeless(train(recipe, sample, tmp_path)) == timeless(train(recipe, sample))


def test_clock_that_goes_backwards_changes_nothing(tiny, tmp_path, whole, monkeypatch):
    times = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(times)))
    for _ in range(2):
        rows = train(small(), tiny, tmp_path, progress=True)
        next(rows), next(rows)
        rows.close()
    rows = list(train(small(), tiny, tmp_path, progress=True))
    assert timeless(rows) == timeless(whole)
    assert all(row.seconds > 0 for row in rows)


def test_folder_that_became_read_only_is_told_before_training(tiny, stopped, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    for name in ("open", "mkdir", "touch", "unlink", "replace"):
        real = getattr(Path, name)

        def only_reads(path, *arguments, real=real, **named):
            reads = arguments[:1] in ((), ("r",), ("rb",)) and real.__name__ == "open"
            return real(path, *arguments, **named) if reads else refuse()

        monkeypatch.setattr(Path, name, only_reads)
    monkeypatch.setattr(module, "prepare", lambda *_: pytest.fail("trained"))
    said = refused(small(), tiny, stopped)
    assert said == f"{stopped} cannot be written: Read-only file system"


# --- two trainings in one folder


HOLDER = """
import sys
from wnlib import Recipe, load_cifar10, train

rows = train(Recipe(**{recipe}), load_cifar10(), sys.argv[1], device="cpu")
print("held", flush=True)
sys.stdin.read()
"""


def test_second_process_is_refused_until_the_first_is_killed(sample, tmp_path):
    recipe = small("none", width=1, epochs=1, batch_size=1000, inputs="unit")
    fields = dataclasses.asdict(recipe) | {"norm": "none"}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(recipe=fields), tmp_path],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        said = refused(recipe, sample, tmp_path)
        assert said == (
            f"another training is at work in {tmp_path}; stop it, or choose another folder"
        )
        holder.kill()
    assert "lock" in contents(tmp_path)
    assert len(list(train(recipe, sample, tmp_path))) == 1
    assert sorted(contents(tmp_path)) == ["checkpoint.pt", "history.csv", "run.json"]


def locked(folder):
    """SQLite's locks hold between two of its connections in one process too."""
    try:
        lock._exclusive(folder / "lock").close()
    except sqlite3.OperationalError:
        return True
    return False


def test_lock_is_held_as_long_as_the_training(tiny, tmp_path, monkeypatch):
    rows = train(small(), tiny, tmp_path)
    assert locked(tmp_path)
    del rows  # never begun
    gc.collect()
    assert not locked(tmp_path)
    rows = train(small(), tiny, tmp_path)
    next(rows)
    assert locked(tmp_path)
    rows.close()
    assert not locked(tmp_path)
    rows = train(small(), tiny, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(graph, "training_step", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError) as caught:
            list(rows)
    assert not locked(tmp_path), caught  # while the error and its frames are there
    (tmp_path / "checkpoint.pt").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(resume, "remove_partial", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError) as caught:
            train(small(), tiny, tmp_path)
    assert not locked(tmp_path), caught


def test_later_training_of_a_process_takes_over(tiny, tmp_path, whole):
    """As when a notebook's cell is stopped and run again: what it left is suspended somewhere."""
    earlier = train(small(), tiny, tmp_path)
    next(earlier)
    (tmp_path / "link").symlink_to(tmp_path)
    later = train(small(), tiny, tmp_path / "link")
    rows = [next(later), next(later)]
    before = contents_of_run(tmp_path)
    said = f"^a later training goes on in {tmp_path}; this one gave way to it$"
    with pytest.raises(RunError, match=said):
        next(earlier)
    assert contents_of_run(tmp_path) == before
    assert locked(tmp_path)
    assert timeless(rows + list(later)) == timeless(whole)


def contents_of_run(folder):
    return {name: (folder / name).read_bytes() for name in resume.FILES}


@pytest.mark.parametrize("code", [sqlite3.SQLITE_BUSY, sqlite3.SQLITE_IOERR, None])
def test_folders_without_locks_are_trained_in(tiny, tmp_path, whole, monkeypatch, code):
    """Some network file systems say that they can't lock, some that any lock is held."""

    def refuse(_):
        error = sqlite3.OperationalError("no lock")
        if code is not None:
            error.sqlite_errorcode = code
        raise error

    monkeypatch.setattr(lock, "_exclusive", refuse)
    assert timeless(train(small(), tiny, tmp_path)) == timeless(whole)
    assert sorted(contents(tmp_path)) == ["checkpoint.pt", "history.csv", "run.json"]


@pytest.mark.parametrize("there", ["junk", "a folder"])
def test_what_is_called_lock_and_is_none_does_not_stop_a_training(tiny, tmp_path, there):
    path = tmp_path / "lock"
    if there == "junk":
        path.write_bytes(b"junk" * 999)
    else:
        path.mkdir()
    assert len(list(train(small(epochs=1), tiny, tmp_path))) == 1
    assert path.exists()
