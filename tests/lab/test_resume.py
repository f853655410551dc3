"""A training and its folder: it goes on exactly, alone, and only with what is its own."""

import dataclasses
import errno
import gc
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from training import altered, contents, refused, saved, small, timeless

import wnlib
from wnlib import Norm, Training, train
from wnlib.lab import Run, record, record_epochs, records
from wnlib.lab.records import RunError
from wnlib.training import State

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(wnlib.__file__).parents[1]
FILES = ["checkpoint.pt", "history.csv", "run.json"]


def finish(data, folder, **options):
    """The rows of the run that is there, trained to its end."""
    return timeless(record(small(), data, folder, device="cpu", **options).rows)


# --- exact resume


@pytest.mark.parametrize(("norm", "epochs"), [("wn", 2), ("wn", 3), *((n, 1) for n in Norm)])
def test_rows_are_the_same_after_a_stop(tiny, tmp_path, norm, epochs, monkeypatch):
    recipe, whole = small(norm, lr=np.float64(0.001)), train(small(norm, lr=0.001), tiny, "cpu")
    first = record_epochs(recipe, tiny, tmp_path, device="cpu")
    for _ in range(epochs):
        next(first)
    first.close()
    monkeypatch.setattr(records, "autocast_type", lambda _: torch.float64)  # says another machine
    run = record(recipe, tiny, tmp_path, device="cpu")
    assert timeless(run.rows) == timeless(whole)
    assert (run.state, run.provenance["threads"]) == (State.FINISHED, 1)
    assert run.provenance["wall_seconds"] == pytest.approx(sum(row.seconds for row in run.rows))
    assert run.provenance["precision"].endswith(", then float64")
    assert sorted(contents(tmp_path)) == FILES


def test_rows_are_the_same_after_any_kill(tmp_path):
    """Killed at random moments, and within each of the first writes at three points."""
    command = [sys.executable, ROOT / "tests" / "killing.py", tmp_path]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=os.environ | threads, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    kills = json.loads(done.stdout)
    assert (kills["random"], kills["write"]) == (10, 29)
    assert kills["strays"] > 10


def test_ended_runs_are_replayed(tiny, tmp_path):
    recipe = small("none", lr=1e20, epochs=9)
    rows = record(recipe, tiny, tmp_path, device="cpu").rows
    assert Run.load(tmp_path).outcome == f"diverged at epoch {len(rows)}"
    (tmp_path / "checkpoint.pt").unlink()  # not needed any more
    before = contents(tmp_path)
    assert timeless(record_epochs(recipe, tiny, str(tmp_path))) == timeless(rows)
    assert contents(tmp_path) == before


def test_the_folder_is_that_of_the_start(tiny, tmp_path, whole, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = record_epochs(small(), tiny, "run", device="cpu")
    next(rows)
    monkeypatch.chdir("/")
    list(rows)
    assert timeless(Run.load(tmp_path / "run").rows) == timeless(whole)


# What a kill, or a folder that a service synchronizes, may leave of a run stopped after two epochs.


def history_behind(folder):
    path = folder / "history.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))


def record_ahead(folder):
    run = Run.load(folder)
    run.rows.append(run.rows[-1]._replace(epoch=3))
    run.provenance["data"] = {"name": "tiny"}  # by hand
    run.save(folder)


def checkpoint_alone(folder):
    (folder / "history.csv").unlink()
    (folder / "run.json").unlink()


def from_another_device(folder):
    path = folder / "checkpoint.pt"
    change = altered(lambda state: state["generators"].update(cuda="its own"))
    path.write_bytes(change(path.read_bytes()))


LEFT = (history_behind, record_ahead, checkpoint_alone, from_another_device)


@pytest.mark.parametrize("leave", LEFT, ids=lambda leave: leave.__name__)
def test_what_is_left_is_gone_on_from(tiny, stopped, whole, leave):
    leave(stopped)
    assert finish(tiny, stopped) == finish(tiny, stopped) == timeless(whole)


# --- what is not its own is refused, and nothing is overwritten


def test_another_run_is_refused(tiny, stopped):
    said = refused(small(lr=0.1, seed=3), tiny, stopped)
    changed = "lr 0.003, not 0.1, seed 0, not 3"
    assert said == f"{stopped} holds another run ({changed}); choose another folder"
    said = refused(small(), dataclasses.replace(tiny, digest="other"), stopped)
    assert said == f"{stopped} holds a run on other images; choose another folder"
    checkpoint_alone(stopped)
    said = refused(small(seed=3), tiny, stopped)
    assert said.startswith(f"{stopped}/checkpoint.pt is of another run, or of another wnlib")


@pytest.mark.parametrize("put", [lambda _: None, os.mkfifo, os.mkdir])
def test_a_missing_checkpoint_or_record_is_refused(tiny, stopped, put):
    (stopped / "checkpoint.pt").unlink()
    put(stopped / "checkpoint.pt")
    with pytest.raises(RunError, match=f"^{stopped} has 2 epochs but no checkpoint.pt to go on"):
        record(small(), tiny, stopped, device="cpu")
    (stopped / "run.json").unlink()
    os.mkfifo(stopped / "run.json")
    with pytest.raises(RunError, match=r"run.json is no file: .* holds no run; choose another fol"):
        record(small(), tiny, stopped, device="cpu")


class Code:
    """Unpickled, it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


OTHER = "is of another run, or of another wnlib"
BROKEN = "cannot be read: "
DAMAGED = {
    "data": (altered(lambda s: s["run"].update(data="other")), OTHER),
    "of the old code": (altered(lambda s: s.pop("format")), OTHER),
    "cut": (lambda blob: blob[: len(blob) // 2], BROKEN),
    "flip": (lambda b: b[:9999] + bytes([b[9999] ^ 1]) + b[10_000:], BROKEN),
    "code": (lambda _: saved(Code()), BROKEN),
    "no model": (altered(lambda s: s.pop("model")), BROKEN),
    "other shapes": (altered(lambda s: s["model"].update({next(iter(s["model"])): 0})), BROKEN),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_checkpoints_are_refused(tiny, stopped, damage, said, monkeypatch):
    monkeypatch.chdir(stopped.parent)
    path = stopped / "checkpoint.pt"
    path.write_bytes(damage(path.read_bytes()))
    message = refused(small(), tiny, stopped)
    assert message.startswith(f"{path} {said}")
    assert message.endswith("; choose another folder, or delete this one to start again")
    assert not Path("executed").exists()


def test_a_scaler_s_scale_comes_back(tiny, tmp_path):
    """The one part that no CPU's training has."""
    one, other = (Training(small(), tiny, "cpu") for _ in range(2))
    for training, scale in ((one, 8.0), (other, 64.0)):
        training.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        training.scaler.scale(torch.ones(1))
    records.save(tmp_path / "checkpoint.pt", one)
    records.restore(tmp_path, Run(small()), other)
    assert other.scaler.get_scale() == 8.0


# --- folders that fail


def test_what_does_not_begin_leaves_nothing(tiny, tmp_path):
    with pytest.raises(ValueError, match="100 images at once"):
        record(small(batch_size=100), tiny, tmp_path / "run", device="cpu")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "run" / "checkpoint.pt").mkdir(parents=True)  # nothing can be put in its place
    for name in ("file", "file/run", "x" * 300, "run"):
        with pytest.raises(RunError, match=r"cannot be written: |File name too long"):
            record(small(), tiny, tmp_path / name, device="cpu")


def test_a_file_system_without_locks_is_told(tiny, tmp_path, monkeypatch):
    def none_left(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", none_left)
    with pytest.raises(RunError, match=r"No locks available|another training"):  # old filelocks
        record(small(), tiny, tmp_path / "run", device="cpu")


# --- two trainings in one folder


def test_a_second_process_is_refused_until_the_first_is_killed(tiny, stopped, whole):
    code = "import filelock\nwith filelock.FileLock('lock'): print('held', flush=True), input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=stopped, stdin=-1, stdout=-1) as holder:
        assert holder.stdout.readline() == b"held\n"
        said = f"another training is at work in {stopped}; stop it, or choose another folder"
        assert refused(small(), tiny, stopped) == said
        holder.kill()
    assert "lock" in contents(stopped)
    assert finish(tiny, stopped) == timeless(whole)
    assert sorted(contents(stopped)) == FILES


def test_a_later_training_of_a_process_takes_over(tiny, tmp_path, whole):
    """As when a notebook's cell is stopped and run again: what it left is suspended somewhere."""
    earlier = record_epochs(small(), tiny, tmp_path, device="cpu")
    next(earlier)
    (tmp_path / "link").symlink_to(tmp_path)
    later = record_epochs(small(), tiny, tmp_path / "link", device="cpu")
    rows = [next(later), next(later)]
    before = [(tmp_path / name).read_bytes() for name in FILES]
    said = f"^a later training goes on in {tmp_path}; this one gave way to it$"
    with pytest.raises(RunError, match=said):
        next(earlier)
    assert [(tmp_path / name).read_bytes() for name in FILES] == before
    assert (tmp_path / "lock").exists()
    assert timeless(rows + list(later)) == timeless(whole)
    assert not (tmp_path / "lock").exists()


def test_commit_is_of_the_package_and_says_dirty(tmp_path):
    """What runs is what was imported: it is looked up once."""
    look_up, git = records._commit.__wrapped__, ["git", "-C", str(tmp_path)]
    assert look_up(tmp_path) is None
    (tmp_path / "a.py").write_text("1")
    for words in ("init -q", "add .", "-c user.name=a -c user.email=a@b commit -qm one"):
        subprocess.run([*git, *words.split()], check=True)
    commit = look_up(tmp_path)
    (tmp_path / "a.py").write_text("2")
    assert look_up(tmp_path) == f"{commit}-dirty"


# --- a second folder that outlives the first


@pytest.mark.parametrize("every", [600.0, 0.0])
def test_a_copy_comes_back(tiny, tmp_path, whole, monkeypatch, every):
    """It is made every so many seconds, and in the end."""
    monkeypatch.setattr(records, "EVERY", every)
    local, kept = tmp_path / "local", tmp_path / "drive"
    rows = record_epochs(small(), tiny, local, device="cpu", keep=kept)
    next(rows), next(rows)
    assert kept.exists() == (every == 0)
    rows.close()
    assert contents(kept) == contents(local)
    shutil.rmtree(local)  # the session is over
    assert finish(tiny, local, keep=str(kept)) == timeless(whole)
    assert contents(kept) == contents(local)
    shutil.rmtree(local)  # so is the run
    assert finish(tiny, local, keep=kept) == timeless(whole)
    assert sorted(contents(local)) == FILES


def test_a_copy_that_cannot_be_written_stops_nothing(tiny, tmp_path, whole, capsys, monkeypatch):
    monkeypatch.setattr(records, "EVERY", 0)
    (tmp_path / "full" / "checkpoint.pt").mkdir(parents=True)  # nothing can be put in its place
    assert finish(tiny, tmp_path / "run", keep=tmp_path / "full") == timeless(whole)
    gc.collect()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 5  # and once more in the end
    assert "Is a directory; training goes on, without that copy" in said[0]
