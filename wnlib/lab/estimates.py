"""How long training takes on the device that is there: an estimate from a few steps."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from wnlib.data import Cifar10, load_cifar10
from wnlib.inputs import symmetric
from wnlib.lab.bench import peak_mb, steps, wait
from wnlib.lab.records import provenance
from wnlib.layers import Norm
from wnlib.training import Recipe, build, evaluate, find_device, layout


@dataclass(frozen=True)
class Estimate:
    """What a few steps say about how long training takes here: an estimate, no record."""

    card: str  #: the device's name
    precision: str  #: that convolutions run in
    ms_per_step: float  #: milliseconds, mean of the configurations
    images_per_second: float  #: in training, likewise
    hours: float  #: that all the runs take, evaluation included
    peak_mb: float | None  #: of the device's memory, or of this process's; None if unknown
    what: str  #: the runs, in words

    def __repr__(self) -> str:
        memory = "" if self.peak_mb is None else f", {self.peak_mb:.0f} MB at most"
        return (
            f"{self.card}, {self.precision}: {self.ms_per_step:.1f} ms a step, "
            f"{self.images_per_second:.0f} images a second{memory}. {self.what}: about "
            f"{_duration(self.hours)}, an estimate from a few steps on this device."
        )


def _duration(hours: float) -> str:
    minutes = max(1, round(60 * hours))
    return f"{hours:.1f} hours" if hours >= 1 else f"{minutes} minute{'s' * (minutes > 1)}"


@contextmanager
def generators_kept(device: torch.device) -> Iterator[None]:
    """torch's generators are after it as they were before."""
    modules = [torch] + [getattr(torch, device.type)] * (device.type != "cpu")
    theirs = [module.get_rng_state() for module in modules]
    try:
        yield
    finally:
        for module, state in zip(modules, theirs, strict=True):
            module.set_rng_state(state)


def estimate(
    recipe: Recipe,
    norms: Sequence[Norm] = tuple(Norm),
    device: str = "auto",
    *,
    data: Cifar10 | None = None,
    compiled: bool = False,
) -> Estimate:
    """Time about twenty steps on this very device, and say how long the runs will take.

    Args:
        recipe: width, batch size and epochs count; the configuration is that of `norms`.
        norms: the configurations, one run each.
        device: "auto", "cpu", "cuda" or "mps"; "auto" takes a GPU if there is one.
        data: its number of images counts; by default all of CIFAR-10.
        compiled: let torch compile the network.

    Raises:
        ValueError: no such device.
    """
    where = find_device(device)
    sample, batch = load_cifar10(), min(recipe.batch_size, 2000)
    images = symmetric(sample.train_images).to(where, memory_format=layout(where))
    labels = sample.train_labels.to(where)
    trained, tested = (len(data.train_images), len(data.test_images)) if data else (50_000, 10_000)
    warm, count = (2, 4) if where.type == "cpu" else (5, 20)
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    taken, evaluated = [], []
    with generators_kept(where):
        for norm in norms:
            each = Recipe.paper(norm).replace(width=recipe.width, batch_size=batch)
            model = build(each)
            stepping = steps(model, each, images, labels, compiled)
            for _ in range(warm):
                next(stepping)
            wait(where)
            start = time.perf_counter()
            for _ in range(count):
                next(stepping)
            wait(where)
            taken.append((time.perf_counter() - start) / count)
            for _ in range(2):  # the first warms up
                start = time.perf_counter()
                evaluate(model, images[:100], labels[:100])
            evaluated.append((time.perf_counter() - start) / 100)
    epoch = sum(taken) * (trained // batch) + sum(evaluated) * tested
    memory = torch.cuda.max_memory_allocated() / 1e6 if where.type == "cuda" else peak_mb()
    how = provenance(sample, where)
    runs = f"{len(norms)} run{'s' * (len(norms) > 1)} of {recipe.epochs} epochs, width "
    return Estimate(
        how["device"],
        how["precision"],
        1e3 * sum(taken) / len(norms),
        batch * len(norms) / sum(taken),
        epoch * recipe.epochs / 3600,
        memory,
        f"{runs}{recipe.width}, on {trained:,} images",
    )
