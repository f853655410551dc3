"""What one does with wnlib: record runs, resume them, compare them, estimate them."""

from wnlib.lab.estimates import estimate
from wnlib.lab.fetch import fetch_cifar10
from wnlib.lab.records import Run, load_runs, record, record_epochs

__all__ = ["Run", "estimate", "fetch_cifar10", "load_runs", "record", "record_epochs"]
