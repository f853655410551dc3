"""What one does with wnlib: record runs, resume them, compare them, time them, draw them.

With it, a process keeps the memory that it frees, and whitenings are kept in the cache folder.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wnlib import inputs
from wnlib.lab.memory import keep_memory
from wnlib.lab.whitening import Whitenings

if TYPE_CHECKING:
    from wnlib.lab.fetch import fetch_cifar10
    from wnlib.lab.figures import (
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
    from wnlib.lab.plots import plot_running_time, plot_test_error, plot_training_loss, table
    from wnlib.lab.resume import record, record_epochs
    from wnlib.lab.runs import Run, load_runs

__all__ = [
    "Activations",
    "BatchNoise",
    "ConvolutionArithmetic",
    "Curvature",
    "FiveCurves",
    "Geometry",
    "Initialization",
    "Run",
    "Smoothing",
    "Whitening",
    "fetch_cifar10",
    "load_runs",
    "plot_running_time",
    "plot_test_error",
    "plot_training_loss",
    "record",
    "record_epochs",
    "table",
]

# Imported when they are first used: matplotlib and the widgets take longer than all of wnlib.
_HOMES = {"Run": "runs", "load_runs": "runs", "record": "resume", "record_epochs": "resume"}
_HOMES |= {"fetch_cifar10": "fetch", "table": "plots"}


inputs.fitted = Whitenings()
keep_memory()


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'wnlib.lab' has no attribute {name!r}")
    home = _HOMES.get(name) or ("plots" if name.startswith("plot_") else "figures")
    return getattr(import_module(f"wnlib.lab.{home}"), name)
