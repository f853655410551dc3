"""What one does with wnlib: record runs, resume them, compare them, estimate them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wnlib.lab.checkup import check
    from wnlib.lab.estimates import estimate
    from wnlib.lab.fetch import fetch_cifar10
    from wnlib.lab.records import Run, load_runs, record, record_epochs, record_in_turns

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

_HOMES = {"Run": "records", "load_runs": "records", "record": "records", "record_epochs": "records"}
_HOMES |= {"record_in_turns": "records", "check": "checkup", "estimate": "estimates"}
_HOMES |= {"fetch_cifar10": "fetch"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'wnlib.lab' has no attribute {name!r}")
    return getattr(import_module(f"wnlib.lab.{_HOMES[name]}"), name)
