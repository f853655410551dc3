"""How long training takes on the device that is there: an estimate from a few steps."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from wnlib.data import Cifar10, load_cifar10
from wnlib.inputs import symmetric
from wnlib.lab.records import provenance
from wnlib.layers import Norm
from wnlib.training import Recipe, Training, find_device, layout


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
        chosen = torch.randint(len(images), [recipe.batch_size], device=images.device)
        training.step(images[chosen], labels[chosen])
        yield


def seconds_of(way: Iterator[None], device: torch.device, count: int) -> float:
    """Seconds a step takes, over so many."""
    wait = getattr(torch, device.type).synchronize  # until the device has done what it was given
    wait()
    start = time.perf_counter()
    for _ in range(count):
        next(way)
    wait()
    return (time.perf_counter() - start) / count


def estimate(recipe: Recipe, data: Cifar10, device: str = "auto") -> Estimate:
    """Time about twenty steps on this very device, and say how long the five runs will take.

    Args:
        recipe: width, batch size and epochs count; each configuration has its run.
        data: its number of images counts.
        device: "auto", "cpu", "cuda" or "mps"; "auto" takes a GPU if there is one.

    Raises:
        ValueError: no such device.
    """
    where = find_device(device)
    sample, batch = load_cifar10(), min(recipe.batch_size, 2000)
    images = symmetric(sample.train_images).to(where, memory_format=layout(where))
    labels = sample.train_labels.to(where)
    warm, count = (2, 4) if where.type == "cpu" else (5, 20)
    taken = []
    with torch.random.fork_rng([torch.cuda.current_device()] if where.type == "cuda" else []):
        for norm in Norm:
            each = Recipe.paper(norm).replace(width=recipe.width, batch_size=batch)
            way = steps(each, images, labels)
            seconds_of(way, where, warm)
            taken.append(seconds_of(way, where, count))
    # To test an image takes a forward pass, which is about a third of what a step does with it.
    counted = len(data.train_images) + len(data.test_images) / 3
    how, trained = provenance(sample, where), len(data.train_images)
    return Estimate(
        f"{how['device']}, {how['precision']}",
        1e3 * sum(taken) / len(taken),
        sum(taken) * counted / batch * recipe.epochs / 3600,
        f"{len(taken)} runs of {recipe.epochs} epochs, width {recipe.width}, on {trained:,} images",
    )
