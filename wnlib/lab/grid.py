"""A grid of runs: joblib trains them, here or on a Dask cluster, and their records are watched."""

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed, parallel_config
from tqdm import tqdm

from wnlib.data import Cifar10, DataError, load_cifar10
from wnlib.lab.plans import Plan
from wnlib.lab.records import Busy, Run, RunError, made, record_epochs
from wnlib.training import Recipe, Row, State

POLL = 0.5  # seconds between two looks at the records
SEEN_WITHIN = 5.0  # seconds that a shared folder may take to show up


def epoch_line(name: str, recipe: Recipe, row: Row) -> str:
    """One epoch, for people."""
    return (
        f"{name} epoch {row.epoch:>3} of {recipe.epochs}: training loss "
        f"{row.train_loss:.4f}, test error {100 * row.test_error:.2f} %, {row.seconds:.1f} s"
    )


def end_line(name: str, run: Run) -> str:
    """One run that has ended."""
    s = run.summary()
    return (
        f"{name}: {run.outcome}; test error {100 * s.final_error:.2f} %, best "
        f"{100 * s.best_error:.2f} % in epoch {s.best_epoch}"
    )


class Display:
    """A line for each epoch and each run on standard output; on a terminal, one bar for all.

    Args:
        quiet: say nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.bar = tqdm(disable=True)
        self.runs = self.ended = self.pad = 0

    def start(self, plans: Sequence[Plan], done: int) -> None:
        """A grid begins; so many of its epochs are there already."""
        self.runs, self.pad = len(plans), max(len(plan.name) for plan in plans)
        self.bar = tqdm(
            total=sum(plan.recipe.epochs for plan in plans),
            initial=done,
            disable=self.quiet or not sys.stderr.isatty(),
            unit="epoch",
            dynamic_ncols=True,
        )
        self._count()

    def row(self, plan: Plan, row: Row) -> None:
        """An epoch is over."""
        self._say(epoch_line(f"{plan.name:>{self.pad}}", plan.recipe, row))
        self.bar.update()

    def end(self, plan: Plan, result: Run | Exception) -> None:
        """A run has ended, or failed."""
        if isinstance(result, Run):
            self._say(end_line(plan.name, result))
            self.bar.total -= result.recipe.epochs - len(result.rows)  # of one that diverged
        else:
            self._say(f"{plan.name}: failed; the others go on")
        self.ended += 1
        self._count()

    def close(self) -> None:
        """Nothing more comes; what follows on the terminal stands below the bar."""
        self.bar.close()

    def _say(self, line: str) -> None:
        if not self.quiet:
            self.bar.write(line, file=sys.stdout)
            sys.stdout.flush()

    def _count(self) -> None:
        self.bar.set_description(f"{self.ended} of {self.runs} runs")


def share_of_threads(jobs: int) -> int:
    """torch's number of threads, shared by so many processes; at least one each.

    Raises:
        ValueError: fewer than one process.
    """
    if jobs < 1:
        raise ValueError(f"jobs is a whole number from 1 up, not {jobs}")
    return max(1, torch.get_num_threads() // jobs)


def run_grid(
    plans: Sequence[Plan],
    data: Cifar10,
    *,
    jobs: int = 1,
    cluster: str | None = None,
    device: str = "auto",
    compiled: bool = False,
    display: Display | None = None,
) -> dict[Plan, Run | Exception]:
    """Train what is not yet trained; a plan whose record has ended is left as it is.

    Workers load the sample and the full set themselves; other data are sent to them. A run that
    fails does not stop the others. Ctrl-C does, at once; the same call goes on.

    Args:
        plans: what to train.
        data: on what.
        jobs: processes of this machine, which share torch's threads; 1 trains in this process.
        cluster: address of a Dask scheduler ("tcp://host:8786") whose workers train instead; they
            must see the folders of the plans.
        device: of each run, as `record_epochs` takes it.
        compiled: likewise.
        display: is told of each new row and of each run's end.

    Returns:
        For each plan, in their order, the recorded run, or why it failed.

    Raises:
        ValueError: fewer jobs than one.
        RunError: a worker was killed, or cannot take part; the same call goes on.
        DataError: a worker cannot load the data.
    """
    threads = share_of_threads(jobs)
    display = display or Display(quiet=True)
    results: dict[Plan, Run | Exception] = {}
    seen = {}  # rows of each plan
    for plan in plans:
        run = _recorded(plan, data)
        seen[plan] = len(run.rows) if run else 0
        if run and run.state != State.INTERRUPTED:
            results[plan] = run
    display.start(plans, sum(seen.values()))
    for plan, result in results.items():
        display.end(plan, result)
    todo = [plan for plan in plans if plan not in results]
    if not todo:
        return {plan: results[plan] for plan in plans}
    out = Path(os.path.commonpath([plan.folder.absolute().parent for plan in todo]))
    given = data.name == "full" if data.name in ("full", "sample") else data
    head = None if cluster or jobs == 1 else os.getpid()
    options = {"device": device, "compiled": compiled}
    shared = (out, given, None if cluster else threads, head, options)
    work = [
        delayed(_work)(i, plan.name, plan.recipe, plan.folder.absolute(), *shared)
        for i, plan in enumerate(todo)
    ]
    where: AbstractContextManager[Any] = _on_cluster(cluster) if cluster else nullcontext()
    how: dict[str, Any] = {"return_as": "generator_unordered", "batch_size": 1}
    lock = threading.RLock()

    def show_rows(plan: Plan, run: Run) -> None:
        # A record may be ahead of its checkpoint: that epoch is trained again.
        with lock:
            for row in run.rows[seen[plan] :]:
                display.row(plan, row)
            seen[plan] = max(seen[plan], len(run.rows))

    try:
        with made(out), where, _watching(todo, data, show_rows):
            with _interrupts_held():
                ended: Any = Parallel(jobs, **how)(work)
            for i, result in ended:
                plan = todo[i]
                if isinstance(result, Run):
                    show_rows(plan, result)
                with lock:
                    results[plan] = result
                    display.end(plan, result)
    except BrokenExecutor:
        raise RunError(
            "a training process was killed (was there enough memory?); "
            "the same command goes on from the last whole epoch"
        ) from None
    return {plan: results[plan] for plan in plans}


def _recorded(plan: Plan, data: Cifar10) -> Run | None:
    """What there is of this very run; where there is another, `record_epochs` refuses it."""
    try:
        run = Run.load(plan.folder)
    except RunError:
        return None
    same = run.recipe == plan.recipe and run.provenance.get("data", {}).get("digest") == data.digest
    return run if same else None


@contextmanager
def _watching(
    plans: Sequence[Plan], data: Cifar10, show: Callable[[Plan, Run], None]
) -> Iterator[None]:
    """Inside, whatever epoch is recorded is shown."""
    over = threading.Event()

    def watch() -> None:
        changed: dict[Plan, int] = {}
        while not over.wait(POLL):
            for plan in plans:
                with suppress(OSError):  # not there yet, or just being replaced
                    when = (plan.folder / "history.csv").stat().st_mtime_ns
                    if changed.get(plan) != when and (run := _recorded(plan, data)):
                        changed[plan] = when
                        show(plan, run)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


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
    with client:
        # Two runs in one process would share torch's generators.
        if any(threads > 1 for threads in client.nthreads().values()):
            raise RunError(
                f"a worker at {address} has several threads; start each with --nthreads 1"
            )
        try:
            with parallel_config(backend="dask", client=client, pure=False):
                yield
        except (CancelledError, TimeoutError, OSError) as error:
            raise RunError(f"the cluster was lost ({error}); the same command goes on") from None


_load = cache(load_cifar10)


def _work(
    index: int,
    name: str,
    recipe: Recipe,
    folder: Path,
    out: Path,
    given: Cifar10 | bool,
    threads: int | None,
    head: int | None,
    options: dict[str, Any],
) -> tuple[int, Run | Exception]:
    """Train one run, in a worker; which it was, and the run or why it failed."""
    patience = time.monotonic() + SEEN_WITHIN
    while not out.is_dir():
        if time.monotonic() > patience:
            raise RunError(
                f"a worker on {socket.gethostname()} does not see {out}: "
                "--out must be a folder that all workers share"
            )
        time.sleep(0.1)
    if threads:
        torch.set_num_threads(threads)
    data = _load(given) if isinstance(given, bool) else given
    wanted = _wanted(head)
    if head is not None:
        # tqdm's own lock is one between processes: a killed one leaves a part to be warned of.
        tqdm.set_lock(threading.RLock())
    told = False
    while True:
        try:
            for _ in record_epochs(recipe, data, folder, **options):
                if not wanted():
                    if head is not None:
                        os._exit(1)  # nobody is left to send work, or to be told
                    return index, RunError("stopped; the same command goes on")
            return index, Run.load(folder)
        except Busy:
            if not told:
                print(f"{name}: another training is at work there; waiting", file=sys.stderr)
            told = True
            time.sleep(1)
        except DataError:
            raise  # no other run would fare better
        except Exception as error:
            return index, error


def _wanted(head: int | None) -> Callable[[], bool]:
    """Whether the command that has this run trained is there still; without it, it is stopped."""
    if head is not None:
        return lambda: os.getppid() == head
    if "distributed" in sys.modules:
        from distributed import get_worker

        try:
            worker = get_worker()
        except ValueError:  # this is none
            return lambda: True
        key = worker.get_current_task()
        return lambda: key in worker.state.tasks and worker.state.tasks[key].state == "executing"
    return lambda: True
