"""What one does with wnlib: record runs, resume them, compare them, time them, draw them.

With it, a process keeps the memory that it frees, whitenings are kept in the cache folder, and
cuDNN tries which of its convolutions is the fastest for shapes that come again, as minibatches do.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch

from wnlib import inputs
from wnlib.lab.memory import keep_memory
from wnlib.lab.whitening import Whitenings

if TYPE_CHECKING:
    from wnlib.lab.checkup import check
    from wnlib.lab.fetch import fetch_cifar10
    from wnlib.lab.figures import (
        Activations,
        BatchNoise,
        Connect4,
        ConvolutionArithmetic,
        Curvature,
        FiveCurves,
        Frames,
        Geometry,
        Initialization,
        Rates,
        Smoothing,
        Whitening,
    )
    from wnlib.lab.forecast import estimate
    from wnlib.lab.plots import plot_running_time, plot_test_error, plot_training_loss, table
    from wnlib.lab.resume import record, record_epochs, record_in_turns
    from wnlib.lab.runs import Run, load_runs

__all__ = [
    "Activations",
    "BatchNoise",
    "Connect4",
    "ConvolutionArithmetic",
    "Curvature",
    "FiveCurves",
    "Frames",
    "Geometry",
    "Initialization",
    "Rates",
    "Run",
    "Smoothing",
    "Whitening",
    "check",
    "estimate",
    "fetch_cifar10",
    "load_runs",
    "plot_running_time",
    "plot_test_error",
    "plot_training_loss",
    "record",
    "record_epochs",
    "record_in_turns",
    "table",
]

# Imported when they are first used: matplotlib and the widgets take longer than all of wnlib.
_HOMES = {"Run": "runs", "load_runs": "runs", "record": "resume", "record_epochs": "resume"}
_HOMES |= {"record_in_turns": "resume"}
_HOMES |= {"check": "checkup", "estimate": "forecast"}
_HOMES |= {"fetch_cifar10": "fetch", "table": "plots"}


inputs.fitted = Whitenings()
keep_memory()
torch.backends.cudnn.benchmark = True


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'wnlib.lab' has no attribute {name!r}")
    home = _HOMES.get(name) or ("plots" if name.startswith("plot_") else "figures")
    return getattr(import_module(f"wnlib.lab.{home}"), name)
