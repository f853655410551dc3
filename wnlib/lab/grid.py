"""A grid of runs: every combination of settings, trained by joblib, here or on a Dask cluster."""

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError
from contextlib import contextmanager, nullcontext
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from joblib import Parallel, delayed, parallel_config
from tqdm import tqdm

from wnlib.data import Cifar10, load_cifar10
from wnlib.lab.records import Run, RunError, record_epochs
from wnlib.layers import Norm
from wnlib.training import Recipe, Row, State

RECIPES = ("paper", "report")
WAIT = 10.0  # seconds in which a cluster answers


class Plan(NamedTuple):
    """A run of a grid: what to train and where to record it."""

    recipe: Recipe
    folder: Path
    name: str  #: the folder as seen from the grid's, for instance "lr0.003/seed1/wn"


def plan_grid(
    out: Path | str,
    *,
    recipes: Sequence[str] = ("paper",),
    lrs: Sequence[float | str | None] = (None,),
    scales: Sequence[str] = ("linear",),
    seeds: Sequence[int] = (0,),
    norms: Sequence[Norm] = tuple(Norm),
    **changes: Any,
) -> list[Plan]:
    """Every combination that can be trained, one seed after the other: a grid that is stopped
    holds whole comparisons.

    The folder is out/norm; each axis with several values puts a folder before that, in the order
    recipe ("report"), learning rate ("lr0.003"; None is the recipe's own), scale ("exp") and seed
    ("seed1"). The `changes`, as of the width and the epochs, are those of every recipe.

    Raises:
        ValueError: a value that no recipe can have, or nothing is left: exp takes weight norm.
    """
    for axis, known, values in (("recipe", RECIPES, recipes), ("norm", [*Norm], norms)):
        for value in values:
            if value not in known:
                raise ValueError(f"{axis} is one of {', '.join(known)}, not {value!r}")
    axes: list[Sequence[Any]] = [seeds, recipes, lrs, scales, norms]
    plans = []
    for seed, recipe, lr, scale, norm in product(*map(dict.fromkeys, axes)):
        if scale == "exp" and not Norm(norm).weight_normalized:
            continue
        made: Recipe = getattr(Recipe, recipe)(norm).replace(seed=seed, scale=scale, **changes)
        if lr is not None:
            made = made.replace(lr=float(lr))
        rate = f"lr{made.lr}".removesuffix(".0")
        words = {recipe: recipes, rate: lrs, scale: scales, f"seed{seed}": seeds}
        several = [word for word, axis in words.items() if len(set(axis)) > 1]
        name = "/".join([*several, norm])
        plans.append(Plan(made, Path(out).absolute() / name, name))
    if not plans:
        raise ValueError("exp is a scale of weight norm: the norms must have wn or wn_mobn")
    return list(dict.fromkeys(plans))  # 0.001 and 1e-3 are one rate


def epoch_line(name: str, recipe: Recipe, row: Row) -> str:
    """One epoch, for people."""
    return (
        f"{name} epoch {row.epoch:>3} of {recipe.epochs}: training loss "
        f"{row.train_loss:.4f}, test error {100 * row.test_error:.2f} %, {row.seconds:.1f} s"
    )


def end_line(name: str, run: Run | Exception) -> str:
    """One run that has ended, or failed."""
    if isinstance(run, Exception):
        return f"{name}: failed ({run}); the others go on"
    s = run.summary()
    return (
        f"{name}: {run.outcome}; test error {100 * s.final_error:.2f} %, best "
        f"{100 * s.best_error:.2f} % in epoch {s.best_epoch}"
    )


def summary(results: Mapping[Plan, Run | Exception]) -> str:
    """Of each setting the final test errors over its seeds, in percent: mean, standard deviation
    (n − 1 in its denominator), and how many of the runs diverged."""
    settings: dict[str, list[Run]] = {}
    for plan, run in results.items():
        if isinstance(run, Run):
            words = [word for word in plan.name.split("/") if not word.startswith("seed")]
            words[-1] = run.norm.label
            settings.setdefault(", ".join(words), []).append(run)
    pad = max(map(len, settings), default=0)
    lines = [f"{'':{pad}}   n    mean      sd   diverged"]
    for name, runs in settings.items():
        errors = 100 * np.array([run.summary().final_error for run in runs])
        sd = f"{errors.std(ddof=1):.2f}" if len(runs) > 1 else "-"
        lost = sum(run.state is State.DIVERGED for run in runs)
        lines.append(f"{name:{pad}}{len(runs):>4}{errors.mean():>8.2f}{sd:>8}{lost or '-':>11}")
    return "\n".join(lines)


def share_of_threads(jobs: int) -> int:
    """torch's threads, shared by so many processes: at least one each. ValueError for no job."""
    if jobs < 1:
        raise ValueError(f"jobs is a whole number from 1 up, not {jobs}")
    return max(1, torch.get_num_threads() // jobs)


def speed_up_process() -> None:
    """Settings of this whole process that make a step faster; commands and their workers call it.

    glibc gives back what a step frees and asks for it again: some percent of a step at width 96.
    """
    torch.backends.cudnn.benchmark = True
    if sys.platform == "linux":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD of malloc.h, at its largest
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def run_grid(
    plans: Sequence[Plan],
    data: Cifar10,
    *,
    jobs: int = 1,
    cluster: str | None = None,
    device: str = "auto",
    show: bool = False,
) -> dict[Plan, Run | Exception]:
    """Train what is not yet trained. A run that fails does not stop the others; Ctrl-C does, and
    the same call goes on.

    Args:
        plans: what to train.
        data: on what; workers load the sample and the full set themselves, others are sent.
        jobs: processes of this machine, which share torch's threads; 1 trains in this process.
        cluster: address of a Dask scheduler ("tcp://host:8786") whose workers train instead; they
            must see the folders of the plans.
        device: of each run, as `record_epochs` takes it.
        show: print each run's end, and show a bar at a terminal; elsewhere print each epoch.

    Returns:
        For each plan, in their order, the recorded run, or why it failed.

    Raises:
        ValueError: fewer jobs than one.
        OSError: the folder cannot be written.
        RunError: a worker was killed, or cannot take part; the same call goes on.
        DataError: a worker cannot load the data.
    """
    jobs = min(jobs, len(plans))
    alone, terminal = jobs == 1 and cluster is None, bool(sys.stderr) and sys.stderr.isatty()
    out = Path(os.path.commonpath([plan.folder.parent for plan in plans]))
    out.mkdir(parents=True, exist_ok=True)
    shared = {
        "out": out,
        "data": data.name == "full" if data.name in ("full", "sample") else data,
        "threads": share_of_threads(jobs) if cluster is None else None,
        "lines": show and not terminal,
        "options": {"device": device, "progress": show and alone and terminal},
    }
    results: dict[Plan, Run | Exception] = {}
    bar = tqdm(total=len(plans), unit="run", disable=not show or alone or not terminal)
    try:
        with bar, _on_cluster(cluster) if cluster is not None else nullcontext():
            parallel: Any = Parallel(jobs, return_as="generator_unordered")
            # Processes that start now ignore Ctrl-C, which is ours to handle.
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)
            try:
                ended = parallel(delayed(_work)(plan, **shared) for plan in plans)
            finally:
                signal.signal(signal.SIGINT, before)
            for plan, result in ended:
                results[plan] = result
                bar.update()
                if show:
                    bar.write(end_line(plan.name, result), file=sys.stdout)
                    sys.stdout.flush()
    except BrokenExecutor:
        why = "a training process was killed (was there enough memory?); the same command goes on"
        raise RunError(why) from None
    return {plan: results[plan] for plan in plans}


@contextmanager
def _on_cluster(address: str) -> Iterator[None]:
    """Inside, joblib hands its work to the Dask scheduler there; RunError says why it cannot."""
    try:
        from distributed import Client
        from distributed.comm.addressing import get_address_host_port
    except ImportError:
        raise RunError("--cluster needs Dask: pip install 'wnlib[cluster]'") from None
    for name in ("distributed", "distributed.client", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # tracebacks of every lost connection
    try:
        get_address_host_port(address)  # Client never ends where this fails
        client: Any = Client(address, timeout=WAIT, set_as_default=False)
    except Exception:  # of several kinds: no such host, no such port, nobody there
        raise RunError(f"no Dask scheduler answers at {address!r} (tcp://HOST:PORT)") from None
    start = f"a worker is started with: dask worker {address} --nthreads 1"
    with client:
        try:
            client.wait_for_workers(1, timeout=WAIT)
            # Two runs in one process would share torch's generators.
            if any(threads > 1 for threads in client.nthreads().values()):
                raise RunError(f"a worker at {address} has several threads; {start}")
            with parallel_config(backend="dask", client=client, pure=False):
                yield
        except (CancelledError, TimeoutError, OSError) as error:
            raise RunError(f"the cluster fails ({error}); {start}") from None


def _work(
    plan: Plan,
    out: Path,
    data: Cifar10 | bool,
    threads: int | None,
    lines: bool,
    options: dict[str, Any],
) -> tuple[Plan, Run | Exception]:
    """Train one run: the plan, and its record or why it failed.

    The data may be whether to load the full set; a process that is not ours keeps its threads.
    """
    if not out.is_dir():
        host = socket.gethostname()
        raise RunError(f"a worker on {host} does not see {out}: --out must be a shared folder")
    if threads is not None:
        torch.set_num_threads(threads)
        speed_up_process()
        # Its own lock is one between processes: a killed one leaves a part to be warned of.
        tqdm.set_lock(threading.RLock())
    images = load_cifar10(data) if isinstance(data, bool) else data
    try:
        for row in record_epochs(plan.recipe, images, plan.folder, **options):
            if lines:
                print(epoch_line(plan.name, plan.recipe, row), flush=True)
        return plan, Run.load(plan.folder)
    except Exception as error:
        return plan, error
