"""A training loses nothing: stopped, killed, damaged, twice in one folder, on a full disk."""

import dataclasses
import gc
import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import zipfile
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import wnlib
from wnlib import Norm, Recipe, Run, checkpoint, lock, resume, train
from wnlib.record import RunError
from wnlib.step import build, build_optimizer

pytestmark = pytest.mark.usefixtures("one_thread")
module = import_module("wnlib.train")  # the name in the package is the function
ROOT = Path(wnlib.__file__).parents[1]
every_norm = pytest.mark.parametrize("norm", list(Norm))


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """A machine with a GPU runs these tests as any other does."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def small(norm="wn", **changes):
    settings = {"width": 4, "epochs": 4, "batch_size": 10, "init_images": 20, "inputs": "symmetric"}
    return Recipe.paper(norm).scaled(**(settings | changes))


def timeless(rows):
    """All of the rows but their seconds, as bytes: the same bit for bit, or not."""
    return np.array([row._replace(seconds=0) for row in rows], float).tobytes()


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.fixture(scope="module")
def whole(tiny):
    """What an uninterrupted run gives."""
    return list(train(small(), tiny, device="cpu"))


# --- exact resume


@pytest.mark.parametrize("epochs", [0, 1, 2, 3])
def test_rows_are_the_same_after_a_stop(tiny, tmp_path, whole, epochs):
    first = train(small(), tiny, tmp_path)
    for _ in range(epochs):
        next(first)
    first.close()
    assert Run.load(tmp_path).state == "interrupted"
    rows = list(train(small(), tiny, tmp_path))
    assert timeless(rows) == timeless(whole)
    assert Run.load(tmp_path).rows == rows
    assert Run.load(tmp_path).state == "finished"


@every_norm
def test_every_configuration_goes_on_exactly(tiny, tmp_path, norm):
    recipe = small(norm, epochs=3, width=2, noise="uniform", lr=0.003)
    expected = list(train(recipe, tiny))
    for _ in range(3):  # stopped after every epoch
        rows = train(recipe, tiny, tmp_path)
        recorded = len(Run.load(tmp_path).rows)
        got = [next(rows) for _ in range(recorded + 1)]
        rows.close()
    assert timeless(got) == timeless(expected)
    assert Run.load(tmp_path).state == "finished"


@pytest.mark.parametrize("step", [0, 3, 6])
def test_stop_within_an_epoch_leaves_a_valid_record(tiny, tmp_path, whole, monkeypatch, step):
    steps = []
    real = module.training_step

    def stop(*arguments):
        steps.append(1)
        if len(steps) == step + 1:
            raise KeyboardInterrupt
        return real(*arguments)

    torch.manual_seed(7)
    state = torch.get_rng_state()
    with monkeypatch.context() as patch:
        patch.setattr(module, "training_step", stop)
        with pytest.raises(KeyboardInterrupt):
            list(train(small(), tiny, tmp_path))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(Run.load(tmp_path).rows) == step // 4
    assert timeless(train(small(), tiny, tmp_path)) == timeless(whole)


@pytest.mark.parametrize("epoch", [1, 2, 4])
def test_stop_between_record_and_checkpoint(tiny, tmp_path, whole, monkeypatch, epoch):
    saved = []
    real = module.save_checkpoint

    def stop(*arguments):
        saved.append(1)
        if len(saved) == epoch:
            raise KeyboardInterrupt
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            list(train(small(), tiny, tmp_path))
    assert len(Run.load(tmp_path).rows) == epoch
    assert timeless(train(small(), tiny, tmp_path)) == timeless(whole)


def test_rows_are_the_same_after_any_kill(tmp_path):
    """Killed at twenty random moments, and within each of the first writes at three points."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "killing.py", tmp_path],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    kills = json.loads(done.stdout)
    assert kills["random"] == 20
    assert kills["write"] == 30
    assert kills["strays"] > 15  # parts of files were there to be cleared away


def test_finished_runs_are_replayed(tiny, tmp_path, monkeypatch):
    rows = list(train(small(epochs=1), tiny, tmp_path))
    before = contents(tmp_path)
    monkeypatch.setattr(module, "prepare", lambda *_: pytest.fail("trained again"))
    assert list(train(small(epochs=1), tiny, tmp_path)) == rows
    (tmp_path / "checkpoint.pt").unlink()  # not needed any more
    assert list(train(small(epochs=1), tiny, str(tmp_path))) == rows
    del before["checkpoint.pt"]
    assert contents(tmp_path) == before


def test_wall_seconds_add_up_over_stops(tiny, tmp_path):
    first = train(small(epochs=2), tiny, tmp_path)
    next(first)
    first.close()
    rows = list(train(small(epochs=2), tiny, tmp_path))
    wall = Run.load(tmp_path).provenance["wall_seconds"]
    assert wall == pytest.approx(sum(row.seconds for row in rows))


# --- refusals: one line, nothing overwritten


def stop_after_two(recipe, data, folder):
    rows = train(recipe, data, folder, device="cpu")
    next(rows), next(rows)
    rows.close()
    return folder


@pytest.fixture(scope="module")
def two(tiny, tmp_path_factory):
    return stop_after_two(small(), tiny, tmp_path_factory.mktemp("two"))


@pytest.fixture
def stopped(two, tmp_path):
    """A run stopped after two epochs."""
    return shutil.copytree(two, tmp_path / "run")


def refused(recipe, data, folder):
    before = contents(folder)
    with pytest.raises(RunError) as caught:
        list(train(recipe, data, folder))
    assert contents(folder) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_changed_recipes_are_refused(tiny, stopped):
    said = refused(small(lr=0.1, seed=3), tiny, stopped)
    changed = "lr 0.003, not 0.1, seed 0, not 3"
    assert said == f"{stopped} holds another run ({changed}); choose another folder"


def test_other_images_are_refused(tiny, stopped):
    other = dataclasses.replace(tiny, digest="other")
    said = refused(small(), other, stopped)
    assert said == f"{stopped} holds a run on other images; choose another folder"


def test_missing_checkpoint_is_refused(tiny, stopped):
    (stopped / "checkpoint.pt").unlink()
    said = refused(small(), tiny, stopped)
    assert said == (
        f"{stopped} has 2 epochs but no checkpoint.pt to go on from; "
        "choose another folder, or delete this one to start again"
    )


def cut(blob):
    return blob[: len(blob) // 2]


def flip(blob):
    half = len(blob) // 2
    return blob[:half] + bytes([blob[half] ^ 1]) + blob[half + 1 :]


def squeezed(blob):
    """The same, compressed, which torch would read."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(blob)) as old, zipfile.ZipFile(buffer, "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return buffer.getvalue()


def altered(change):
    """A checkpoint whose state a function has changed."""

    def damage(blob):
        state = torch.load(io.BytesIO(blob), weights_only=True)
        change(state)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        return buffer.getvalue()

    return damage


def first(table):
    return next(iter(table))


def bomb(state):
    """Lists in lists in lists: a few bytes, and no end of printing them."""
    value = [0.0]
    for _ in range(60):
        value = [value] * 10
    state["rows"][0][2] = value


DAMAGED = {
    "cut": cut,
    "flip": flip,
    "empty": lambda _: b"",
    "junk": lambda _: b"junk",
    "compressed": squeezed,
    "no dictionary": lambda _: saved([1, 2]),
    "no model": altered(lambda s: s.pop("model")),
    "no rows": altered(lambda s: s.pop("rows")),
    "empty rows": altered(lambda s: s.update(rows=[])),
    "rows of text": altered(lambda s: s["rows"][0].__setitem__(2, "1")),
    "rows of truths": altered(lambda s: s["rows"][0].__setitem__(0, True)),
    "rows too short": altered(lambda s: s["rows"][0].pop()),
    "rows of another epoch": altered(lambda s: s["rows"].append([9, *s["rows"][1][1:]])),
    "impossible rows": altered(lambda s: s["rows"].append([3, *s["rows"][1][1:5], 7.0, 1.0])),
    "too many rows": altered(lambda s: s["rows"].extend([i, *6 * [0.5]] for i in range(3, 9))),
    "a bomb": altered(bomb),
    "another state": altered(lambda s: s.update(state="finished")),
    "other shapes": altered(lambda s: s["model"].update({first(s["model"]): torch.zeros(7)})),
    "huge shapes": altered(
        lambda s: s["model"].update({first(s["model"]): torch.zeros(1).expand(10**12)})
    ),
    "no tensors": altered(lambda s: s["model"].update({first(s["model"]): "x"})),
    "other names": altered(lambda s: s["model"].update(x=torch.zeros(7))),
    "moments of other shapes": altered(lambda s: s["optimizer"][0].update(exp_avg=torch.zeros(1))),
    "moments missing": altered(lambda s: s["optimizer"][0].pop("exp_avg_sq")),
    "moments of nothing": altered(lambda s: s["optimizer"].update({999: s["optimizer"][0]})),
    "no generator": altered(lambda s: s["generators"].update(cpu=torch.zeros(3).byte())),
    "a generator of text": altered(lambda s: s["generators"].update(cpu="x")),
}


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_damaged_checkpoints_are_refused(tiny, stopped, damage):
    path = stopped / "checkpoint.pt"
    path.write_bytes(damage(path.read_bytes()))
    state = torch.get_rng_state()
    said = refused(small(), tiny, stopped)
    assert said.startswith(f"{path} is damaged (")
    assert said.endswith("); choose another folder, or delete this one to start again")
    assert torch.equal(torch.get_rng_state(), state)


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


def test_copied_checkpoint_is_refused(tiny, stopped, tmp_path):
    for other in (small(seed=1), small(width=5), small("bn"), small(epochs=5)):
        stop_after_two(other, tiny, tmp_path / "other")
        (tmp_path / "other" / "checkpoint.pt").replace(stopped / "checkpoint.pt")
        said = refused(small(), tiny, stopped)
        assert said.startswith(f"{stopped}/checkpoint.pt belongs to another run; choose")
        for path in (tmp_path / "other").iterdir():
            path.unlink()


def test_zip_bombs_are_not_unpacked(tiny, stopped, monkeypatch):
    """Many zeros in few bytes; and overlapping parts, each as large as the file."""
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda _: pytest.fail("unpacked"))
    path = stopped / "checkpoint.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("a", "w") as part:
        for _ in range(64):
            part.write(bytes(1 << 20))
    assert "checkpoint.pt is damaged (ValueError)" in refused(small(), tiny, stopped)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a", bytes(1 << 18))
        file.filelist *= 999
    assert "checkpoint.pt is damaged (ValueError)" in refused(small(), tiny, stopped)


def test_huge_checkpoints_are_not_read(tiny, stopped):
    path = stopped / "checkpoint.pt"
    with path.open("r+b") as file:
        file.truncate(10**12)  # on paper
    with pytest.raises(RunError, match=f"^{path} cannot be read: it has more than "):
        list(train(small(), tiny, stopped))
    assert path.stat().st_size == 10**12


@pytest.mark.parametrize("norm", list(Norm))
def test_real_checkpoints_are_well_below_the_limit(tmp_path, norm):
    """At the paper's width, and at the least."""
    for width in (1, 96):
        recipe = Recipe.paper(norm).scaled(width=width)
        run = Run(recipe, provenance={"data": {"digest": "d"}}, state="finished")
        model = build(recipe)
        optimizer = build_optimizer(recipe, model)
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        row = [0.1234567890123456] * 6
        run.rows = [wnlib.runs.Row(i, *row) for i in range(1, 201)]
        parts = (model, optimizer, torch.amp.GradScaler("cpu", enabled=False))
        generators = resume.Generators(torch.device("cpu"), 0)
        checkpoint.save_checkpoint(tmp_path, run, *parts, generators)
        weights = sum(value.nbytes for value in model.state_dict().values())
        assert (tmp_path / "checkpoint.pt").stat().st_size < 3.2 * weights + (1 << 19)
        again = Run(recipe, provenance={"data": {"digest": "d"}})
        assert checkpoint.restore(tmp_path, again, *parts, generators)
        assert (again.rows, again.state) == (run.rows, "finished")
        assert Run.load(tmp_path).rows == run.rows  # it was behind


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_any_changed_byte_of_a_checkpoint_is_refused_or_harmless(two_epochs, data):
    folder, blob, recipe, weights = two_epochs
    at, byte = data.draw(st.integers(0, len(blob) - 1)), data.draw(st.integers(0, 255))
    end = at if data.draw(st.booleans()) else len(blob)
    (folder / "checkpoint.pt").write_bytes(blob[:at] + bytes([byte]) + blob[at + 1 : end])
    run = Run.load(folder)
    model = build(recipe)
    optimizer = build_optimizer(recipe, model)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    generators = resume.Generators(torch.device("cpu"), 0)
    try:
        checkpoint.restore(folder, run, model, optimizer, scaler, generators)
    except RunError as error:
        assert str(error).isprintable()  # noqa: PT017
    else:
        for name, value in model.state_dict().items():
            assert torch.equal(value, weights[name])


@pytest.fixture(scope="module")
def two_epochs(tiny, tmp_path_factory):
    recipe = small(width=1)
    folder = stop_after_two(recipe, tiny, tmp_path_factory.mktemp("narrow"))
    blob = (folder / "checkpoint.pt").read_bytes()
    return folder, blob, recipe, torch.load(io.BytesIO(blob), weights_only=True)["model"]


@pytest.mark.parametrize("name", ["run.json", "history.csv"])
def test_damaged_records_are_refused(tiny, stopped, name):
    path = stopped / name
    path.write_bytes(cut(path.read_bytes()))
    assert refused(small(), tiny, stopped).startswith(str(path))


@pytest.mark.parametrize("left", [["checkpoint.pt"], ["history.csv"], []])
def test_what_a_lost_record_leaves_is_not_overwritten(tiny, stopped, whole, left):
    for name in {"run.json", "history.csv", "checkpoint.pt"} - {*left}:
        (stopped / name).unlink()
    if left:
        said = refused(small(), tiny, stopped)
        assert said == f"{stopped} has lost its run.json, but not {left[0]}; choose another folder"
    else:
        assert timeless(train(small(), tiny, stopped)) == timeless(whole)


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


# --- record and checkpoint apart, as a synchronized folder may bring them back


def lose_rows(folder, left):
    path = folder / "history.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[: left + 1]))


@pytest.mark.parametrize("left", [0, 1])
def test_checkpoint_ahead_of_the_history_is_gone_on_from(tiny, stopped, whole, monkeypatch, left):
    lose_rows(stopped, left)
    monkeypatch.setattr(module, "data_dependent_init", lambda *_: pytest.fail("started again"))
    rows = list(train(small(), tiny, stopped))
    assert timeless(rows) == timeless(whole)
    assert Run.load(stopped).rows == rows


@pytest.mark.parametrize("recipe", [small(epochs=2), small("none", lr=1e20, epochs=9)])
def test_ended_checkpoint_brings_the_record_up_to_it(tiny, tmp_path, monkeypatch, recipe):
    expected = list(train(recipe, tiny, tmp_path))
    ended = Run.load(tmp_path)
    Run(recipe, expected[:-1], provenance=ended.provenance).save(tmp_path)
    monkeypatch.setattr(module, "prepare", lambda *_: pytest.fail("trained again"))
    rows = list(train(recipe, tiny, tmp_path))
    assert timeless(rows) == timeless(expected)
    assert repr(Run.load(tmp_path)) == repr(ended)


def test_older_checkpoint_is_gone_on_from(tiny, tmp_path, whole):
    rows = train(small(), tiny, tmp_path)
    next(rows)
    old = (tmp_path / "checkpoint.pt").read_bytes()
    next(rows), next(rows)
    rows.close()
    (tmp_path / "checkpoint.pt").write_bytes(old)
    assert timeless(train(small(), tiny, tmp_path)) == timeless(whole)


@pytest.mark.parametrize("key", ["lr", "seed", "epochs"])
def test_record_altered_together_with_the_command_is_found(tiny, stopped, key):
    """The record says what is asked for, but it is not what was trained."""
    path = stopped / "run.json"
    record = json.loads(path.read_text())
    record["recipe"][key] = {"lr": 0.01, "seed": 3, "epochs": 8}[key]
    path.write_text(json.dumps(record))
    said = refused(small(**{key: record["recipe"][key]}), tiny, stopped)
    assert "checkpoint.pt belongs to another run" in said


def test_run_goes_on_in_another_precision(tiny, stopped, monkeypatch):
    """One from bf16 has no scale for gradients; one from fp16 brings its own."""
    state = torch.load(stopped / "checkpoint.pt", weights_only=True)
    assert state["scaler"] == {}
    for each in (module, wnlib.step):
        monkeypatch.setattr(each, "autocast_type", lambda _: torch.float16)
    rows = train(small(), tiny, stopped)
    assert [next(rows).epoch for _ in range(3)] == [1, 2, 3]
    rows.close()
    path = stopped / "checkpoint.pt"
    scale = torch.load(path, weights_only=True)["scaler"]["scale"]
    path.write_bytes(
        altered(lambda s: s["scaler"].update(scale=scale / 8, growth_factor=9.0))(path.read_bytes())
    )
    real, scales = module.training_step, []

    def step(model, optimizer, scaler, x, y):
        result = real(model, optimizer, scaler, x, y)
        scales.append((scaler.get_scale(), scaler.get_growth_factor()))
        return result

    monkeypatch.setattr(module, "training_step", step)
    assert len(list(train(small(), tiny, stopped))) == 4
    assert scales[0] == (scale / 8, 2.0)


@pytest.mark.parametrize("scaler", [{"scale": 0.0}, {"scale": "x"}, {"_growth_tracker": [1]}])
def test_scales_that_no_scaler_has_are_refused(tiny, stopped, monkeypatch, scaler):
    for each in (module, wnlib.step):
        monkeypatch.setattr(each, "autocast_type", lambda _: torch.float16)
    path = stopped / "checkpoint.pt"
    real = {"scale": 8.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000}
    change = altered(lambda s: s.update(scaler=real | {"_growth_tracker": 0} | scaler))
    path.write_bytes(change(path.read_bytes()))
    assert refused(small(), tiny, stopped).startswith(f"{path} is damaged (")


def test_recipes_of_numpy_numbers_go_on(tiny, tmp_path):
    """As from a sweep over np.logspace."""
    recipe = small(lr=np.float64(0.01), sigma=np.float64(0.1), epochs=2)
    rows = train(recipe, tiny, tmp_path)
    next(rows)
    rows.close()
    assert timeless(train(recipe, tiny, tmp_path)) == timeless(train(recipe, tiny))


# --- a disk, a clock and a folder that fail


FULL = """
import resource, sys
from wnlib import Recipe, load_cifar10
from wnlib.record import RunError
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
        patch.setattr(module, "training_step", lambda *_: 1 / 0)
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


# --- generators


def test_generator_of_the_device_is_kept_apart_too(monkeypatch):
    device = {"state": torch.tensor([1], dtype=torch.uint8)}
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: device["state"])
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state: device.update(state=state))
    generators = resume.Generators(torch.device("mps"), 3)
    with generators.ours():
        device["state"] = torch.tensor([2], dtype=torch.uint8)
    assert device["state"].tolist() == [1]
    saved = generators.state()
    assert saved["mps"].tolist() == [2]
    # A run that goes on elsewhere takes what there is a generator for.
    elsewhere = resume.Generators(torch.device("cpu"), 0)
    elsewhere.load(saved)
    assert elsewhere.state().keys() == {"cpu"}
    assert torch.equal(elsewhere.state()["cpu"], saved["cpu"])
