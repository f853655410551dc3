"""Weight normalization, as derived in the book: everything public is listed here."""

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wnlib.data import load_cifar10
from wnlib.init import data_dependent_init
from wnlib.layers import MeanOnlyBatchNorm, Norm, weight_norm
from wnlib.model import ConvPoolCNNC
from wnlib.recipe import Recipe
from wnlib.runs import Run, load_runs
from wnlib.train import train

if TYPE_CHECKING:
    from wnlib.plots import plot_running_time, plot_test_error, plot_training_loss, table
    from wnlib.widgets import (
        Activations,
        BatchNoise,
        ConvolutionArithmetic,
        Curvature,
        FiveCurves,
        Geometry,
        Initialization,
        Smoothing,
        Whitening,
    )

__all__ = [
    "Activations",
    "BatchNoise",
    "ConvPoolCNNC",
    "ConvolutionArithmetic",
    "Curvature",
    "FiveCurves",
    "Geometry",
    "Initialization",
    "MeanOnlyBatchNorm",
    "Norm",
    "Recipe",
    "Run",
    "Smoothing",
    "Whitening",
    "data_dependent_init",
    "load_cifar10",
    "load_runs",
    "plot_running_time",
    "plot_test_error",
    "plot_training_loss",
    "table",
    "train",
    "weight_norm",
]


# Imported when they are first used: matplotlib and the widgets take longer than all of wnlib.
_PLOTS = ("plot_running_time", "plot_test_error", "plot_training_loss", "table")
_WIDGETS = (
    "Activations",
    "BatchNoise",
    "ConvolutionArithmetic",
    "Curvature",
    "FiveCurves",
    "Geometry",
    "Initialization",
    "Smoothing",
    "Whitening",
)


def __getattr__(name: str) -> Any:
    for names, home in ((_PLOTS, "wnlib.plots"), (_WIDGETS, "wnlib.widgets")):
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'wnlib' has no attribute {name!r}")
