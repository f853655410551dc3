"""How fast training is: beside the usual script, by configuration, as it grows, and around it.

What is compared is measured in turns, so that a slow spell of the machine hits all of it.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile

from wnlib.data import Cifar10, load_cifar10
from wnlib.inputs import ZCA, symmetric
from wnlib.lab import baseline
from wnlib.lab.records import provenance
from wnlib.layers import Norm
from wnlib.training import Recipe, Training, build, build_optimizer, layout, training_step

SECTIONS = ("steps", "configurations", "growth", "data", "profile")
Say = Callable[[str], None]


def inputs(data: Cifar10, device: torch.device) -> tuple[Tensor, Tensor]:
    """Training images (N, 3, 32, 32), channels last, and labels (N,), for steps to be timed on.

    Not whitened, which no step's time depends on, and at most 10,000.
    """
    images = symmetric(data.train_images[:10_000])
    images = images.to(device, memory_format=layout(device))
    return images, data.train_labels[:10_000].to(device)


def steps(
    model: nn.Module, recipe: Recipe, images: Tensor, labels: Tensor, compiled: bool = False
) -> Iterator[None]:
    """Training steps as `wnlib.training` takes them, one a `next`, on the images' device."""
    device = images.device
    model = model.to(device).to(memory_format=layout(device)).train()
    optimizer = build_optimizer(recipe, model)
    scaler = torch.amp.GradScaler(device.type, enabled=False)
    network: Any = torch.compile(model, mode="reduce-overhead") if compiled else model
    batch = min(recipe.batch_size, len(images))
    whole = len(images) // batch * batch
    while True:
        for chosen in torch.randperm(len(images), device=device)[:whole].split(batch):
            training_step(network, optimizer, scaler, images[chosen], labels[chosen])
            yield


def take_turns(
    ways: Mapping[str, Iterator[None]], device: torch.device, rounds: int, block: int, say: Say
) -> dict[str, list[float]]:
    """Seconds a step of each way, one number a round, over `block` steps."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):  # the first warms up
        for name, way in ways.items():
            next(way)  # lets loader workers, if any, fill their queues before the clock starts
            wait(device)
            start = time.perf_counter()
            for _ in range(block):
                next(way)
            wait(device)
            if turn:
                seconds[name].append((time.perf_counter() - start) / block)
        say(f"round {turn} of {rounds}")
    return seconds


def ratio(these: Sequence[float], those: Sequence[float]) -> float:
    """The median over the rounds of these over those."""
    return statistics.median(a / b for a, b in zip(these, those, strict=True))


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


BATCH = 100  # the paper's
BATCHES = (10, 30, 100, 300, 1000)
TURN = 4800  # images times width that a turn takes, so that turns are of about the same length


def compare_steps(
    width: int,
    data: Cifar10,
    device: torch.device,
    *,
    rounds: int = 5,
    block: int = 4,
    workers: int = 2,
    compiled: bool = False,
    say: Say = lambda text: None,
) -> dict[str, float]:
    """A full step with weight norm, beside that of the usual script; images a second of each.

    Both in this process, so the memory that the lab keeps is there for both.
    """
    recipe = Recipe.paper(Norm.WN).replace(width=width)
    ways = {
        "plain": baseline.steps(width, data, device, BATCH, workers),
        "wnlib": steps(build(recipe), recipe, *inputs(data, device), compiled),
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
    compiled: bool = False,
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
        recipe = Recipe.paper(norm).replace(width=width, batch_size=batch)
        if name == "torch_wn":
            recipe = recipe.replace(plain="divided")  # a frozen g would be a second one
        model = build(recipe)
        if name == "torch_wn":
            for layer in model.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    parametrizations.weight_norm(layer)
        ways[name] = steps(model, recipe, images, labels, compiled)
    block = min(max(1, TURN // (width * batch)), 4)
    what = f"width {width}, {batch} images a step"
    seconds = take_turns(ways, device, rounds, block, lambda text: say(f"{what}: {text}"))
    return {
        "width": width,
        "batch": batch,
        "ms": {name: 1e3 * statistics.median(each) for name, each in seconds.items()},
        "over_none": {name: ratio(each, seconds["none"]) for name, each in seconds.items()},
    }


def growth(
    narrow: int,
    wide: int,
    data: Cifar10,
    device: torch.device,
    *,
    rounds: int,
    compiled: bool,
    say: Say,
) -> dict[str, list[dict[str, Any]]]:
    """The configurations against batch size in the narrow network, and against width up to wide."""
    options: dict[str, Any] = {
        "rounds": rounds,
        "torch_wn": False,
        "compiled": compiled,
        "say": say,
    }
    batches = [b for b in BATCHES if b <= len(data.train_images)]
    widths = [wide // part for part in (8, 4, 2, 1) if wide >= part]
    return {
        "batch": [
            compare_configurations(narrow, data, device, batch=b, **options) for b in batches
        ],
        "width": [compare_configurations(w, data, device, **options) for w in widths],
    }


# What a group holds, by its operators' names; the first group that fits takes an operator.
GROUPS = {
    "convolution": r"conv",  # forward and backward, with the bias
    # Batch norm; the sums and shifts of mean-only BN; of w = g v / ‖v‖ all but the products.
    "normalization": r"batch_norm|bmm|vector_norm|Center",
    "optimizer": r"adam|Adam",  # the update, with Python's part in it
    # The minibatch gathered; noise and dropout's masks drawn.
    "data": r"index|randperm|normal_|uniform_|random_|bernoulli|dropout",
    # Activations, pooling, sums, casts, copies; the products of dropout and of weight norm.
    "elementwise": (
        r"relu|pool|mul|div|sum|mean|copy|fill|zero|softmax|nll|lerp|neg|"
        r"\b(add_?|sub|exp|ge|eq)$"
    ),
    "other": r"",  # the dense layer's product, autograd's own work, memory
}


def group_of(operator: str) -> str:
    """The group that an operator's time is counted in."""
    return next(name for name, pattern in GROUPS.items() if re.search(pattern, operator))


def profile_steps(
    width: int,
    data: Cifar10,
    device: torch.device,
    *,
    rounds: int = 5,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """The five configurations' steps taken apart, in turns with steps that nobody watches.

    Returns:
        By configuration: milliseconds of a step; of it, those of each group, self times of the
        operators (of the kernels, on a GPU); the step's time over that of its own convolutions.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler talks on standard error
    images, labels = inputs(data, device)
    rows = {}
    for norm in Norm:
        say(f"width {width}, {norm.label}")
        recipe = Recipe.paper(norm).replace(width=width)
        way = steps(build(recipe), recipe, images, labels)
        plain, groups = [], []
        for turn in range(rounds + 1):  # the first warms up
            next(way)
            wait(device)
            start = time.perf_counter()
            next(way)
            wait(device)
            seconds = time.perf_counter() - start
            activities = [ProfilerActivity.CPU]
            activities += [ProfilerActivity.CUDA] * (device.type == "cuda")
            with torch_profile(activities=activities, acc_events=True) as watched:
                next(way)
                wait(device)
            if turn:
                plain.append(1e3 * seconds)
                groups.append(_by_group(watched, device))
        median = {name: statistics.median(each[name] for each in groups) for name in GROUPS}
        convolution = [each["convolution"] for each in groups]
        rows[str(norm)] = {
            "step_ms": statistics.median(plain),
            "ms": median,
            "over_convolution": ratio(plain, convolution) if all(convolution) else None,
        }
    return {"width": width, "configurations": rows}


def _by_group(watched: torch_profile, device: torch.device) -> dict[str, float]:
    milliseconds = dict.fromkeys(GROUPS, 0.0)
    for event in watched.key_averages():
        if event.device_type.name != "CPU":
            continue  # a kernel on the GPU, whose time its operator has too
        cuda = device.type == "cuda"
        self_time = event.self_device_time_total if cuda else event.self_cpu_time_total
        milliseconds[group_of(event.key)] += self_time / 1e3
    return milliseconds


def feed(
    data: Cifar10, device: torch.device, width: int, *, rounds: int, say: Say
) -> dict[str, Any]:
    """What stands around the steps: batches, whitening, the way to the first step, memory.

    Returns:
        Seconds of an epoch of batches, wnlib's and a DataLoader's with two workers; seconds to fit
        the whitening and to apply it; seconds from starting Python to the end of the first step,
        and the peak of that process's memory over ten steps in MB, None where that is not known.
    """
    images = symmetric(data.train_images).to(device, memory_format=layout(device))
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
    code = f"from wnlib.lab.bench import first_step; {call}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"the first step failed: {done.stderr.strip().rpartition(chr(10))[2]}")
    return {
        "epoch_s": {name: count * statistics.median(each) for name, each in seconds.items()},
        "ratio": ratio(seconds["dataloader"], seconds["wnlib"]),
        "whitening_s": {"fit": fitted - start, "apply": whitened - fitted},
        **json.loads(done.stdout),
    }


class _Enough(Exception):
    """Ten steps were taken."""


def first_step(full: bool, width: int, device: str, started: float) -> None:
    """Take ten steps of the paper's recipe as the loop does, and print what `feed` wants."""
    recipe = Recipe.paper(Norm.WN_MOBN).replace(width=width)
    training = Training(recipe, load_cifar10(full), device)
    ended: list[float] = []

    def tick() -> None:
        if len(ended) in (0, 9):
            wait(training.device)
        ended.append(time.time() - started)
        if len(ended) == 10:
            raise _Enough

    with suppress(_Enough):
        next(training.epochs(tick))
    print(json.dumps({"first_step_s": ended[0], "peak_mb": peak_mb()}))


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


def bench(
    data: Cifar10,
    device: torch.device,
    sections: Sequence[str] = SECTIONS,
    *,
    widths: Sequence[int] = (24, 96),
    rounds: int = 5,
    compiled: bool = False,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Measure the sections, and say on what; numbers have four digits.

    What is compared is measured in turns. Times are medians over the rounds; a ratio is the
    median of the rounds' ratios.

    Args:
        data: its images are trained on; its size decides what the section "data" costs.
        sections: of `SECTIONS`; all by default.
        widths: of the networks.
        rounds: measurements of each, after one that warms up; three times as many of the
            configurations, which differ by little, half as many in "growth" and "profile".
        compiled: whether torch compiles the steps, but those of "data" and "profile".
        say: told what is being measured, in one line.

    Raises:
        ValueError: a width or a number of rounds below 1.
    """
    if min(widths) < 1 or rounds < 1:
        raise ValueError("widths and rounds are whole numbers from 1 up")
    start = time.perf_counter()
    few, shared = -(-rounds // 2), {"compiled": compiled, "say": say}

    def measure(name: str) -> Any:
        if name == "steps":
            return [compare_steps(w, data, device, rounds=rounds, **shared) for w in widths]
        if name == "configurations":
            options = {"rounds": 3 * rounds, **shared}
            return [compare_configurations(w, data, device, **options) for w in widths]
        if name == "growth":
            return growth(min(widths), max(widths), data, device, rounds=few, **shared)
        if name == "data":
            return feed(data, device, max(widths), rounds=rounds, say=say)
        return [profile_steps(w, data, device, rounds=few, say=say) for w in widths]

    made = provenance(data, device) | {"compiled": compiled}
    result: dict[str, Any] = {"version": 1, "provenance": made}
    for name in sections:
        result[name] = measure(name)
    result["provenance"]["wall_seconds"] = time.perf_counter() - start
    return _rounded(result)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def bench_text(result: Mapping[str, Any]) -> str:
    """One table a section, with a line above it that says what it holds."""
    how = result["provenance"]
    where = f"on {how['device']}, {how['precision']}, {how['threads']} threads"
    texts = [text(result[section]) for section, text in _TEXTS.items() if section in result]
    return "\n\n".join([f"Medians, {where}.", *texts])


def _steps(rows: list[dict[str, Any]]) -> str:
    head = "Images a second of full training steps with weight norm:"
    cells = [
        [r["width"], f"{r['plain']:.0f}", f"{r['wnlib']:.0f}", f"{r['ratio']:.2f}"] for r in rows
    ]
    return _table(head, ["width", "usual script", "wnlib", "ratio"], cells)


def _configurations(rows: list[dict[str, Any]]) -> str:
    names = list(rows[0]["ms"])
    head = (
        "Milliseconds a step, and what each costs over none; torch_wn is torch's own weight norm:"
    )
    cells = []
    for r in rows:
        what = [r["width"], r["batch"]]
        cells.append([*what, *(f"{r['ms'][n]:.1f}" for n in names)])
        cells.append(["", "", *(f"{r['over_none'][n]:.3f}" for n in names)])
    return _table(head, ["width", "batch", *names], cells)


def _growth(parts: dict[str, list[dict[str, Any]]]) -> str:
    rows = [*parts["batch"], *parts["width"]]
    names = list(rows[0]["ms"])
    cells = [[r["width"], r["batch"], *(f"{r['ms'][n]:.1f}" for n in names)] for r in rows]
    head = "Milliseconds a step as batch size and width grow:"
    return _table(head, ["width", "batch", *names], cells)


def _data(values: dict[str, Any]) -> str:
    epoch, whitening, peak = values["epoch_s"], values["whitening_s"], values["peak_mb"]
    cells = [
        ["an epoch of batches, DataLoader", f"{epoch['dataloader']:.2f} s"],
        ["an epoch of batches, wnlib", f"{epoch['wnlib']:.2f} s"],
        ["whitening: fitted", f"{whitening['fit']:.1f} s"],
        ["whitening: applied", f"{whitening['apply']:.1f} s"],
        ["from the command to the end of the first step", f"{values['first_step_s']:.1f} s"],
        ["peak memory", "unknown" if peak is None else f"{peak:.0f} MB"],
    ]
    width = max(len(label) for label, _ in cells)
    lines = [f"{label:<{width}}{value:>10}" for label, value in cells]
    return "\n".join(["Around the steps:", "", *lines])


def _profile(rows: list[dict[str, Any]]) -> str:
    groups = list(next(iter(rows[0]["configurations"].values()))["ms"])
    cells = []
    for row in rows:
        for name, each in row["configurations"].items():
            over = each["over_convolution"]
            times = [f"{each['ms'][group]:.1f}" for group in groups]
            last = "-" if over is None else f"{over:.2f}"
            cells.append([row["width"], name, *times, f"{each['step_ms']:.1f}", last])
    head = (
        "Milliseconds by what takes them, under the profiler; a step without it, over its own "
        "convolutions:"
    )
    return _table(head, ["width", "", *groups, "step", "over"], cells)


def _table(head: str, names: list[str], cells: Iterable[list[Any]]) -> str:
    rows = [names, *([str(cell) for cell in row] for row in cells)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{c:>{w}}" for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([head, "", *lines])


_TEXTS = {
    "steps": _steps,
    "configurations": _configurations,
    "growth": _growth,
    "data": _data,
    "profile": _profile,
}
