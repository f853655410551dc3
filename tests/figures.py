"""One of each figure, as the book makes them: what tests with and without a browser go through."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from torch import Tensor

from wnlib.data import load_cifar10
from wnlib.lab import figures as widgets
from wnlib.lab import load_runs
from wnlib.lab.figures.base import Figure

RUNS = Path(__file__).parent.parent / "book" / "runs"


def pixels() -> Tensor:
    """Some numbers of each training image, (2000, 16)."""
    return load_cifar10().train_images[:, 0, ::8, ::8].flatten(1)


FIGURES: dict[str, Callable[[], Figure]] = {
    "Activations": widgets.Activations,
    "BatchNoise": lambda: widgets.BatchNoise(pixels(), source="gauss"),
    "ConvolutionArithmetic": widgets.ConvolutionArithmetic,
    "Curvature": widgets.Curvature,
    "FiveCurves": lambda: widgets.FiveCurves(load_runs(RUNS / "report-2019")),
    "Geometry": widgets.Geometry,
    "Initialization": lambda: widgets.Initialization(load_cifar10()),
    "Smoothing": lambda: widgets.Smoothing(load_runs(RUNS / "report-2019"), norm="mobn"),
    "Whitening": lambda: widgets.Whitening(load_cifar10()),
}


@cache
def made(name: str) -> Figure:
    """One of them, to be looked at and left as it is: some take seconds to make."""
    return FIGURES[name]()
