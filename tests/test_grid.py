"""A grid of runs: what is planned, who trains it, what becomes of it, and what the seeds say."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from training import timeless

import wnlib
from wnlib import Norm, Recipe, Run, train
from wnlib.data import DataError
from wnlib.grid import (
    Display,
    Setting,
    WorkerError,
    cluster,
    plan_grid,
    processes,
    run_grid,
    share_of_threads,
    summarize,
    summary_text,
)
from wnlib.grid import run as module
from wnlib.grid.spread import differences, spread
from wnlib.lock import Busy
from wnlib.runs import Row, RunError

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(wnlib.__file__).parents[1]


def until(holds, seconds=60):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Inline(Executor):
    """Trains in this very process, before `submit` returns."""

    def submit(self, fn, *args):
        future = Future()
        try:
            future.set_result(fn(*args))
        except Exception as error:
            future.set_exception(error)
        return future


class Refusing(Executor):
    def submit(self, fn, *args):
        raise AssertionError("nothing is left to train")


class Notes(Display):
    """Keeps what it is told."""

    def __init__(self):
        super().__init__(quiet=True)
        self.rows, self.ends = [], []

    def row(self, name, recipe, row):
        self.rows.append((name, row.epoch))

    def end(self, name, result):
        self.ends.append(name)


# --- plans

axes = st.fixed_dictionaries(
    {
        "recipes": st.lists(st.sampled_from(["paper", "report"]), min_size=1),
        "lrs": st.just([None])
        | st.lists(
            st.floats(1e-9, 1, exclude_min=True) | st.sampled_from([0.003, 3e-4]), min_size=1
        ),
        "scales": st.lists(st.sampled_from(["linear", "exp"]), min_size=1),
        "seeds": st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4),
        "norms": st.lists(st.sampled_from(list(Norm)), min_size=1),
    }
)


@given(axes)
def test_every_plan_is_a_run_of_its_own(axes):
    kept = {
        combination
        for combination in product(
            *(axes[name] for name in ("recipes", "lrs", "scales", "norms", "seeds"))
        )
        if combination[2] == "linear" or combination[3] in (Norm.WN, Norm.WN_MOBN)
    }
    if not kept:
        with pytest.raises(ValueError, match="weight norm"):
            plan_grid("out", **axes, width=2, epochs=3)
        return
    plans = plan_grid("out", **axes, width=2, epochs=3)
    assert {(*plan.setting, plan.recipe.seed) for plan in plans} == kept
    assert len(plans) == len(kept) == len({plan.folder for plan in plans})
    assert len({plan.recipe for plan in plans}) == len(plans)
    for plan in plans:
        name, lr, scale, norm = plan.setting
        recipe = getattr(Recipe, name)(norm)
        lr = recipe.lr if lr is None else lr
        assert plan.recipe == recipe.scaled(
            width=2, epochs=3, lr=lr, scale=scale, seed=plan.recipe.seed
        )
        assert plan.folder == Path("out", plan.name)
    seeds = [plan.recipe.seed for plan in plans]
    assert seeds == sorted(seeds, key=list(dict.fromkeys(axes["seeds"])).index)


@pytest.mark.parametrize(
    ("axes", "names"),
    [
        ({"norms": [Norm.NONE, Norm.WN]}, ["none", "wn"]),
        ({"norms": [Norm.WN], "lrs": [0.01], "scales": ["exp"], "seeds": [3]}, ["wn"]),
        ({"norms": [Norm.WN], "lrs": [3e-4, 0.01]}, ["lr0.0003/wn", "lr0.01/wn"]),
        ({"norms": [Norm.WN], "lrs": [0.1234567, 0.1234568]},
         ["lr0.1234567/wn", "lr0.1234568/wn"]),
        ({"norms": [Norm.NONE, Norm.WN], "scales": ["linear", "exp"]},
         ["linear/none", "linear/wn", "exp/wn"]),
        ({"norms": [Norm.BN], "recipes": ["paper", "report"], "seeds": [0, 1]},
         ["paper/seed0/bn", "report/seed0/bn", "paper/seed1/bn", "report/seed1/bn"]),
        ({"norms": [Norm.WN], "recipes": ["report", "paper"], "lrs": [1.0, 0.5],
          "scales": ["exp", "linear"], "seeds": [1, 0]},
         [f"{r}/{lr}/{s}/{seed}/wn" for seed in ("seed1", "seed0") for r in ("report", "paper")
          for lr in ("lr1", "lr0.5") for s in ("exp", "linear")]),
    ],
)  # fmt: skip
def test_folders_and_their_order(axes, names):
    plans = plan_grid("out", **axes, width=2, epochs=3)
    assert [plan.name for plan in plans] == names
    assert [plan.label for plan in plans] == [re.sub(r"seed\d+/", "", name) for name in names]


# --- what the seeds say

errors = st.floats(0, 1)


@given(st.lists(errors, min_size=2, max_size=9))
def test_spread_is_numpys(values):
    n, mean, sd = spread(values)
    assert n == len(values)
    np.testing.assert_allclose([mean, sd], [np.mean(values), np.std(values, ddof=1)], atol=1e-12)


def test_one_seed_has_no_spread():
    assert spread([0.25]) == (1, 0.25, None)


@given(st.lists(st.tuples(errors, errors), min_size=2, max_size=9))
def test_difference_is_scipys(pairs):
    a, b = Setting("paper", None, "linear", Norm.NONE), Setting("paper", None, "linear", Norm.WN)
    by_setting = {a: {seed: x for seed, (x, _) in enumerate(pairs)}}
    # Seeds that only one of them has say nothing, and their order is not theirs.
    by_setting[b] = {99: 0.5} | {seed: y for seed, (_, y) in reversed(list(enumerate(pairs)))}
    (found,) = differences(by_setting)
    x, y = np.array(pairs).T
    assert (found.setting, found.other, found.n) == (b, a, len(pairs))
    np.testing.assert_allclose(
        [found.mean, found.se], [np.mean(y - x), stats.sem(y - x)], atol=1e-12
    )


def test_difference_over_its_error_is_the_paired_t():
    x, y = [0.20, 0.25, 0.22, 0.27], [0.18, 0.19, 0.21, 0.20]
    a, b = Setting("paper", 0.1, "linear", Norm.WN), Setting("paper", 0.1, "exp", Norm.WN)
    (found,) = differences({a: dict(enumerate(x)), b: dict(enumerate(y))})
    assert found.mean / found.se == pytest.approx(stats.ttest_rel(y, x).statistic)


def test_only_one_axis_differs_and_seeds_are_shared():
    settings = [
        Setting(*each)
        for each in product(["paper", "report"], [0.1, 0.2], ["linear"], [Norm.WN, Norm.BN])
    ]
    found = differences({setting: {0: 0.1, 1: 0.2} for setting in settings})
    assert len(found) == 12  # the edges of a cube
    assert not differences({setting: {0: 0.1} for setting in settings})
    one_each = {setting: {n: 0.1, n + 100: 0.2} for n, setting in enumerate(settings)}
    assert not differences(one_each), "no seed is shared"


# --- any executor


@pytest.fixture
def quick(tiny, monkeypatch):
    """Runs of a second, on 40 images that only this process knows."""
    monkeypatch.setattr(module, "_data", lambda full: tiny)

    def plans(out, **axes):
        changes = {"batch_size": 10, "init_images": 20, "inputs": "symmetric"}
        found = plan_grid(out, width=2, epochs=3, **({"norms": [Norm.NONE, Norm.WN]} | axes))
        return [plan._replace(recipe=plan.recipe.scaled(**changes)) for plan in found]

    return plans


def test_each_plan_is_the_run_that_train_gives(quick, tiny, tmp_path):
    plans, notes = quick(tmp_path, seeds=[0, 1]), Notes()
    results = run_grid(plans, tiny, Inline(), device="cpu", display=notes)
    assert list(results) == plans
    for plan, run in results.items():
        assert timeless(run.rows) == timeless(train(plan.recipe, tiny))
        assert Run.load(plan.folder).rows == run.rows
    names = [plan.name for plan in plans]
    assert notes.rows == [(name, epoch) for name in names for epoch in (1, 2, 3)]
    assert notes.ends == names
    assert sorted(tmp_path.iterdir()) == [tmp_path / "seed0", tmp_path / "seed1"]


def test_what_is_finished_is_not_trained_again(quick, tiny, tmp_path):
    plans = quick(tmp_path)
    first = run_grid(plans, tiny, Inline(), device="cpu")
    again, notes = quick(tmp_path), Notes()
    assert run_grid(again, tiny, Refusing(), device="cpu", display=notes) == first
    assert notes.rows == []
    assert notes.ends == ["none", "wn"]


def test_a_stopped_run_goes_on(quick, tiny, tmp_path):
    none, wn = quick(tmp_path)
    rows = train(wn.recipe, tiny, wn.folder, device="cpu")
    next(rows)
    rows.close()
    notes = Notes()
    results = run_grid([none, wn], tiny, Inline(), device="cpu", display=notes)
    assert [epoch for name, epoch in notes.rows if name == "wn"] == [2, 3]
    assert timeless(results[wn].rows) == timeless(train(wn.recipe, tiny))


def test_two_threads_of_one_process_take_turns(quick, tiny, tmp_path):
    plans = quick(tmp_path)
    with ThreadPoolExecutor(2) as executor:
        results = run_grid(plans, tiny, executor, device="cpu")
    for plan, run in results.items():
        assert timeless(run.rows) == timeless(train(plan.recipe, tiny))


def test_a_diverged_run_is_a_result(quick, tiny, tmp_path):
    plans = quick(tmp_path, norms=[Norm.NONE, Norm.WN], seeds=[0, 1])
    wild = [p._replace(recipe=p.recipe.scaled(lr=1e30)) for p in plans if p.setting.norm == "none"]
    results = run_grid([*wild, *plans[1::2]], tiny, Inline(), device="cpu")
    assert all(results[plan].state.startswith("diverged") for plan in wild)
    summary = summarize(results)
    assert [row["diverged"] for row in summary["settings"]] == [2, 0]
    assert re.search(r"^none .* 2 diverged$", summary_text(summary), re.MULTILINE)


def test_one_failure_does_not_lose_the_others(quick, tiny, tmp_path):
    plans = quick(tmp_path, norms=list(Norm))
    Run(plans[1].recipe.scaled(seed=7)).save(plans[1].folder)
    (plans[3].folder).mkdir()
    (plans[3].folder / "run.json").write_text("{")
    before = (plans[1].folder / "run.json").read_bytes()
    results = run_grid(plans, tiny, Inline(), device="cpu")
    assert [isinstance(result, Run) for result in results.values()] == [True, False] * 2 + [True]
    assert "another run" in str(results[plans[1]])
    summary = summarize(results)
    assert list(summary["failed"]) == ["wn", "bn"]
    assert [row["name"] for row in summary["runs"]] == ["none", "mobn", "wn_mobn"]
    assert (plans[1].folder / "run.json").read_bytes() == before


def test_rows_of_another_run_are_not_shown(quick, tiny, tmp_path):
    (plan,) = quick(tmp_path, norms=[Norm.WN])
    list(train(plan.recipe.scaled(seed=1), tiny, plan.folder, device="cpu"))
    notes = Notes()
    run_grid([plan], tiny, Inline(), device="cpu", display=notes)
    assert notes.rows == []


def test_a_busy_folder_is_waited_for(quick, tiny, tmp_path, monkeypatch, capsys):
    plans = quick(tmp_path)
    tries = []

    def busy_twice(recipe, *args, **kwargs):
        tries.append(recipe.norm)
        if recipe.norm == "none" and tries.count("none") < 3:
            raise Busy("another training is at work")
        return train(recipe, *args, **kwargs)

    monkeypatch.setattr(module, "train", busy_twice)
    results = run_grid(plans, tiny, Inline(), device="cpu", display=Display())
    assert tries == ["none", "wn", "none", "none"]
    assert all(run.state == "finished" for run in results.values())
    assert capsys.readouterr().out.count("waiting for it") == 1


def test_a_folder_that_a_worker_does_not_see(quick, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SEEN_WITHIN", 0.2)

    class Elsewhere(Inline):
        def submit(self, fn, *args):
            for token in tmp_path.glob(".grid-*"):
                token.unlink()
            return super().submit(fn, *args)

    with pytest.raises(
        WorkerError, match=r"does not see .*--out must be a folder that all"
    ) as said:
        run_grid(quick(tmp_path), tiny, Elsewhere(), device="cpu")
    assert "\n" not in str(said.value)
    assert list(tmp_path.glob("*")) == [], "it trained all the same"


def test_a_grid_whose_head_is_gone_stops_after_the_epoch(quick, tiny, tmp_path):
    (plan,) = quick(tmp_path, norms=[Norm.WN])
    token = tmp_path / "token"
    token.touch()

    def gone(*args, **kwargs):
        for row in train(*args, **kwargs):
            token.unlink(missing_ok=True)
            yield row

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "train", gone)
        with pytest.raises(RunError, match="was stopped"):
            module._work(plan.recipe, plan.folder, token, False, "cpu", None)
    assert len(Run.load(plan.folder).rows) == 1


def test_data_that_a_worker_cannot_have(quick, tiny, tmp_path, monkeypatch):
    def refuse(full):
        raise DataError("CIFAR-10 could not be loaded.")

    plans = quick(tmp_path)
    monkeypatch.setattr(module, "_data", refuse)
    with pytest.raises(DataError, match="could not be loaded"):
        run_grid(plans, tiny, Inline(), device="cpu")


def test_a_folder_that_cannot_be_written(quick, tiny, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be written"):
        run_grid(quick(tmp_path / "file" / "out"), tiny, Refusing(), device="cpu")


# --- processes and clusters: the sample, as they load it themselves


def four(out):
    norms = [Norm.NONE, Norm.WN]
    return plan_grid(out, norms=norms, seeds=[0, 1], recipes=["report"], width=2, epochs=3)


@pytest.fixture(scope="module")
def serial(sample, tmp_path_factory, one_thread):
    """What a grid of four runs gives in this process, one after the other."""
    results = run_grid(
        four(tmp_path_factory.mktemp("serial")), sample, Inline(), device="cpu", threads=1
    )
    return {plan.name: timeless(run.rows) for plan, run in results.items()}


def epochs_below(out):
    """How many are recorded."""
    texts = [path.read_text() for path in out.glob("**/history.csv")]
    return sum(text.count("\n") - 1 for text in texts)


def children(pid):
    """The processes that a process has started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


on_linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into /proc")


def test_threads_are_shared(monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    assert [share_of_threads(jobs) for jobs in (1, 3, 8, 20)] == [8, 2, 1, 1]
    with pytest.raises(ValueError, match="jobs"), processes(0):
        pass


@on_linux
def test_processes_one_of_them_killed(sample, tmp_path, serial):
    def kill_one():
        until(lambda: epochs_below(tmp_path) >= 2)
        workers = [c for c in children(os.getpid())
                   if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]  # fmt: skip
        os.kill(workers[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(RunError, match=r"was killed .* the same command goes on") as said:  # noqa: SIM117
        with processes(2) as executor:
            run_grid(four(tmp_path), sample, executor, device="cpu", threads=1)
    killer.join()
    assert "\n" not in str(said.value)
    known = epochs_below(tmp_path)
    assert 2 <= known < 12
    notes, again = Notes(), four(tmp_path)
    results = run_grid(again, sample, Inline(), device="cpu", threads=1, display=notes)
    assert {plan.name: timeless(run.rows) for plan, run in results.items()} == serial
    assert len(notes.rows) == len(set(notes.rows)) == 12 - known
    assert {run.provenance["threads"] for run in results.values()} == {1}
    assert not list(tmp_path.glob(".grid-*"))


@on_linux
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_command_leaves_no_process_behind(tmp_path, serial, how):
    command = [sys.executable, "-m", "wnlib", "compare", "--norms", "none,wn", "--seeds", "0,1"]
    command += ["--recipes", "report", "--width", "2", "--epochs", "3", "--device", "cpu"]
    command += ["--jobs", "2", "--out", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip
    until(lambda: epochs_below(tmp_path) >= 1)
    workers = children(process.pid)
    assert len(workers) >= 2
    if how is signal.SIGINT:
        os.killpg(process.pid, how)  # as a terminal does it: to all of them
    else:
        process.kill()
    _, said = process.communicate(timeout=60)
    until(lambda: not any(alive(worker) for worker in workers), 10)
    if how is signal.SIGINT:
        assert process.returncode == 2
        assert said == "wnlib: stopped; the same command goes on from the last whole epoch\n"
        assert not list(tmp_path.glob(".grid-*"))
    assert 1 <= epochs_below(tmp_path) < 12
    if how is signal.SIGINT:
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=environment)
        runs = {plan.name: Run.load(plan.folder) for plan in four(tmp_path)}
        assert {name: timeless(run.rows) for name, run in runs.items()} == serial


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def started(*command):
    """A program of Dask's, with one thread for torch, stopped in the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dask", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """The address of a Dask scheduler on this machine."""
    pytest.importorskip("distributed", reason="Dask is not installed: pip install distributed")
    file = tmp_path_factory.mktemp("dask") / "scheduler.json"
    options = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    with started("scheduler", *options, "--scheduler-file", str(file)):
        until(lambda: file.exists() and file.read_text().endswith("}"))  # it is not written whole
        yield json.loads(file.read_text())["address"]


@contextmanager
def worker(address, folder, threads=1):
    options = ("--nthreads", str(threads), "--no-nanny", "--no-dashboard")
    with started("worker", address, *options, "--local-directory", str(folder)) as process:
        yield process


def test_cluster_one_worker_killed(scheduler, sample, tmp_path, serial):
    notes, out = Notes(), tmp_path / "out"

    def kill(process):
        until(lambda: len(notes.rows) >= 3)
        process.kill()

    with worker(scheduler, tmp_path) as first, worker(scheduler, tmp_path):
        killer = threading.Thread(target=kill, args=(first,))
        killer.start()
        with cluster(scheduler) as executor:
            results = run_grid(four(out), sample, executor, device="cpu", display=notes)
        killer.join()
        assert first.poll() is not None
    assert {plan.name: timeless(run.rows) for plan, run in results.items()} == serial
    names = sorted(plan.name for plan in results)
    assert sorted(notes.rows) == [(name, epoch) for name in names for epoch in (1, 2, 3)]
    assert sorted(notes.ends) == names


def test_cluster_that_is_not_there():
    pytest.importorskip("distributed", reason="Dask is not installed: pip install distributed")
    with pytest.raises(RunError, match="no Dask scheduler answers"), cluster("tcp://127.0.0.1:9"):
        pass
    with pytest.raises(RunError, match="no Dask scheduler answers"), cluster("gopher://nowhere"):
        pass


def test_cluster_whose_worker_would_train_two_at_a_time(scheduler, tmp_path):
    said = []

    def refused():
        try:
            with cluster(scheduler):
                return False  # the worker is not there yet
        except RunError as error:
            said.append(str(error))
            return True

    with worker(scheduler, tmp_path, threads=2):
        until(refused)
    assert "--nthreads 1" in said[0]


def test_cluster_without_dask(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(RunError, match=r"pip install 'wnlib\[cluster\]'"), cluster("tcp://a:1"):
        pass


# --- what is said


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_one_bar_for_the_whole_grid(quick, tiny, tmp_path, monkeypatch, capsys):
    none, wn, bn = quick(tmp_path, norms=[Norm.NONE, Norm.WN, Norm.BN])
    run_grid([none], tiny, Inline(), device="cpu")
    wn = wn._replace(recipe=wn.recipe.scaled(lr=1e30))
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    display = Display()
    run_grid([none, wn, bn], tiny, Inline(), device="cpu", display=display)
    display.close()
    shown = terminal.getvalue()
    assert "1 of 3 runs" in shown  # the one that was there
    last = shown.rstrip().rsplit("\r", 1)[1]
    ran = 3 + len(Run.load(wn.folder).rows) + 3
    assert "3 of 3 runs: 100%" in last
    assert f"{ran}/{ran}" in last, "a diverged run has no more epochs to come"
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert sum("epoch   " in line for line in lines) == ran - 3
    assert [line.split(":")[0] for line in lines if "best" in line] == ["none", "wn", "bn"]


def test_without_a_terminal_there_is_no_bar(quick, tiny, tmp_path, capsys):
    run_grid(quick(tmp_path), tiny, Inline(), device="cpu", display=Display())
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.count("epoch   ") == 6


def recorded(out, errors, **axes):
    """A grid whose runs end with these errors, in the order of its plans."""
    plans = plan_grid(out, width=2, epochs=1, **axes)
    rows = [Row(1, 0.1, 1.0, 0.5, 1.0, error, 1.0) for error in errors]
    made = zip(plans, rows, strict=True)
    return {plan: Run(plan.recipe, [row], "finished") for plan, row in made}


def test_summary_tells_percent_and_points(tmp_path):
    results = recorded(
        tmp_path, [0.30, 0.20, 0.32, 0.25, 0.34, 0.21], norms=[Norm.NONE, Norm.WN], seeds=[0, 1, 2]
    )
    summary = summarize(results)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    d = np.array([0.20, 0.25, 0.21]) - [0.30, 0.32, 0.34]
    text = summary_text(summary).splitlines()
    assert text[1].split() == ["none", "3", "32.00", "2.00"]
    assert text[2].split()[:2] == ["wn", "3"]
    expected = f"wn − none {100 * d.mean():+.2f} ± {100 * stats.sem(d):.2f} n = 3"
    assert text[-1].split() == expected.split()


def test_one_seed_is_not_compared(tmp_path):
    summary = summarize(recorded(tmp_path, [0.3, 0.2], norms=[Norm.NONE, Norm.WN]))
    assert summary["differences"] == []
    text = summary_text(summary)
    assert "nothing is compared" in text
    assert "±" not in text
    assert text.splitlines()[1].split() == ["none", "1", "30.00", "–"]
