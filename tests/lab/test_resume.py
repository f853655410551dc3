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


# --- exact resume


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_rows_are_the_same_after_a_stop(tiny, tmp_path, whole, epochs):
    first = record_epochs(small(), tiny, tmp_path, device="cpu")
    for _ in range(epochs):
        next(first)
    first.close()
    assert Run.load(tmp_path).state is State.INTERRUPTED
    run = record(small(), tiny, tmp_path, device="cpu")
    assert timeless(run.rows) == timeless(whole)
    assert run.state is State.FINISHED
    assert run.provenance["wall_seconds"] == pytest.approx(sum(row.seconds for row in run.rows))
    assert sorted(contents(tmp_path)) == FILES


@pytest.mark.parametrize("norm", list(Norm))
def test_every_configuration_goes_on_exactly(tiny, tmp_path, norm):
    recipe = small(norm, epochs=2, width=2, lr=0.003)
    next(record_epochs(recipe, tiny, tmp_path, device="cpu"))
    rows = record(recipe, tiny, tmp_path, device="cpu").rows
    assert timeless(rows) == timeless(train(recipe, tiny, "cpu"))


def test_rows_are_the_same_after_any_kill(tmp_path):
    """Killed at random moments, and within each of the first writes at three points."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "killing.py", tmp_path],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    kills = json.loads(done.stdout)
    assert kills["random"] == 10
    assert kills["write"] == 24
    assert kills["strays"] > 10


def test_a_plain_call_leaves_nothing(tiny, tmp_path):
    record_epochs(small(), tiny, tmp_path / "a" / "b", device="cpu")
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_does_not_begin_leaves_no_folder(tiny, tmp_path):
    with pytest.raises(RuntimeError, match="memory"):
        record(small(width=100_000), tiny, tmp_path / "a" / "b", device="cpu")
    with pytest.raises(ValueError, match="100 images at once"):
        record(small(batch_size=100), tiny, tmp_path / "a" / "b", device="cpu")
    assert list(tmp_path.iterdir()) == []


def test_ended_runs_are_replayed(tiny, tmp_path):
    rows = record(small("none", lr=1e20, epochs=9), tiny, tmp_path, device="cpu").rows
    assert Run.load(tmp_path).outcome == f"diverged at epoch {len(rows)}"
    (tmp_path / "checkpoint.pt").unlink()  # not needed any more
    before = contents(tmp_path)
    again = list(record_epochs(small("none", lr=1e20, epochs=9), tiny, str(tmp_path)))
    assert timeless(again) == timeless(rows)
    assert contents(tmp_path) == before


def test_the_bar_counts_steps(tiny, tmp_path, capsys):
    record(small("none", lr=1e20), tiny, tmp_path, device="cpu", progress=True)
    said = capsys.readouterr().err
    assert "plain: " in said
    assert "/16" in said
    assert "diverged at epoch" in said


def test_rows_do_not_depend_on_the_caller_s_precision_or_folder(tiny, tmp_path, whole, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = record_epochs(small(), tiny, "run", device="cpu")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert timeless(rows) == timeless(whole)
    assert Run.load(tmp_path / "run").state is State.FINISHED
    assert list(Path().iterdir()) == []


# --- record and checkpoint apart, as a kill or a synchronized folder leaves them


@pytest.mark.parametrize("left", [0, 1])
def test_checkpoint_ahead_of_the_history_is_gone_on_from(tiny, stopped, whole, left):
    path = stopped / "history.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[: left + 1]))
    rows = record_epochs(small(), tiny, stopped, device="cpu")
    next(rows), next(rows)
    assert len(Run.load(stopped).rows) == 2, "it was brought up before training went on"
    rows.close()
    assert timeless(record(small(), tiny, stopped, device="cpu").rows) == timeless(whole)


def test_checkpoint_alone_is_gone_on_from(tiny, stopped, whole):
    for name in ("run.json", "history.csv"):
        (stopped / name).unlink()
    assert timeless(record(small(), tiny, stopped, device="cpu").rows) == timeless(whole)


def test_ended_checkpoint_brings_the_record_up_to_it(tiny, tmp_path):
    expected = record(small(epochs=2), tiny, tmp_path, device="cpu")
    Run(small(epochs=2), expected.rows[:1], provenance=expected.provenance).save(tmp_path)
    assert record(small(epochs=2), tiny, tmp_path, device="cpu") == expected


def test_older_checkpoint_is_gone_on_from(tiny, stopped, whole):
    old = (stopped / "checkpoint.pt").read_bytes()
    rows = record_epochs(small(), tiny, stopped, device="cpu")
    next(rows), next(rows), next(rows)
    rows.close()
    (stopped / "checkpoint.pt").write_bytes(old)
    assert timeless(record(small(), tiny, stopped, device="cpu").rows) == timeless(whole)


# --- what is not its own is refused, and nothing is overwritten


def test_another_run_is_refused(tiny, stopped):
    said = refused(small(lr=0.1, seed=3), tiny, stopped)
    changed = "lr 0.003, not 0.1, seed 0, not 3"
    assert said == f"{stopped} holds another run ({changed}); choose another folder"
    said = refused(small(), dataclasses.replace(tiny, digest="other"), stopped)
    assert said == f"{stopped} holds a run on other images; choose another folder"


def test_missing_checkpoint_is_refused(tiny, stopped):
    (stopped / "checkpoint.pt").unlink()
    said = f"{stopped} has 2 epochs but no checkpoint.pt to go on from; choose another folder"
    assert refused(small(), tiny, stopped).startswith(said)
    (stopped / "run.json").unlink()
    said = f"{stopped} has lost its run.json, but not history.csv; choose another folder"
    assert refused(small(), tiny, stopped) == said


OTHERS = {
    "rows": lambda s: s["rows"][0].__setitem__(2, s["rows"][0][2] + 1e-9),
    "seed": lambda s: s["run"]["recipe"].update(seed=1),
    "data": lambda s: s["run"].update(data="other"),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_checkpoints_of_another_run_are_refused(tiny, stopped, change):
    path = stopped / "checkpoint.pt"
    path.write_bytes(altered(change)(path.read_bytes()))
    said = refused(small(), tiny, stopped)
    assert said.startswith(f"{path} belongs to another run; choose another folder")


def test_checkpoints_of_the_old_code_are_refused(tiny, stopped):
    path = stopped / "checkpoint.pt"
    path.write_bytes(altered(lambda s: s.pop("format"))(path.read_bytes()))
    said = refused(small(), tiny, stopped)
    assert said.startswith(f"{path} was written by another version of wnlib")


def flip(blob):
    half = len(blob) // 2
    return blob[:half] + bytes([blob[half] ^ 1]) + blob[half + 1 :]


def first(table):
    return next(iter(table))


DAMAGED = {
    "cut": lambda blob: blob[: len(blob) // 2],
    "flip": flip,
    "empty": lambda _: b"",
    "code": lambda _: saved(Path("x")),
    "no dictionary": lambda _: saved([1, 2]),
    "no model": altered(lambda s: s.pop("model")),
    "rows too short": altered(lambda s: s["rows"][0].pop()),
    "another state": altered(lambda s: s.update(state="won")),
    "other shapes": altered(lambda s: s["model"].update({first(s["model"]): torch.zeros(7)})),
    "moments of other shapes": altered(lambda s: s["optimizer"][0].update(exp_avg=torch.zeros(1))),
    "moments of nothing": altered(lambda s: s["optimizer"].update({999: s["optimizer"][0]})),
    "sparse moments": altered(
        lambda s: s["optimizer"][0].update(exp_avg=s["optimizer"][0]["exp_avg"].to_sparse())
    ),
    "moments of another type": altered(
        lambda s: s["optimizer"][0].update(exp_avg_sq=s["optimizer"][0]["exp_avg_sq"].double())
    ),
    "weights of no device": altered(
        lambda s: s["model"].update({first(s["model"]): s["model"][first(s["model"])].to("meta")})
    ),
    "numbers as text": altered(lambda s: s["rows"][0].__setitem__(3, "0.5")),
    "rows that are none": altered(lambda s: s.update(rows=7)),
    "seconds without end": altered(lambda s: s["rows"][1].__setitem__(6, float("inf"))),
    "finished too soon": altered(lambda s: s.update(state="finished")),
    "more rows than epochs": altered(
        lambda s: s["rows"].extend([k, *s["rows"][0][1:]] for k in range(3, 9))
    ),
    "no generator": altered(lambda s: s["generators"].update(cpu=torch.zeros(3).byte())),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_damaged_checkpoints_are_refused(tiny, stopped, damage):
    path = stopped / "checkpoint.pt"
    path.write_bytes(damage(path.read_bytes()))
    state = torch.get_rng_state()
    said = refused(small(), tiny, stopped)
    assert said.startswith(f"{path} is damaged (")
    assert said.endswith("); choose another folder, or delete this one to start again")
    assert torch.equal(torch.get_rng_state(), state)


def test_unreadable_checkpoint_and_damaged_record_are_refused(tiny, stopped):
    path = stopped / "history.csv"
    path.write_text("x")
    assert refused(small(), tiny, stopped).startswith(f"{path} does not begin with")
    shutil.rmtree(stopped)
    (stopped / "checkpoint.pt").mkdir(parents=True)
    with pytest.raises(RunError, match=r"checkpoint\.pt cannot be read: Is a directory; choose"):
        record(small(), tiny, stopped, device="cpu")


def test_a_scaler_s_scale_comes_back(tiny):
    """The one part that no CPU's training has."""
    one, other = (Training(small(), tiny, "cpu") for _ in range(2))
    for training, scale in ((one, 8.0), (other, 64.0)):
        training.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        training.scaler.scale(torch.ones(1))
    parts = {"model": one.model.state_dict(), "optimizer": {}, "generators": one.generators}
    records._load(other, parts | {"scaler": one.scaler.state_dict()})
    assert other.scaler.get_scale() == 8.0
    with pytest.raises(ValueError):  # noqa: PT011
        records._load(other, parts | {"scaler": one.scaler.state_dict() | {"scale": 0.0}})


# --- folders that fail


def test_unwritable_folders_are_refused(tiny, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / ("x" * 300)):
        with pytest.raises(RunError, match=r"cannot be (read|written): "):
            record(small(), tiny, folder, device="cpu")


def test_checkpoint_that_cannot_be_written_is_told(tiny, tmp_path):
    rows = record_epochs(small(), tiny, tmp_path, device="cpu")
    next(rows)
    (tmp_path / "checkpoint.pt").unlink()
    (tmp_path / "checkpoint.pt").mkdir()  # nothing can be put in its place
    with pytest.raises(RunError, match=f"^{tmp_path} cannot be written: Is a directory$"):
        list(rows)
    assert len(Run.load(tmp_path).rows) == 1


def test_a_file_system_without_locks_is_told_and_left_clean(tiny, tmp_path, monkeypatch):
    def none_left(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", none_left)
    with pytest.raises(RunError, match="cannot be written: No locks available"):
        record(small(), tiny, tmp_path / "run", device="cpu")
    assert list(tmp_path.glob("run/*")) == []


# --- two trainings in one folder

HOLDER = """
import sys
from wnlib import Recipe, load_cifar10
from wnlib.lab import record_epochs

rows = record_epochs(Recipe(**{recipe}), load_cifar10(), sys.argv[1], device="cpu")
next(rows)
print("held", flush=True)
sys.stdin.read()
"""


def test_second_process_is_refused_until_the_first_is_killed(sample, tmp_path):
    recipe = small("none", width=1, epochs=2, batch_size=1000, inputs="unit")
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
    assert record(recipe, sample, tmp_path, device="cpu").state is State.FINISHED
    assert sorted(contents(tmp_path)) == FILES


def test_later_training_of_a_process_takes_over(tiny, tmp_path, whole):
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
    assert timeless(rows + list(later)) == timeless(whole)


# --- provenance


def test_commit_is_of_the_package_and_says_dirty(tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    assert records._commit(tmp_path) is None
    (tmp_path / "a.py").write_text("1")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    records._commit.cache_clear()
    commit = records._commit(tmp_path)
    assert commit
    (tmp_path / "a.py").write_text("2")
    assert records._commit(tmp_path) == commit, "what runs is what was imported"
    records._commit.cache_clear()
    assert records._commit(tmp_path) == f"{commit}-dirty"
    records._commit.cache_clear()


# --- a second folder that outlives the first


@pytest.fixture
def often(monkeypatch):
    """A copy after each epoch."""
    monkeypatch.setattr(records, "EVERY", 0)


def test_copy_is_made_in_the_end_and_comes_back(tiny, tmp_path, whole):
    local, kept = tmp_path / "local", tmp_path / "drive"
    rows = record_epochs(small(), tiny, local, device="cpu", keep=kept)
    next(rows), next(rows)
    assert not kept.exists(), "ten minutes are not over"
    rows.close()
    assert contents(kept) == contents(local)
    shutil.rmtree(local)  # the session is over
    run = record(small(), tiny, local, device="cpu", keep=kept)
    assert timeless(run.rows) == timeless(whole)
    assert sorted(contents(kept)) == FILES
    assert contents(kept) == contents(local)


@pytest.mark.usefixtures("often")
def test_copy_is_made_when_it_is_time(tiny, tmp_path, whole):
    rows = record_epochs(small(), tiny, tmp_path / "local", device="cpu", keep=tmp_path / "drive")
    for count in (1, 2):
        next(rows)
        assert len(Run.load(tmp_path / "drive").rows) == count
    del rows  # killed, say: the local disk is gone
    gc.collect()
    shutil.rmtree(tmp_path / "local")
    run = record(small(), tiny, tmp_path / "local", device="cpu", keep=str(tmp_path / "drive"))
    assert timeless(run.rows) == timeless(whole)


def test_ended_run_comes_back_and_is_copied(tiny, tmp_path, whole):
    local, kept = tmp_path / "local", tmp_path / "drive"
    record(small(), tiny, local, device="cpu")
    assert timeless(record(small(), tiny, local, keep=kept).rows) == timeless(whole)
    assert contents(kept) == contents(local)
    shutil.rmtree(local)
    assert timeless(record_epochs(small(), tiny, local, keep=kept)) == timeless(whole)
    assert sorted(contents(local)) == FILES


def test_copy_of_another_run_is_refused(tiny, stopped, tmp_path):
    with pytest.raises(RunError, match=r"run holds another run \(seed 0, not 1\); choose another"):
        record(small(seed=1), tiny, tmp_path / "local", device="cpu", keep=stopped)
    assert not (tmp_path / "local").exists()


@pytest.mark.usefixtures("often")
def test_copy_that_cannot_be_written_stops_nothing(tiny, tmp_path, whole, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "checkpoint.pt").mkdir()  # nothing can be put in its place
    run = record(small(), tiny, tmp_path / "run", device="cpu", keep=tmp_path / "full")
    assert timeless(run.rows) == timeless(whole)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 5  # and once more in the end
    assert "Is a directory; training goes on, without that copy" in said[0]
