"""A grid of runs, trained by any executor and followed by their records."""

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    wait,
)
from functools import cache
from pathlib import Path
from typing import Any

import torch

from wnlib.data import Cifar10, DataError, load_cifar10
from wnlib.lab.grid.display import Display
from wnlib.lab.grid.plans import Plan
from wnlib.lab.grid.workers import interrupts_held
from wnlib.lab.lock import Busy
from wnlib.lab.runs import Run, RunError
from wnlib.recipe import Recipe
from wnlib.train import train

POLL = 0.5  # seconds between two looks at the records
SEEN_WITHIN = 5.0  # seconds that a shared folder may take to show a new file


class WorkerError(RunError):
    """A worker cannot take part in a grid; the message says why and what to do."""


def run_grid(
    plans: Sequence[Plan],
    data: Cifar10,
    executor: Executor,
    *,
    device: str = "auto",
    threads: int | None = None,
    display: Display | None = None,
) -> dict[Plan, Run | Exception]:
    """Train what is not yet trained; a plan whose record has ended is left as it is.

    The workers of the executor load the data themselves and must see the folders of the plans. A
    run that fails does not stop the others.

    Args:
        plans: what to train.
        data: the full set or the sample, as `load_cifar10` gives it.
        executor: any; a process of it trains one run at a time.
        device: of each run, as `train` takes it.
        threads: that torch uses in each process; None to leave their number alone.
        display: is told of each new row and of each run's end.

    Returns:
        For each plan, in their order, the recorded run, or why it failed.

    Raises:
        RunError: a worker was killed, or cannot take part; the same call goes on.
        DataError: a worker cannot load the data.
    """
    display = display or Display(quiet=True)
    results: dict[Plan, Run | Exception] = {}
    seen = {}  # rows of each plan
    for plan in plans:
        run = _recorded(plan, data)
        seen[plan] = len(run.rows) if run else 0
        if run and run.state != "interrupted":
            results[plan] = run
    display.start({plan.name: plan.recipe.epochs for plan in plans}, sum(seen.values()))
    for plan, result in results.items():
        display.end(plan.name, result)
    todo = [plan for plan in plans if plan not in results]
    try:
        with _token(todo) as token:
            shared = (token, data.name == "full", device, threads)
            for plan, result in _follow(todo, data, executor, shared, seen, display):
                results[plan] = result
                display.end(plan.name, result)
    except BrokenExecutor:
        raise RunError(
            "a training process was killed (was there enough memory?); "
            "the same command goes on from the last whole epoch"
        ) from None
    except CancelledError:
        raise RunError("the cluster was lost; the same command goes on") from None
    return {plan: results[plan] for plan in plans}


def _follow(
    plans: Sequence[Plan],
    data: Cifar10,
    executor: Executor,
    shared: tuple[Any, ...],
    seen: dict[Plan, int],
    display: Display,
) -> Iterator[tuple[Plan, Run | Exception]]:
    """Each plan and what became of it, in the order in which they end."""
    futures: dict[Future[Run], Plan] = {}
    changed: dict[Plan, int] = {}

    def submit(plan: Plan) -> None:
        with interrupts_held():
            task = executor.submit(_work, plan.recipe, plan.folder.absolute(), *shared)
        futures[task] = plan

    def show_rows(plan: Plan, run: Run) -> None:
        # A record may be one epoch ahead of its checkpoint: that epoch is trained again.
        for row in run.rows[seen[plan] :]:
            display.row(plan.name, plan.recipe, row)
        seen[plan] = max(seen[plan], len(run.rows))

    for plan in plans:
        submit(plan)
    while futures:
        done, _ = wait(futures, POLL, FIRST_COMPLETED)
        for plan in futures.values():
            with contextlib.suppress(OSError):  # not there yet, or just being replaced
                when = (plan.folder / "history.csv").stat().st_mtime_ns
                if changed.get(plan) != when and (run := _recorded(plan, data)):
                    changed[plan] = when
                    show_rows(plan, run)
        for future in [each for each in futures if each in done]:
            plan = futures.pop(future)
            try:
                run = future.result()
            except Busy:
                display.busy(plan.name)
                submit(plan)
            except (WorkerError, DataError, BrokenExecutor, CancelledError):
                raise  # no other run would fare better
            except Exception as error:
                yield plan, error
            else:
                show_rows(plan, run)
                yield plan, run
        display.tick()


def _recorded(plan: Plan, data: Cifar10) -> Run | None:
    """What there is of this very run; where there is another, `train` refuses it."""
    try:
        run = Run.load(plan.folder)
    except RunError:
        return None
    same = run.recipe == plan.recipe and run.provenance.get("data", {}).get("digest") == data.digest
    return run if same else None


@contextlib.contextmanager
def _token(plans: Sequence[Plan]) -> Iterator[Path]:
    """A file beside the runs: workers start if they see it, and stop when it is gone."""
    if not plans:
        yield Path()
        return
    out = Path(os.path.commonpath([plan.folder.absolute().parent for plan in plans]))
    token = out / f".grid-{uuid.uuid4().hex}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        token.touch()
    except OSError as error:
        raise RunError(f"{out} cannot be written: {error.strerror or error}") from None
    try:
        yield token
    finally:
        token.unlink(missing_ok=True)


# torch's generators and its number of threads belong to the process.
_one_run = threading.Lock()
_data = cache(load_cifar10)


def _work(
    recipe: Recipe, folder: Path, token: Path, full: bool, device: str, threads: int | None
) -> Run:
    """Train one run, in a worker."""
    patience = time.monotonic() + SEEN_WITHIN
    while not token.exists():
        if time.monotonic() > patience:
            raise WorkerError(
                f"a worker on {socket.gethostname()} does not see {token.parent}: "
                "--out must be a folder that all workers share"
            )
        time.sleep(0.1)
    with _one_run:
        if threads:
            torch.set_num_threads(threads)
        try:
            rows = train(recipe, _data(full), folder, device=device)
        except Busy:
            time.sleep(1)  # the next try comes as soon as this one is over
            raise
        with contextlib.closing(rows):
            for _ in rows:
                if not token.exists():
                    raise RunError(f"the grid of {folder} was stopped; the same command goes on")
    return Run.load(folder)
