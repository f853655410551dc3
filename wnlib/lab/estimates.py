"""How long training takes on the device that is there: an estimate from a few steps."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wnlib.data import Cifar10, load_cifar10
from wnlib.inputs import symmetric
from wnlib.lab.records import provenance
from wnlib.layers import Norm
from wnlib.training import Recipe, Training, build, evaluate, find_device, layout


@dataclass(frozen=True)
class Estimate:
    """What a few steps say about how long training takes here: an estimate, no record."""

    device: str  #: its name, and the precision that convolutions run in
    ms_per_step: float  #: milliseconds, mean of the configurations
    hours: float  #: that all the runs take, evaluation included
    what: str  #: the runs, in words

    def __repr__(self) -> str:
        minutes = max(1, round(60 * self.hours))
        duration = f"{self.hours:.1f} hours" if self.hours >= 1 else f"{minutes} min"
        return (
            f"{self.device}: {self.ms_per_step:.1f} ms per step. {self.what}: about {duration}, an "
            "estimate from a few steps on this device."
        )


def steps(recipe: Recipe, images: Tensor, labels: Tensor) -> Iterator[None]:
    """A new network's training steps, one a `next`: images (N, 3, 32, 32), labels (N,)."""
    training = Training(recipe, load_cifar10(), images.device.type)
    training.model.train()
    while True:
        for chosen in torch.randperm(len(images), device=images.device).split(recipe.batch_size):
            training.step(images[chosen], labels[chosen])
            yield


def seconds_of(way: Iterator[None], device: torch.device, count: int) -> float:
    """Seconds a step takes, over so many."""
    wait(device)
    start = time.perf_counter()
    for _ in range(count):
        next(way)
    wait(device)
    return (time.perf_counter() - start) / count


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def estimate(
    recipe: Recipe,
    norms: Sequence[Norm] = tuple(Norm),
    device: str = "auto",
    data: Cifar10 | None = None,
) -> Estimate:
    """Time about twenty steps on this very device, and say how long the runs will take.

    Args:
        recipe: width, batch size and epochs count; the configuration is that of `norms`.
        norms: the configurations, one run each.
        device: "auto", "cpu", "cuda" or "mps"; "auto" takes a GPU if there is one.
        data: its number of images counts; by default all of CIFAR-10.

    Raises:
        ValueError: no such device.
    """
    where = find_device(device)
    sample, batch = load_cifar10(), min(recipe.batch_size, 2000)
    images = symmetric(sample.train_images).to(where, memory_format=layout(where))
    labels = sample.train_labels.to(where)
    trained, tested = (len(data.train_images), len(data.test_images)) if data else (50_000, 10_000)
    warm, count = (2, 4) if where.type == "cpu" else (5, 20)
    taken, evaluated = [], []
    with torch.random.fork_rng([torch.cuda.current_device()] if where.type == "cuda" else []):
        for norm in norms:
            each = Recipe.paper(norm).replace(width=recipe.width, batch_size=batch)
            way = steps(each, images, labels)
            seconds_of(way, where, warm)
            taken.append(seconds_of(way, where, count))
            model = build(each).to(where)
            evaluate(model, images[:100], labels[:100])
            start = time.perf_counter()
            evaluate(model, images[:100], labels[:100])
            evaluated.append((time.perf_counter() - start) / 100)
    epoch = sum(taken) * (trained // batch) + sum(evaluated) * tested
    how, plural = provenance(sample, where), "s" * (len(norms) > 1)
    runs = f"{len(norms)} run{plural} of {recipe.epochs} epochs, width {recipe.width}"
    return Estimate(
        f"{how['device']}, {how['precision']}",
        1e3 * sum(taken) / len(norms),
        epoch * recipe.epochs / 3600,
        f"{runs}, on {trained:,} images",
    )
