"""Timing what is compared in turns, so that a slow spell of the machine hits all of it."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from wnlib.data import Cifar10
from wnlib.graph import WARM_UP, Steps
from wnlib.inputs import symmetric
from wnlib.recipe import Recipe
from wnlib.train import build_optimizer, keep_memory

Say = Callable[[str], None]


def inputs(data: Cifar10, device: torch.device) -> tuple[Tensor, Tensor]:
    """Training images (N, 3, 32, 32), channels last, and labels (N,), for steps to be timed on.

    Not whitened, which no step's time depends on, and at most 10,000.
    """
    images = symmetric(data.train_images[:10_000])
    images = images.to(device, memory_format=torch.channels_last)
    return images, data.train_labels[:10_000].to(device)


def steps(model: nn.Module, recipe: Recipe, images: Tensor, labels: Tensor) -> Iterator[None]:
    """Training steps as `wnlib.train` takes them, one a `next`, on the images' device."""
    keep_memory()
    device = images.device
    model = model.to(device, memory_format=torch.channels_last).train()
    optimizer = build_optimizer(recipe, model)
    scaler = torch.amp.GradScaler(device.type, enabled=False)
    take_step = Steps(model, optimizer, scaler)
    batch = min(recipe.batch_size, len(images))
    if take_step.plain is None:
        for _ in range(WARM_UP + 1):  # the last is a graph's
            take_step(images[:batch], labels[:batch])
    whole = len(images) // batch * batch
    while True:
        for chosen in torch.randperm(len(images), device=device)[:whole].split(batch):
            take_step(images[chosen], labels[chosen])
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
