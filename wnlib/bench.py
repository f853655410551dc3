"""How fast training is: beside the usual script, by configuration, as it grows, and around it."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations

from wnlib import baseline
from wnlib.data import Cifar10, load_cifar10
from wnlib.inputs import ZCA, prepare, symmetric
from wnlib.layers import Norm
from wnlib.profile import profile_steps
from wnlib.recipe import Recipe
from wnlib.step import build, find_device
from wnlib.timing import Say, inputs, ratio, steps, take_turns, wait
from wnlib.train import provenance

BATCH = 100  # the paper's
BATCHES = (10, 30, 100, 300, 1000)
TURN = 4800  # images times width that a turn takes, so that turns are of about the same length


def bench(
    data: Cifar10,
    device: torch.device,
    sections: Sequence[str] | None = None,
    *,
    widths: Sequence[int] = (24, 96),
    rounds: int = 5,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Measure the sections, and say on what; numbers have four digits.

    What is compared is measured in turns. Times are medians over the rounds; a ratio is the
    median of the rounds' ratios.

    Args:
        data: its images are trained on; its size decides what the section "data" costs.
        sections: of `SECTIONS`; all by default.
        widths: of the networks.
        rounds: measurements of each, after one that warms up; half as many of what "growth" and
            "profile" measure.
        say: told what is being measured, in one line.

    Raises:
        ValueError: a width or a number of rounds below 1.
    """
    if min(widths) < 1 or rounds < 1:
        raise ValueError("widths and rounds are whole numbers from 1 up")
    start = time.perf_counter()
    result: dict[str, Any] = {"version": 1, "provenance": provenance(data, device)}
    for name in sections or SECTIONS:
        result[name] = SECTIONS[name](widths, data, device, rounds, say)
    result["provenance"]["wall_seconds"] = time.perf_counter() - start
    return _rounded(result)


def compare_steps(
    width: int,
    data: Cifar10,
    device: torch.device,
    *,
    rounds: int = 5,
    block: int = 4,
    workers: int = 2,
    say: Say = lambda text: None,
) -> dict[str, float]:
    """A full step with weight norm, beside that of the usual script; images a second of each."""
    recipe = Recipe.paper(Norm.WN).scaled(width=width)
    ways = {
        "plain": baseline.steps(width, data, device, BATCH, workers),
        "wnlib": steps(build(recipe), recipe, *inputs(data, device)),
    }
    seconds = take_turns(ways, device, rounds, block, lambda text: say(f"width {width}: {text}"))
    return {
        "width": width,
        **{name: BATCH / statistics.median(each) for name, each in seconds.items()},
        "ratio": ratio(seconds["plain"], seconds["wnlib"]),
    }


def compare_configurations(
    width: int,
    data: Cifar10,
    device: torch.device,
    *,
    batch: int = BATCH,
    rounds: int = 5,
    torch_wn: bool = True,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """A step of each configuration, and of "torch_wn": weight norm by torch's parametrization.

    Returns:
        Milliseconds of each, and what each costs over "none".
    """
    images, labels = inputs(data, device)
    ways = {}
    for name in [*map(str, Norm), *["torch_wn"] * torch_wn]:
        norm = Norm.NONE if name == "torch_wn" else Norm(name)
        recipe = Recipe.paper(norm).scaled(width=width, batch_size=batch)
        model = build(recipe)
        if name == "torch_wn":
            for layer in model.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    parametrizations.weight_norm(layer)
        ways[name] = steps(model, recipe, images, labels)
    block = min(max(1, TURN // (width * batch)), 10)
    what = f"width {width}, {batch} images a step"
    seconds = take_turns(ways, device, rounds, block, lambda text: say(f"{what}: {text}"))
    return {
        "width": width,
        "batch": batch,
        "ms": {name: 1e3 * statistics.median(each) for name, each in seconds.items()},
        "over_none": {name: ratio(each, seconds["none"]) for name, each in seconds.items()},
    }


def growth(
    narrow: int, wide: int, data: Cifar10, device: torch.device, *, rounds: int, say: Say
) -> dict[str, list[dict[str, Any]]]:
    """The configurations against batch size in the narrow network, and against width up to wide."""
    options: dict[str, Any] = {"rounds": rounds, "torch_wn": False, "say": say}
    batches = [b for b in BATCHES if b <= len(data.train_images)]
    widths = [wide // part for part in (8, 4, 2, 1) if wide >= part]
    return {
        "batch": [
            compare_configurations(narrow, data, device, batch=b, **options) for b in batches
        ],
        "width": [compare_configurations(w, data, device, **options) for w in widths],
    }


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
    code = f"from wnlib.bench import first_step; {call}"
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
    recipe = Recipe.paper(Norm.WN_MOBN).scaled(width=width)
    images, _test = (x.to(where) for x in prepare(data, recipe.inputs))
    way = steps(build(recipe), recipe, images, data.train_labels.to(where))
    next(way)
    wait(where)
    seconds = time.time() - started
    for _ in range(9):
        next(way)
    wait(where)
    try:
        import resource
    except ImportError:  # Windows
        peak = None
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    print(json.dumps({"first_step_s": seconds, "peak_mb": peak}))


SECTIONS = {
    "steps": lambda widths, data, device, rounds, say: [
        compare_steps(w, data, device, rounds=rounds, say=say) for w in widths
    ],
    "configurations": lambda widths, data, device, rounds, say: [
        compare_configurations(w, data, device, rounds=rounds, say=say) for w in widths
    ],
    "growth": lambda widths, data, device, rounds, say: growth(
        min(widths), max(widths), data, device, rounds=-(-rounds // 2), say=say
    ),
    "data": lambda widths, data, device, rounds, say: feed(
        data, device, max(widths), rounds=rounds, say=say
    ),
    "profile": lambda widths, data, device, rounds, say: [
        profile_steps(w, data, device, rounds=-(-rounds // 2), say=say) for w in widths
    ],
}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
