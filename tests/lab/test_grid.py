"""A grid of runs: what it plans; it goes on, survives what fails, and says how it goes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from statistics import mean, stdev

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from training import timeless

from wnlib import Norm, Recipe, train
from wnlib.lab import Run, grid, record_epochs
from wnlib.lab.grid import plan_grid, run_grid, share_of_threads, summary
from wnlib.lab.records import RunError
from wnlib.training import Row, State

pytestmark = pytest.mark.usefixtures("one_thread")
TWO = [Norm.NONE, Norm.WN]


def quick(out, epochs=3, **axes):
    """Runs of a second, on 40 images."""
    changes = {"batch_size": 10, "init_images": 20, "inputs": "symmetric"}
    return plan_grid(out, **({"norms": TWO, "width": 2, "epochs": epochs} | changes | axes))


def until(holds):
    """For whatever time it takes."""
    while not holds():
        time.sleep(0.02)


def epochs_below(out):
    texts = [path.read_text() for path in out.glob("**/history.csv")]
    return sum(text.count("\n") - 1 for text in texts)


AXES = {
    "recipes": st.lists(st.sampled_from(["paper", "report"]), min_size=1),
    "lrs": st.just([None]) | st.lists(st.floats(1e-9, 1), min_size=1),
    "scales": st.lists(st.sampled_from(["linear", "exp"]), min_size=1),
    "seeds": st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4),
    "norms": st.lists(st.sampled_from(list(Norm)), min_size=1),
}


@given(st.fixed_dictionaries(AXES))
def test_every_plan_is_a_run_of_its_own(axes):
    expected = set()
    for name, lr, scale, seed, norm in product(*(axes[axis] for axis in AXES)):
        recipe = getattr(Recipe, name)(norm).replace(width=2, seed=seed)
        if scale == "linear" or norm in (Norm.WN, Norm.WN_MOBN):
            expected.add(recipe.replace(scale=scale, lr=lr or recipe.lr))
    assume(expected)
    plans = plan_grid("out", **axes, width=2)
    assert {plan.recipe for plan in plans} == expected
    assert len(plans) == len(expected) == len({plan.folder for plan in plans})
    assert all(plan.folder == Path("out").absolute() / plan.name for plan in plans)


@pytest.mark.parametrize(
    ("axes", "names"),
    [
        ({"norms": TWO}, ["none", "wn"]),
        ({"norms": [Norm.WN], "lrs": [0.01], "scales": ["exp"], "seeds": [3]}, ["wn"]),
        ({"norms": ["wn"], "lrs": [0.1234567, "0.1", "1e-1"]}, ["lr0.1234567/wn", "lr0.1/wn"]),
        ({"norms": TWO, "scales": ["linear", "exp"]}, ["linear/none", "linear/wn", "exp/wn"]),
        ({"norms": [Norm.WN], "recipes": ["report", "paper"], "lrs": [1.0, 0.5],
          "scales": ["exp", "linear"], "seeds": [1, 0]},
         [f"{r}/{lr}/{s}/{seed}/wn" for seed in ("seed1", "seed0") for r in ("report", "paper")
          for lr in ("lr1", "lr0.5") for s in ("exp", "linear")]),
    ],
)  # fmt: skip
def test_folders_and_their_order(axes, names):
    assert [plan.name for plan in plan_grid("out", **axes)] == names


def test_each_plan_is_the_run_that_train_gives_and_is_gone_on_with(tiny, tmp_path, capsys):
    plans = quick(tmp_path, seeds=[0, 1])
    rows = record_epochs(plans[1].recipe, tiny, plans[1].folder, device="cpu")
    next(rows)
    rows.close()
    results = run_grid(plans, tiny, device="cpu", show=True)
    assert list(results) == plans
    for plan, run in results.items():
        assert timeless(run.rows) == timeless(train(plan.recipe, tiny, "cpu"))
    said = capsys.readouterr().out.splitlines()
    assert sum(" epoch   " in line for line in said) == 12
    ended = [line.partition(":")[0] for line in said if ": finished; " in line]
    assert ended == [plan.name for plan in plans]
    assert run_grid(quick(tmp_path, seeds=[0, 1]), tiny, device="cpu") == results


def test_a_run_that_fails_leaves_the_others_alone(tiny, tmp_path, capsys):
    plans = quick(tmp_path, norms=[Norm.NONE, Norm.WN, Norm.MOBN])
    Run(plans[1].recipe.replace(seed=7)).save(plans[1].folder)
    plans[2] = plans[2]._replace(recipe=plans[2].recipe.replace(batch_size=99))
    results = run_grid(plans, tiny, device="cpu", show=True)
    none, wn, mobn = results.values()
    assert none.state is State.FINISHED
    assert "seed 7, not 0" in str(wn)
    assert "takes 99 images at once" in str(mobn)
    assert "wn: failed (" in capsys.readouterr().out
    error = f"{100 * none.rows[-1].test_error:.2f}"
    assert summary(results).splitlines()[1].split() == ["plain", "1", error, "-", "-"]


def test_summary_has_means_deviations_and_what_diverged(tmp_path):
    errors = [0.30, 0.20, 0.32, 0.25, 0.34, 0.21]
    plans = plan_grid(tmp_path, epochs=1, norms=TWO, seeds=[0, 1, 2])
    results = {
        plan: Run(plan.recipe, [Row(1, 0.1, 1.0, 0.5, 1.0, error, 1.0)], State.DIVERGED)
        for plan, error in zip(plans, errors, strict=True)
    }
    _, *lines = summary(results).splitlines()
    for line, ours in zip(lines, (errors[::2], errors[1::2]), strict=True):
        spread = f"{100 * mean(ours):.2f} {100 * stdev(ours):.2f}"
        assert line.split()[-4:] == ["3", *spread.split(), "3"]
    assert share_of_threads(1000) == 1


def workers(pid):
    """Of joblib's processes those that a process has started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = {int(child) for task in tasks for child in task.read_text().split()}
    return [c for c in children if b"popen_loky" in Path(f"/proc/{c}/cmdline").read_bytes()]


on_linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into /proc")


@on_linux
def test_processes_one_of_them_killed(tiny, tmp_path):
    plans = quick(tmp_path, epochs=40)

    def kill_one():
        until(lambda: epochs_below(tmp_path) >= 2)
        os.kill(workers(os.getpid())[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(RunError, match=r"was killed .* the same command goes on"):
        run_grid(plans, tiny, jobs=2, device="cpu")
    killer.join()
    assert 2 <= epochs_below(tmp_path) < 80
    results = run_grid(plans, tiny, jobs=500, device="cpu")  # no more processes than runs
    assert {run.state for run in results.values()} == {State.FINISHED}
    assert {run.provenance["threads"] for run in results.values()} == {1}
    assert timeless(results[plans[1]].rows) == timeless(train(plans[1].recipe, tiny, "cpu"))


@on_linux
def test_ctrl_c_is_one_line_and_leaves_no_process_behind(tmp_path):
    command = [sys.executable, "-m", "wnlib", "compare", "--norms", "none,wn", "--seeds", "0,1"]
    command += ["--recipes", "report", "--width", "1", "--epochs", "500", "--device", "cpu"]
    command += ["--jobs", "2", "--out", str(tmp_path / "out")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    options = {"stdout": subprocess.DEVNULL, "text": True, "start_new_session": True}
    with subprocess.Popen(command, stderr=-1, env=environment, **options) as process:
        try:
            until(lambda: epochs_below(tmp_path) >= 1)
            started = workers(process.pid)
            assert len(started) == 2
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to all of them
            _, said = process.communicate()
        finally:
            if process.poll() is None:  # a failing test leaves nothing behind either
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 2
    assert said == "wnlib: stopped; the same command goes on from the last whole epoch\n"
    until(lambda: not any(Path(f"/proc/{worker}/exe").exists() for worker in started))


@contextmanager
def started(*command):
    """A program of Dask's, as a user starts it; one thread for torch; killed in the end."""
    argv, env = [sys.executable, "-m", "dask", *command], os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*argv, "--no-dashboard"], stderr=subprocess.DEVNULL, env=env) as process:
        try:
            yield process
        finally:
            process.kill()


def worker(address, threads=1):
    return started("worker", address, "--nthreads", str(threads), "--no-nanny")


@pytest.fixture
def scheduler(tmp_path, monkeypatch):
    """The address of a Dask scheduler, whose workers may take their time."""
    monkeypatch.setattr(grid, "WAIT", 600.0)
    file = tmp_path / "scheduler.json"
    with started("scheduler", "--host", "127.0.0.1", "--scheduler-file", str(file), "--port", "0"):
        until(lambda: file.exists() and file.read_text().endswith("}"))  # written whole
        yield json.loads(file.read_text())["address"]


@pytest.mark.filterwarnings("ignore:Sending large graph")  # a slice is sent with all of its tensor
def test_cluster_one_worker_killed(scheduler, tiny, tmp_path):
    plans = quick(tmp_path / "out", epochs=20)

    def kill(process):
        until(lambda: epochs_below(tmp_path) >= 3)
        process.kill()

    with worker(scheduler) as first, worker(scheduler):
        killer = threading.Thread(target=kill, args=(first,))
        killer.start()
        results = run_grid(plans, tiny, cluster=scheduler, device="cpu")
        killer.join()
    for plan, run in results.items():
        assert timeless(run.rows) == timeless(train(plan.recipe, tiny, "cpu"))


def test_clusters_that_cannot_train_are_told(scheduler, tiny, tmp_path, monkeypatch):
    plans = quick(tmp_path)
    start = f"; a worker is started with: dask worker {scheduler} --nthreads 1$"
    several = f"^a worker at {scheduler} has several threads{start}"
    with worker(scheduler, threads=2), pytest.raises(RunError, match=several):
        run_grid(plans, tiny, cluster=scheduler, device="cpu")
    monkeypatch.setattr(grid, "WAIT", 1.0)
    with pytest.raises(RunError, match=rf"^the cluster fails \(.*\){start}"):
        run_grid(plans, tiny, cluster=scheduler, device="cpu")
    for address in ("tcp://127.0.0.1:9", "tls://127.0.0.1:9", ""):
        with pytest.raises(RunError, match=f"^no Dask scheduler answers at '{address}'"):
            run_grid(plans, tiny, cluster=address)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(RunError, match=r"pip install 'wnlib\[cluster\]'"):
        run_grid(plans, tiny, cluster="tcp://127.0.0.1:9")


def test_a_worker_that_does_not_see_the_folder_says_so(tiny, tmp_path):
    with pytest.raises(RunError, match=r"^a worker on .* does not see .*out: --out must be a shar"):
        grid._work(quick(tmp_path)[0], tmp_path / "out", tiny, None, False, {})
