"""Who trains a grid of runs: processes of this machine, or a Dask cluster."""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor

import torch
from tqdm import tqdm

from wnlib.lab.runs import RunError


def share_of_threads(jobs: int) -> int:
    """torch's number of threads, shared by so many processes; at least one each.

    Raises:
        ValueError: fewer than one process.
    """
    _demand(jobs)
    return max(1, torch.get_num_threads() // jobs)


@contextlib.contextmanager
def processes(jobs: int) -> Iterator[Executor]:
    """So many processes of this machine; an error or Ctrl-C stops them at once.

    Raises:
        ValueError: fewer than one.
    """
    _demand(jobs)
    others = multiprocessing.active_children()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, initializer=_begin) as executor:
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - set(others):
                process.terminate()
            raise


def _demand(jobs: int) -> None:
    if jobs < 1:
        raise ValueError(f"jobs is a whole number from 1 up, not {jobs}")


def _begin() -> None:
    """In each process, before its first run."""
    # tqdm's own lock is one between processes, of which a killed one leaves a part to be warned of.
    tqdm.set_lock(threading.RLock())

    # Otherwise the processes of a parent that was killed train on, then wait forever.
    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Processes that start in here never get Ctrl-C, which is ours to handle; we get it after."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def cluster(address: str) -> Iterator[Executor]:
    """The workers of the Dask scheduler at that address ("tcp://host:8786").

    A run whose worker is killed goes on on another one. After an error or Ctrl-C the workers stop
    at the end of their epoch.

    Raises:
        RunError: Dask is not installed, no scheduler answers, or a worker has several threads.
    """
    try:
        from distributed import Client
    except ImportError:
        raise RunError("--cluster needs Dask: pip install 'wnlib[cluster]'") from None
    for name in ("distributed", "distributed.client", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # tracebacks of every lost connection
    try:
        client = Client(address, timeout=5, set_as_default=False)
    except (OSError, ValueError):
        raise RunError(f"no Dask scheduler answers at {address}") from None
    with client:
        # Two runs in one process would share torch's generators.
        if any(threads > 1 for threads in client.nthreads().values()):
            raise RunError(
                f"a worker at {address} has several threads; start each with --nthreads 1"
            )
        executor = client.get_executor()
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False)
            raise
