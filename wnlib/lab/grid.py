"""A grid of runs: every combination of settings, trained by joblib, here or on a Dask cluster."""

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from joblib import Parallel, delayed, parallel_config
from tqdm import tqdm

from wnlib.data import Cifar10, load_cifar10
from wnlib.lab.records import Busy, Run, RunError, record_epochs
from wnlib.layers import Norm
from wnlib.training import Recipe, Row, State

LOOK = 3.0  # seconds between two looks at a cluster's workers


class Plan(NamedTuple):
    """A run of a grid: what to train and where to record it."""

    recipe: Recipe
    folder: Path
    name: str  #: the folder as seen from the grid's, for instance "lr0.003/seed1/wn"


def plan_grid(
    out: Path | str,
    *,
    recipes: Sequence[str] = ("paper",),
    lrs: Sequence[float | None] = (None,),
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
    plans = []
    for seed, recipe, lr, scale, norm in product(*map(_once, (seeds, recipes, lrs, scales, norms))):
        if scale == "exp" and not norm.weight_normalized:
            continue
        made: Recipe = getattr(Recipe, recipe)(norm).replace(seed=seed, scale=scale, **changes)
        if lr is not None:
            made = made.replace(lr=lr)
        words = {recipe: recipes, f"lr{_digits(made.lr)}": lrs, scale: scales, f"seed{seed}": seeds}
        several = [word for word, axis in words.items() if len(_once(axis)) > 1]
        name = "/".join([*several, norm])
        plans.append(Plan(made, Path(out).absolute() / name, name))
    if not plans:
        raise ValueError("exp is a scale of weight norm: the norms must have wn or wn_mobn")
    return plans


def _once(values: Sequence[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _digits(value: float) -> str:
    """As many as tell the value from all others."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


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
    """torch's number of threads, shared by so many processes; at least one each.

    Raises:
        ValueError: fewer than one process.
    """
    if jobs < 1:
        raise ValueError(f"jobs is a whole number from 1 up, not {jobs}")
    return max(1, torch.get_num_threads() // jobs)


def speed_up_process() -> None:
    """Settings of this whole process that make a step faster; commands and their workers call it.

    glibc gives what a step frees back and asks for it again, each page cleared anew: at width 96 a
    few percent of a step, at times a tenth.
    """
    torch.backends.cudnn.benchmark = True
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # musl has none
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
        RunError: a worker was killed, or cannot take part; the same call goes on.
        DataError: a worker cannot load the data.
    """
    threads, alone = share_of_threads(jobs), jobs == 1 and not cluster
    results: dict[Plan, Run | Exception] = {}
    out = Path(os.path.commonpath([plan.folder.parent for plan in plans]))
    given = data.name == "full" if data.name in ("full", "sample") else data
    terminal = sys.stderr.isatty()
    options = {"device": device, "progress": show and alone and terminal}
    shared = (out, given, 0 if cluster or alone else threads, show and not terminal, options)
    work = [delayed(_work)(i, plan, *shared) for i, plan in enumerate(plans)]
    where: AbstractContextManager[Any] = _on_cluster(cluster) if cluster else nullcontext()
    bar = tqdm(
        total=len(plans), unit="run", dynamic_ncols=True,
        disable=not show or alone or not terminal,
    )  # fmt: skip
    how: dict[str, Any] = {"return_as": "generator_unordered", "batch_size": 1}
    try:
        with bar, where:
            out.mkdir(parents=True, exist_ok=True)
            with _interrupts_held():
                ended: Any = Parallel(jobs, **how)(work)
            for i, result in ended:
                results[plans[i]] = result
                bar.update()
                if show:
                    bar.write(end_line(plans[i].name, result), file=sys.stdout)
                    sys.stdout.flush()
    except BrokenExecutor:
        raise RunError(
            "a training process was killed (was there enough memory?); "
            "the same command goes on from the last whole epoch"
        ) from None
    except OSError as error:
        raise RunError(f"{out} cannot be written: {error.strerror or error}") from None
    return {plan: results[plan] for plan in plans}


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes that start in here never get Ctrl-C, which is ours to handle; we get it after."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _on_cluster(address: str) -> Iterator[None]:
    """Inside, joblib hands its work to the Dask scheduler at that address.

    Raises:
        RunError: Dask is not installed, no scheduler answers, or a worker has several threads.
    """
    try:
        from distributed import Client
    except ImportError:
        raise RunError("--cluster needs Dask: pip install 'wnlib[cluster]'") from None
    if not address.startswith("tcp://"):  # others need what the command line cannot give
        raise RunError(f"a cluster's address is tcp://HOST:PORT, not {address}")
    for name in ("distributed", "distributed.client", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # tracebacks of every lost connection
    try:
        client: Any = Client(address, timeout=5, set_as_default=False)
    except Exception:  # of several kinds: no such host, no such port, nobody there
        raise RunError(f"no Dask scheduler answers at {address}") from None
    over = threading.Event()

    def look() -> None:
        told = False
        with suppress(Exception):  # the scheduler is lost: joblib says so
            while not over.wait(LOOK):
                there = client.nthreads()
                if not there and not told:
                    start = f"dask worker {address} --nthreads 1"
                    print(f"no worker is at {address}; waiting for one ({start})", file=sys.stderr)
                told = not there

    with client:
        # Two runs in one process would share torch's generators.
        if any(threads > 1 for threads in client.nthreads().values()):
            raise RunError(
                f"a worker at {address} has several threads; start each with --nthreads 1"
            )
        threading.Thread(target=look, daemon=True).start()
        try:
            with parallel_config(backend="dask", client=client, pure=False):
                yield
        except (CancelledError, TimeoutError, OSError) as error:
            raise RunError(f"the cluster was lost ({error}); the same command goes on") from None
        finally:
            over.set()


_load = cache(load_cifar10)


def _work(
    index: int, plan: Plan, out: Path, given: Cifar10 | bool, threads: int, lines: bool, how: Any
) -> tuple[int, Run | Exception]:
    """Train one run, in a worker, of ours if it is told a number of threads; which run it was, and
    its record or why it failed."""
    for _ in range(50):  # a shared folder may take seconds to show up
        if out.is_dir():
            break
        time.sleep(0.1)
    else:
        raise RunError(
            f"a worker on {socket.gethostname()} does not see {out}: "
            "--out must be a folder that all workers share"
        )
    if threads:
        torch.set_num_threads(threads)
        speed_up_process()
        # tqdm's own lock is one between processes: a killed one leaves a part to be warned of.
        tqdm.set_lock(threading.RLock())
    parent = os.getppid()
    data, told = _load(given) if isinstance(given, bool) else given, False
    while True:
        try:
            for row in record_epochs(plan.recipe, data, plan.folder, **how):
                if lines:
                    print(epoch_line(plan.name, plan.recipe, row), flush=True)
                if threads and os.getppid() != parent:
                    os._exit(1)  # the command was killed, and nobody is left to send work
            return index, Run.load(plan.folder)
        except Busy:  # as when workers still have what a stopped command gave them
            if not told:
                print(f"{plan.name}: another training is at work there; waiting", file=sys.stderr)
            told = True
            time.sleep(1)
        except Exception as error:
            return index, error
