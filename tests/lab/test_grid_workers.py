"""Processes and clusters, which load the sample themselves: killed, stopped, not there."""

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
from grids import Inline, Notes
from training import timeless

import wnlib
from wnlib import Norm
from wnlib.lab import Run
from wnlib.lab.grid import cluster, plan_grid, processes, run_grid, share_of_threads
from wnlib.lab.runs import RunError

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(wnlib.__file__).parents[1]


def until(holds, seconds=60):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


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
