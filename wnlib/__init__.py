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

__all__ = [
    "ConvPoolCNNC",
    "MeanOnlyBatchNorm",
    "Norm",
    "Recipe",
    "Run",
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


def __getattr__(name: str) -> Any:
    # Plots are imported when they are first used: matplotlib takes longer than all of wnlib.
    if name in ("plot_running_time", "plot_test_error", "plot_training_loss", "table"):
        return getattr(import_module("wnlib.plots"), name)
    raise AttributeError(f"module 'wnlib' has no attribute {name!r}")
