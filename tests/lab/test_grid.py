"""A grid of runs: it goes on, survives what fails, is stopped at once, and says how it goes."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from training import timeless

import wnlib
from wnlib import Norm, train
from wnlib.lab import Run, record, record_epochs
from wnlib.lab.grid import Display, run_grid, share_of_threads
from wnlib.lab.plans import plan_grid, summarize, summary_text
from wnlib.lab.records import RunError
from wnlib.training import State

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(wnlib.__file__).parents[1]
LIMIT = 180  # seconds, on a busy machine


class Notes(Display):
    """Keeps what it is told."""

    def __init__(self):
        super().__init__(quiet=True)
        self.rows, self.ends = [], []

    def row(self, plan, row):
        self.rows.append((plan.name, row.epoch))

    def end(self, plan, result):
        self.ends.append(plan.name)


def quick(out, epochs=3, **axes):
    """Runs of a second, on 40 images."""
    changes = {"batch_size": 10, "init_images": 20, "inputs": "symmetric"}
    axes = {"norms": [Norm.NONE, Norm.WN], "width": 2, "epochs": epochs} | axes
    return [p._replace(recipe=p.recipe.replace(**changes)) for p in plan_grid(out, **axes)]


def until(holds):
    deadline = time.monotonic() + LIMIT
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def epochs_below(out):
    """How many are recorded."""
    texts = [path.read_text() for path in out.glob("**/history.csv")]
    return sum(text.count("\n") - 1 for text in texts)


def children(pid):
    """The processes that a process has started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


on_linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into /proc")


def test_each_plan_is_the_run_that_train_gives(tiny, tmp_path):
    plans, notes = quick(tmp_path, seeds=[0, 1]), Notes()
    results = run_grid(plans, tiny, device="cpu", display=notes)
    assert list(results) == plans
    for plan, run in results.items():
        assert timeless(run.rows) == timeless(train(plan.recipe, tiny, "cpu"))
    names = [plan.name for plan in plans]
    assert notes.rows == [(name, epoch) for name in names for epoch in (1, 2, 3)]
    assert notes.ends == names
    again, notes = quick(tmp_path, seeds=[0, 1]), Notes()
    assert run_grid(again, tiny, device="cpu", display=notes) == results
    assert (notes.rows, notes.ends) == ([], names)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["seed0", "seed1"]


def test_a_stopped_run_goes_on(tiny, tmp_path):
    none, wn = quick(tmp_path)
    rows = record_epochs(wn.recipe, tiny, wn.folder, device="cpu")
    next(rows)
    rows.close()
    notes = Notes()
    results = run_grid([none, wn], tiny, device="cpu", display=notes)
    assert [epoch for name, epoch in notes.rows if name == "wn"] == [2, 3]
    assert timeless(results[wn].rows) == timeless(train(wn.recipe, tiny, "cpu"))


def test_one_failure_does_not_lose_the_others(tiny, tmp_path):
    plans = quick(tmp_path, epochs=1, norms=list(Norm)[:3])
    Run(plans[1].recipe.replace(seed=7)).save(plans[1].folder)
    plans[2] = plans[2]._replace(recipe=plans[2].recipe.replace(batch_size=99))
    results = run_grid(plans, tiny, device="cpu")
    summary = summarize(results)
    assert [run["name"] for run in summary["runs"]] == ["none"]
    assert summary["failed"].keys() == {"wn", "mobn"}
    assert "seed 7, not 0" in summary["failed"]["wn"]
    assert "takes 99 images at once" in summary["failed"]["mobn"]
    assert "none" in summary_text(summary)
    assert not plans[2].folder.exists()


def test_impossible_grids_are_refused(tiny, tmp_path):
    with pytest.raises(ValueError, match="jobs is a whole number from 1 up, not 0"):
        run_grid(quick(tmp_path), tiny, jobs=0)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be written"):
        run_grid(quick(tmp_path / "file" / "out"), tiny, device="cpu")
    assert share_of_threads(1000) == 1


# --- processes


@on_linux
def test_processes_one_of_them_killed(tiny, tmp_path):
    plans = quick(tmp_path, epochs=20, seeds=[0, 1])
    others = set(children(os.getpid()))

    def kill_one():
        until(lambda: epochs_below(tmp_path) >= 2)
        new = [c for c in set(children(os.getpid())) - others
               if b"popen_loky" in Path(f"/proc/{c}/cmdline").read_bytes()]  # fmt: skip
        os.kill(new[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(RunError, match=r"was killed .* the same command goes on"):
        run_grid(plans, tiny, jobs=2, device="cpu")
    killer.join()
    known, notes = epochs_below(tmp_path), Notes()
    assert 2 <= known < 80
    results = run_grid(plans, tiny, jobs=2, device="cpu", display=notes)
    assert {run.state for run in results.values()} == {State.FINISHED}
    assert {run.provenance["threads"] for run in results.values()} == {1}
    assert len(notes.rows) == len(set(notes.rows)) >= 80 - known - 2
    wn = plans[1]
    assert timeless(results[wn].rows) == timeless(train(wn.recipe, tiny, "cpu"))


@on_linux
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_command_leaves_no_process_behind(tmp_path, how):
    command = [sys.executable, "-m", "wnlib", "compare", "--norms", "none,wn", "--seeds", "0,1"]
    command += ["--recipes", "report", "--width", "1", "--epochs", "500", "--device", "cpu"]
    command += ["--jobs", "2", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True,
    )  # fmt: skip
    try:
        until(lambda: epochs_below(tmp_path) >= 1)
        workers = children(process.pid)
        assert len(workers) >= 2
        if how is signal.SIGINT:
            os.killpg(process.pid, how)  # as a terminal does it: to all of them
            _, said = process.communicate(timeout=LIMIT)
            assert process.returncode == 2
            assert said == "wnlib: stopped; the same command goes on from the last whole epoch\n"
        else:
            process.kill()
            process.wait()
            process.stderr.close()
    finally:
        if process.poll() is None:  # a failing test leaves nothing behind either
            os.killpg(process.pid, signal.SIGKILL)
    until(lambda: not any(alive(worker) for worker in workers))
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"seed0", "seed1"}


@on_linux
def test_a_run_that_is_trained_elsewhere_is_waited_for(sample, tmp_path, capsys):
    (plan,) = plan_grid(tmp_path, norms=[Norm.NONE], recipes=["report"], width=1, epochs=1)
    code = (
        "import sys, time, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire();"
        "print('held', flush=True); time.sleep(3)"
    )
    plan.folder.mkdir()
    held = [sys.executable, "-c", code, str(plan.folder / "lock")]
    with subprocess.Popen(held, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        results = run_grid([plan], sample, device="cpu")
    assert results[plan].state is State.FINISHED
    assert capsys.readouterr().err.count("none: another training is at work there; waiting") == 1


# --- a cluster


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


def test_cluster_one_worker_killed(scheduler, tiny, tmp_path):
    notes, plans = Notes(), quick(tmp_path / "out", epochs=20)

    def kill(process):
        until(lambda: len(notes.rows) >= 3)
        process.kill()

    with worker(scheduler, tmp_path) as first, worker(scheduler, tmp_path):
        killer = threading.Thread(target=kill, args=(first,))
        killer.start()
        results = run_grid(plans, tiny, cluster=scheduler, device="cpu", display=notes)
        killer.join()
    for plan, run in results.items():
        assert timeless(run.rows) == timeless(train(plan.recipe, tiny, "cpu"))
    assert sorted(notes.ends) == ["none", "wn"]


def test_cluster_whose_worker_would_train_two_at_a_time(scheduler, tiny, tmp_path):
    from distributed import Client

    with worker(scheduler, tmp_path, threads=2):
        with Client(scheduler, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=LIMIT)
        with pytest.raises(RunError, match="--nthreads 1"):
            run_grid(quick(tmp_path / "out"), tiny, cluster=scheduler, device="cpu")
    assert not (tmp_path / "out").exists()


def test_cluster_without_dask(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(RunError, match=r"pip install 'wnlib\[cluster\]'"):
        run_grid(quick(tmp_path), tiny, cluster="tcp://a:1")


# --- what is said


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_one_bar_for_the_whole_grid(tiny, tmp_path, monkeypatch, capsys):
    none, wn, bn = quick(tmp_path, norms=[Norm.NONE, Norm.WN, Norm.BN])
    record(none.recipe, tiny, none.folder, device="cpu")
    wn = wn._replace(recipe=wn.recipe.replace(lr=1e30))
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    display = Display()
    run_grid([none, wn, bn], tiny, device="cpu", display=display)
    display.close()
    last = terminal.getvalue().rstrip().rsplit("\r", 1)[1]
    ran = 3 + len(Run.load(wn.folder).rows) + 3
    assert "3 of 3 runs: 100%" in last
    assert f"{ran}/{ran}" in last, "a diverged run has no more epochs to come"
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert sum("epoch   " in line for line in lines) == ran - 3
    assert [line.split(":")[0] for line in lines if "best" in line] == ["none", "wn", "bn"]
