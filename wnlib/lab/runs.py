"""Recorded training runs, each a folder: save, load, summarize, smooth, compare.

Errors are fractions, losses mean cross-entropies in nats, times seconds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wnlib.lab.record import Record, Row, RunError, read_record, write_record
from wnlib.layers import Norm
from wnlib.recipe import Recipe

# Test errors on CIFAR-10 without augmentation: Table 1 of the paper, and the report's table, which
# lists each run's best epoch on the test set (tests compare it with the recorded curves).
PAPER = dict(zip(Norm, (0.0843, 0.0846, 0.0852, 0.0805, 0.0731), strict=True))
REPORT = dict(zip(Norm, (0.1904, 0.1788, 0.1921, 0.1917, 0.1833), strict=True))


class Summary(NamedTuple):
    """The errors of one run, three ways: as people select them, and as they should be reported."""

    best_error: float  #: the lowest of any epoch
    best_epoch: int  #: its epoch
    final_error: float  #: after the last epoch
    last20_error: float  #: mean over the last 20 epochs, or all if fewer
    wall_seconds: float  #: of the whole run


@dataclass
class Run:
    """A recorded training run.

    Attributes:
        recipe: everything that defines it.
        rows: one an epoch, in order.
        state: "finished", "diverged at epoch k" or "interrupted".
        source: "wnlib", or who else recorded it.
        provenance: data, device, versions, commit, wall seconds: what `run.json` holds besides.
    """

    recipe: Recipe
    rows: list[Row] = field(default_factory=list)
    state: str = "interrupted"
    source: str = "wnlib"
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def norm(self) -> Norm:
        """The configuration."""
        return self.recipe.norm

    def __repr__(self) -> str:
        return f"Run({self.source}, {self.norm}, {len(self.rows)} epochs, {self.state})"

    def column(self, name: str) -> np.ndarray:
        """One column of the history, (epochs,)."""
        return np.array([getattr(row, name) for row in self.rows])

    def summary(self) -> Summary:
        """Best-epoch, final-epoch and mean-of-last-20 test errors.

        Raises:
            RunError: the run has no epoch.
        """
        if not self.rows:
            raise RunError(f"the {self.norm} run has no epoch to summarize")
        error = self.column("test_error")
        known = np.where(np.isfinite(error), error, 1.0)
        best = int(known.argmin())
        wall = self.provenance.get("wall_seconds")
        return Summary(
            best_error=float(error[best]),
            best_epoch=self.rows[best].epoch,
            final_error=float(error[-1]),
            last20_error=float(error[-20:].mean()),
            wall_seconds=float(np.nansum(self.column("seconds")) if wall is None else wall),
        )

    def save(self, folder: Path | str) -> None:
        """Write both files, each whole or not at all.

        Raises:
            RunError: the folder cannot be written.
        """
        record = Record(self.recipe, self.rows, self.state, self.source, self.provenance)
        write_record(Path(folder), record)

    @classmethod
    def load(cls, folder: Path | str) -> "Run":
        """Read a run's folder.

        Raises:
            RunError: a file is missing, damaged, or of another schema, or they contradict each
                other.
        """
        return cls(*read_record(Path(folder)))


def load_runs(folder: Path | str) -> list[Run]:
    """Every run below a folder, in the order of the configurations, then of their paths.

    Raises:
        RunError: there is none, or one is damaged.
    """
    paths = sorted(Path(folder).glob("**/run.json"))
    if not paths:
        raise RunError(f"no run in {folder}")
    order = list(Norm)
    return sorted((Run.load(p.parent) for p in paths), key=lambda run: order.index(run.norm))


def smooth(values: Sequence[float], window: int = 51, degree: int = 10) -> np.ndarray:
    """Savitzky-Golay: in a window that slides along, the value of a fitted polynomial.

    Args:
        values: (epochs,); each stretch of finite values is smoothed by itself.
        window: odd; cut to the largest odd number of values in the stretch. The report's is 51.
        degree: of the polynomial; cut to below the window. The report's is 10.

    Returns:
        (epochs,), NaN where the value is not finite. At both ends of a stretch the polynomial of
        its outermost window is read off, so the curve bends there.

    Raises:
        ValueError: a window that is even or below 1, or a negative degree.
    """
    from scipy.signal import savgol_filter  # slow to import

    if window < 1 or window % 2 == 0 or degree < 0:
        raise ValueError(f"window is odd and degree from 0 up, not {window} and {degree}")
    values = np.asarray(values, float)
    smoothed = np.full(len(values), np.nan)
    known = np.flatnonzero(np.isfinite(values))
    for at in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1):
        if len(at):
            width = min(window, len(at) - (len(at) % 2 == 0))
            smoothed[at] = savgol_filter(values[at], width, min(degree, width - 1))
    return smoothed


def compare(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """The report's and the paper's table beside the runs': one dictionary a configuration.

    Keys: norm, label, report, paper, and from each configuration's first run best, final, last20,
    best_epoch, epochs, wall_seconds and state, or None where there is no run.
    """
    first: dict[Norm, Run] = {}
    for run in runs:
        first.setdefault(run.norm, run)
    table = []
    for norm in Norm:
        run = first.get(norm)
        s = run.summary() if run and run.rows else None
        table.append(
            {
                "norm": str(norm),
                "label": norm.label,
                "report": REPORT[norm],
                "paper": PAPER[norm],
                "best": s and s.best_error,
                "final": s and s.final_error,
                "last20": s and s.last20_error,
                "best_epoch": s and s.best_epoch,
                "epochs": run and len(run.rows),
                "wall_seconds": s and s.wall_seconds,
                "state": run and run.state,
            }
        )
    return table
