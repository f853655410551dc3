"""Recorded training runs, each a folder: save, load, summarize, smooth, compare.

``run.json`` says what was run, on what, and how it ended; ``history.csv`` has one row an epoch.
Errors are fractions, losses mean cross-entropies in nats, times seconds.
"""

import csv
import dataclasses
import json
import math
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from reprlib import repr as short
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from wnlib.layers import Norm
from wnlib.training import Recipe, Row, State

SCHEMA = 1
HEADER = ",".join(Row._fields)

# Test errors on CIFAR-10 without augmentation: Table 1 of the paper, and the report's table, which
# lists each run's best epoch on the test set (tests compare it with the recorded curves).
PAPER = dict(zip(Norm, (0.0843, 0.0846, 0.0852, 0.0805, 0.0731), strict=True))
REPORT = dict(zip(Norm, (0.1904, 0.1788, 0.1921, 0.1917, 0.1833), strict=True))


_PAPER = Recipe.paper(Norm.WN)


class RunError(RuntimeError):
    """A record cannot be read, written or gone on with; one line says why and what to do."""


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
        state: how it stands after its last row.
        source: "wnlib", or who else recorded it.
        provenance: data, device, versions, commit, wall seconds: what `run.json` holds besides.
    """

    recipe: Recipe
    rows: list[Row] = field(default_factory=list)
    state: State = State.INTERRUPTED
    source: str = "wnlib"
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def norm(self) -> Norm:
        """The configuration."""
        return self.recipe.norm

    @property
    def outcome(self) -> str:
        """In words, "finished", "interrupted" or "diverged at epoch k"."""
        diverged = self.state == State.DIVERGED
        return f"diverged at epoch {len(self.rows)}" if diverged else str(self.state)

    def __repr__(self) -> str:
        return f"Run({self.source}, {self.norm}, {len(self.rows)} epochs, {self.outcome})"

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
        table = StringIO(newline="")
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(Row._fields)
        for row in self.rows:
            writer.writerow("" if isinstance(v, float) and math.isnan(v) else v for v in row)
        content = {
            "schema": SCHEMA,
            "source": self.source,
            "state": self.outcome,
            "recipe": dataclasses.asdict(self.recipe),
            **self.provenance,
        }
        # The history first: killed in between, a run has an epoch more, and is interrupted still.
        write_whole(Path(folder) / "history.csv", table.getvalue().encode())
        write_whole(Path(folder) / "run.json", (json.dumps(content, indent=1) + "\n").encode())

    @classmethod
    def load(cls, folder: Path | str) -> "Run":
        """Read a run's folder.

        Raises:
            RunError: a file is missing, damaged, or of another schema, or they contradict each
                other.
        """
        path = Path(folder) / "run.json"
        try:
            content = json.loads(_read(path))
        except ValueError as error:
            raise RunError(f"{path} cannot be read: {error}") from None
        schema = content.pop("schema", None) if isinstance(content, dict) else None
        if type(schema) is not int or schema != SCHEMA:
            raise RunError(f"{path} has schema {short(schema)}; this wnlib reads {SCHEMA}")
        try:
            run = cls(_recipe(content.pop("recipe")))
            outcome, run.source = content.pop("state"), content.pop("source")
            if not (isinstance(run.source, str) and run.source.isprintable() and run.source):
                raise ValueError(f"source is a short name, not {short(run.source)}")
            data, wall = content.get("data", {}), content.get("wall_seconds", 0)
            if not (isinstance(data, dict) and isinstance(data.get("digest", ""), str)):
                raise ValueError(f"data has a name and a digest, not {short(data)}")
            if type(wall) not in (int, float) or not 0 <= wall < math.inf:
                raise ValueError(f"wall_seconds is a number from 0 up, not {short(wall)}")
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path} is damaged: {error}") from None
        run.rows, run.provenance = _rows(Path(folder) / "history.csv"), content
        # A run may stand where its rows allow it, and the words are those that `outcome` has.
        epochs, whole = len(run.rows), run.recipe.epochs
        allowed = {State.INTERRUPTED: epochs <= whole, State.FINISHED: epochs == whole}
        allowed[State.DIVERGED] = 0 < epochs <= whole
        for run.state in (state for state, may in allowed.items() if may):
            if run.outcome == outcome:
                return run
        raise RunError(
            f"{path} says {short(outcome)}, but history.csv has {epochs} of {whole} epochs"
        )


def _recipe(values: dict[str, Any]) -> Recipe:
    """From JSON, where a number may have come as text."""
    for name in dict(values).keys() & vars(_PAPER).keys() - {"norm"}:
        value, kind = values[name], type(getattr(_PAPER, name))
        if type(value) is not kind and (type(value), kind) != (int, float):
            raise ValueError(f"{name} is of type {kind.__name__}, not {short(value)}")
    return Recipe(**values)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old one or the new one, even through a power cut.

    Raises:
        RunError: it cannot be written; the old one is as it was.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise RunError(f"{path.parent} cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RunError(f"{path} is missing: {path.parent} holds no run") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None


def _rows(path: Path) -> list[Row]:
    text = _read(path)
    header, *lines = text.removesuffix("\n").split("\n")
    if header != HEADER:
        raise RunError(f"{path} does not begin with {HEADER}")
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            epoch, *values = line.split(",")
            row = Row(int(epoch), *(float(v) if v else math.nan for v in values))
            errors, others = (row.train_error, row.test_error), row[1:]
            if any(e > 1 for e in errors) or any(v < 0 for v in others) or row.epoch != number:
                raise ValueError
        except (TypeError, ValueError):
            raise RunError(f"{path}, line {number + 1} is damaged: {line[:80]!r}") from None
        rows.append(row)
    if not text.endswith("\n"):
        raise RunError(f"{path} is cut off in line {len(lines) + 1}")
    return rows


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


def smooth(values: ArrayLike, window: int = 51, degree: int = 10) -> np.ndarray:
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
    raw = np.asarray(values, float)
    smoothed = np.full(len(raw), np.nan)
    known = np.flatnonzero(np.isfinite(raw))
    for at in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1):
        if len(at):
            width = min(window, len(at) - (len(at) % 2 == 0))
            smoothed[at] = savgol_filter(raw[at], width, min(degree, width - 1))
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
                "state": run and run.outcome,
            }
        )
    return table
