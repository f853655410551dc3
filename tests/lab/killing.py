"""Trainings killed with SIGKILL and started again until they finish; test_resume.py runs this.

Every training is a process of its own, forked from one that has warmed up: on one thread, that
works, and saves a second each.
"""

import dataclasses
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from wnlib import Recipe, load_cifar10, train
from wnlib.lab import Run, record

NAMES = {"checkpoint.pt", "history.csv", "run.json"}
sample = load_cifar10()
data = dataclasses.replace(
    sample,
    name="tiny",
    digest="tiny",
    train_images=sample.train_images[:40],
    train_labels=sample.train_labels[:40],
)
recipe = Recipe.paper("wn_mobn").replace(
    width=2, epochs=3, batch_size=10, init_images=20, inputs="symmetric"
)


def at_write(number: int, stage: str) -> Callable[[], None]:
    """Kill the process within its so-manieth write: half written, whole but not in place, done."""

    def install() -> None:
        calls = []
        fsync, replace = os.fsync, Path.replace

        def die_if(now: str) -> None:
            if len(calls) == number and stage == now:
                os.kill(os.getpid(), signal.SIGKILL)

        def within(descriptor: int) -> None:
            calls.append(descriptor)
            if len(calls) == number and stage == "half":
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            die_if("half")
            fsync(descriptor)

        def put(path: Path, target: Path) -> Path:
            die_if("whole")
            replace(path, target)
            die_if("done")
            return target

        os.fsync, Path.replace = within, put  # type: ignore[method-assign]

    return install


def attempt(folder: Path, install: Callable[[], object] = bool, delay: float | None = None) -> bool:
    """Train in a new process; whether it came to its end before it was killed."""
    pid = os.fork()
    if not pid:
        try:
            install()
            record(recipe, data, folder, device="cpu")
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if delay is not None:
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert status in (0, signal.SIGKILL), f"{folder}: status {status}"
    return status == 0


def rows(folder: Path) -> list[tuple[float, ...]]:
    return [row[:-1] for row in Run.load(folder).rows]  # all but the seconds


def check(folder: Path, finished: bool) -> int:
    """The record is whole and a beginning of the uninterrupted one; how many strays there are."""
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    strays = {name for name in names if name.endswith(".partial")}
    assert strays <= {f"{name}.partial" for name in NAMES}, strays
    assert names - strays <= {*NAMES, "lock"}, names
    if finished:
        assert names >= NAMES
        assert Run.load(folder).state == "finished"
    if "run.json" in names:
        assert rows(folder) == expected[: len(expected) if finished else len(rows(folder))]
    return len(strays)


torch.set_num_threads(1)
expected = [row[:-1] for row in train(recipe, data, device="cpu")]
root = Path(sys.argv[1])
start = time.perf_counter()
assert attempt(root / "whole")
duration = time.perf_counter() - start
check(root / "whole", True)

moments = random.Random(20160225)
random_kills, write_kills, strays, folders, finished = 0, 0, 0, 0, True
while random_kills < 10 or not finished:
    folders += finished
    folder = root / f"random{folders}"
    finished = attempt(folder, delay=moments.uniform(0, duration) if random_kills < 10 else None)
    random_kills += not finished
    strays += check(folder, finished)

for number in range(1, 5):  # three an epoch
    for stage in ("half", "whole", "done"):
        folder = root / f"write{number}{stage}"
        for install in (at_write(number, stage), at_write(1 + number % 2, stage), bool):
            finished = attempt(folder, install)
            write_kills += not finished
            strays += check(folder, finished)
        assert finished

# Killed in its last write, a run has all of its rows; opened once more, it is finished.
for stage in ("half", "whole", "done"):
    folder = root / f"last{stage}"
    assert not attempt(folder, at_write(3 * recipe.epochs, stage))
    assert rows(folder) == expected
    strays += check(folder, attempt(folder))
print(json.dumps({"random": random_kills, "write": write_kills, "strays": strays}))
