"""One of each figure, as the book makes them: what tests with and without a browser go through."""

from collections.abc import Callable
from pathlib import Path

from wnlib import load_runs, widgets
from wnlib.data import load_cifar10
from wnlib.widgets.base import Figure

RUNS = Path(__file__).parent.parent / "book" / "runs"

FIGURES: dict[str, Callable[[], Figure]] = {
    "Activations": widgets.Activations,
    "BatchNoise": widgets.BatchNoise,
    "ConvolutionArithmetic": widgets.ConvolutionArithmetic,
    "Curvature": widgets.Curvature,
    "FiveCurves": lambda: widgets.FiveCurves(load_runs(RUNS / "report-2019")),
    "Geometry": widgets.Geometry,
    "Smoothing": lambda: widgets.Smoothing(load_runs(RUNS / "report-2019"), norm="mobn"),
    "Whitening": lambda: widgets.Whitening(load_cifar10()),
}
