"""Where the time of a training step goes, by the kernels that take it."""

import os
import re
import statistics
import time
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile

from wnlib.data import Cifar10
from wnlib.lab.bench.timing import Say, inputs, ratio, steps, wait
from wnlib.layers import Norm
from wnlib.recipe import Recipe
from wnlib.train import build

# What a group holds, by its operators' names; the first group that fits takes an operator.
GROUPS = {
    "convolution": r"conv",  # forward and backward, with the bias
    # Batch norm; the sums and shifts of mean-only BN; of w = g v / ‖v‖ all but the products.
    "normalization": r"batch_norm|bmm|vector_norm|_Centre|_Scaled",
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
            with torch_profile(activities=activities) as watched:
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
        if event.device_type != DeviceType.CPU:
            continue  # a kernel on the GPU, whose time its operator has too
        cuda = device.type == "cuda"
        self_time = event.self_device_time_total if cuda else event.self_cpu_time_total
        milliseconds[group_of(event.key)] += self_time / 1e3
    return milliseconds
