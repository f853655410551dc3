"""What stands around the steps: batches, whitening, the way to the first step, memory."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from wnlib.data import Cifar10, load_cifar10
from wnlib.init import data_dependent_init_
from wnlib.inputs import ZCA, prepare, symmetric
from wnlib.lab.bench import baseline
from wnlib.lab.bench.compare import BATCH
from wnlib.lab.bench.timing import Say, ratio, steps, take_turns, wait
from wnlib.layers import Norm
from wnlib.recipe import Recipe
from wnlib.train import build, find_device


def feed(
    data: Cifar10, device: torch.device, width: int, *, rounds: int, say: Say
) -> dict[str, Any]:
    """What stands around the steps: batches, whitening, the way to the first step, memory.

    Returns:
        Seconds of an epoch of batches, wnlib's and a DataLoader's with two workers; seconds to fit
        the whitening and to apply it; seconds from starting Python to the end of the first step,
        and the peak of that process's memory over ten steps in MB, None where that is not known.
    """
    images = symmetric(data.train_images).to(device, memory_format=torch.channels_last)
    labels = data.train_labels.to(device)

    def gathered() -> Iterator[None]:
        while True:
            for chosen in torch.randperm(len(images), device=device).split(BATCH):
                _ = images[chosen], labels[chosen]
                yield

    def loaded() -> Iterator[None]:
        batches = baseline.loader(data, BATCH, workers=2)
        while True:
            for x, y in batches:
                _ = x.to(device), y.to(device)
                yield

    count = -(-len(images) // BATCH)
    ways = {"dataloader": loaded(), "wnlib": gathered()}
    seconds = take_turns(ways, device, min(rounds, 2), count, lambda text: say(f"batches: {text}"))
    say("whitening")
    images = images.cpu()
    start = time.perf_counter()
    zca = ZCA.fit(images)
    fitted = time.perf_counter()
    zca.whiten(images)
    whitened = time.perf_counter()
    say("the way to the first step")
    call = f"first_step({data.name == 'full'}, {width}, {device.type!r}, {time.time()})"
    code = f"from wnlib.lab.bench.around import first_step; {call}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"the first step failed: {done.stderr.strip().rpartition(chr(10))[2]}")
    return {
        "epoch_s": {name: count * statistics.median(each) for name, each in seconds.items()},
        "ratio": ratio(seconds["dataloader"], seconds["wnlib"]),
        "whitening_s": {"fit": fitted - start, "apply": whitened - fitted},
        **json.loads(done.stdout),
    }


def first_step(full: bool, width: int, device: str, started: float) -> None:
    """Take ten steps of the paper's recipe as `wnlib.train` does, and print what `feed` wants."""
    data = load_cifar10(full)
    where = find_device(device)
    recipe = Recipe.paper(Norm.WN_MOBN).replace(width=width)
    images, _test = (x.to(where) for x in prepare(data, recipe.inputs))
    model = build(recipe).to(where, memory_format=torch.channels_last)
    data_dependent_init_(model, images[torch.randperm(len(images))[: recipe.init_images]])
    way = steps(model, recipe, images, data.train_labels.to(where))
    next(way)
    wait(where)
    seconds = time.time() - started
    for _ in range(9):
        next(way)
    wait(where)
    print(json.dumps({"first_step_s": seconds, "peak_mb": peak_mb()}))


def peak_mb() -> float | None:
    """This process's peak of memory in MB; None where that is not known."""
    if sys.platform == "linux":  # whose ru_maxrss begins with the peak of the parent
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if "VmHWM" in line)
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
