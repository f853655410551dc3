"""What one does with wnlib: record runs, resume them, compare them, estimate them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wnlib.lab.checkup import check
    from wnlib.lab.fetch import fetch_cifar10
    from wnlib.lab.forecast import estimate
    from wnlib.lab.resume import record, record_epochs, record_in_turns
    from wnlib.lab.runs import Run, load_runs

__all__ = [
    "Run",
    "check",
    "estimate",
    "fetch_cifar10",
    "load_runs",
    "record",
    "record_epochs",
    "record_in_turns",
]

_HOMES = {"Run": "runs", "load_runs": "runs", "record": "resume", "record_epochs": "resume"}
_HOMES |= {"record_in_turns": "resume", "check": "checkup", "estimate": "forecast"}
_HOMES |= {"fetch_cifar10": "fetch"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'wnlib.lab' has no attribute {name!r}")
    return getattr(import_module(f"wnlib.lab.{_HOMES[name]}"), name)
