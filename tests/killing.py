"""Trainings killed with SIGKILL and started again until they finish; test_resume.py runs this.

Every training is a process of its own, forked from one that has warmed up: on one thread, that
works, and saves a second each.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from itertools import count
from pathlib import Path

import torch
from training import tiny

from wnlib import Recipe, load_cifar10, train
from wnlib.lab import Run, record

NAMES = {"checkpoint.pt", "history.csv", "run.json"}
data = tiny(load_cifar10())
recipe = Recipe.paper("wn_mobn").replace(
    width=2, epochs=3, batch_size=10, init_images=20, inputs="symmetric"
)


def die_at(moment: int) -> None:
    """Of the three moments of a write: half of it is there, it is whole, it is in place."""
    moments, fsync, replace = count(1), os.fsync, os.replace

    def half(descriptor: int) -> None:
        if next(moments) == moment:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)

    def put(partial: Path, target: Path) -> None:
        if next(moments) == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(partial, target)
        if next(moments) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync, os.replace = half, put  # type: ignore[assignment]


def attempt(folder: Path, moment: int = 0, delay: float | None = None) -> bool:
    """Train in a new process; whether it came to its end before it was killed. Check the folder."""
    global strays
    pid = os.fork()
    if not pid:
        try:
            die_at(moment)
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
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    partial = {name for name in names if name.endswith(".partial")}
    assert partial <= {f"{name}.partial" for name in NAMES}
    assert names - partial <= {*NAMES, "lock"}
    strays += len(partial)
    if status == 0:
        assert rows(folder) == expected
        assert Run.load(folder).state == "finished"
    elif "run.json" in names:
        assert rows(folder) == expected[: len(rows(folder))]
    return status == 0


def rows(folder: Path) -> list[tuple[float, ...]]:
    return [row[:-1] for row in Run.load(folder).rows]  # all but the seconds


torch.set_num_threads(1)
expected = [row[:-1] for row in train(recipe, data, device="cpu")]
root, strays = Path(sys.argv[1]), 0
start = time.perf_counter()
assert attempt(root / "whole")
duration = time.perf_counter() - start

moments = random.Random(20160225)
random_kills, folders, finished = 0, 0, True
while random_kills < 10 or not finished:
    folders += finished
    delay = moments.uniform(0, duration) if random_kills < 10 else None
    finished = attempt(root / f"random{folders}", delay=delay)
    random_kills += not finished

write_kills, writes = 0, 3 * recipe.epochs
for moment in (*range(1, 13), *range(3 * writes - 2, 3 * writes + 1)):
    folder = root / f"write{moment}"
    write_kills += not attempt(folder, moment)
    write_kills += not attempt(folder, 1 + moment % 6)
    assert attempt(folder)
print(json.dumps({"random": random_kills, "write": write_kills, "strays": strays}))
