"""Figures of recorded runs: the report's figures 10, 12, 13, 14 and its table, from any runs."""

import base64
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from PIL import Image
from wnlib.lab.records import PAPER, REPORT, Run
from wnlib.layers import Norm
from wnlib.training import State

Theme = Literal["light", "dark"]

# One color (Okabe and Ito's, told apart by color-blind readers; a lighter blue, for the dark) and
# one line style for each configuration, everywhere. All stand out at 3:1 or more from white, and at
# 4.5:1 from the dark page.
COLORS = dict(zip(Norm, ("#7f7f7f", "#2288CC", "#CC79A7", "#D55E00", "#009E73"), strict=True))
STYLES = dict(zip(Norm, ((0, (1, 1)), "-", "-.", "--", (0, (5, 1, 1, 1, 1, 1))), strict=True))
INK = {"light": "#1f2328", "dark": "#e6e6e6"}
PAPER_COLOR = {"light": "#ffffff", "dark": "#121212"}

# Shown in Jupyter, in Colab and on the page, each of which tells its theme in its own way.
_CSS = (
    ".wn-plot .wn-dark{display:none}"
    "html[data-theme=dark] .wn-plot .wn-dark,body[data-jp-theme-light=false] .wn-plot .wn-dark,"
    "html[theme=dark] .wn-plot .wn-dark{display:inline!important}"
    "html[data-theme=dark] .wn-plot .wn-light,body[data-jp-theme-light=false] .wn-plot .wn-light,"
    "html[theme=dark] .wn-plot .wn-light{display:none}"
)


@dataclass(frozen=True)
class Plot:
    """A figure that a notebook shows in the reader's theme, light or dark.

    Attributes:
        draw: draws on the axes it is given, or on the grid of axes, (rows, columns).
        alt: says what is seen, for those who don't see it.
        size: width and height in inches.
        grid: rows and columns of axes.
    """

    draw: Callable[[Any], None]
    alt: str
    size: tuple[float, float] = (7.0, 4.0)
    grid: tuple[int, int] = (1, 1)

    def __repr__(self) -> str:
        return f"Plot({self.alt!r})"

    def figure(self, theme: Theme = "light") -> Figure:
        """A new matplotlib figure, outside of pyplot's list."""
        with _theme(theme):
            figure = Figure(figsize=self.size, layout="constrained")
            axes = figure.subplots(*self.grid, squeeze=False)
            self.draw(axes[0, 0] if axes.size == 1 else axes)
            for each in axes.flat:
                each.spines[["top", "right"]].set_visible(False)
        return figure

    def save(self, path: Path | str, theme: Theme = "light", dpi: int = 144) -> None:
        """Write a picture, in the format that the path ends in."""
        with _theme(theme):
            self.figure(theme).savefig(path, dpi=dpi, metadata=_undated(Path(path).suffix))

    def _repr_html_(self) -> str:
        images = []
        for theme in ("light", "dark"):
            hidden = ' style="display:none"' if theme == "dark" else ""
            images.append(
                f'<img class="wn-{theme} only-{theme}" alt="{escape(self.alt)}" '
                f'src="data:image/png;base64,{_embed(self.figure(theme))}"{hidden}>'
            )
        return f'<style>{_CSS}</style><figure class="wn-plot">{"".join(images)}</figure>'


def _embed(figure: Figure) -> str:
    """A transparent PNG of few colors, in base64."""
    raw, small = BytesIO(), BytesIO()
    figure.savefig(raw, format="png", dpi=110, transparent=True)
    Image.open(raw).quantize(128, Image.Quantize.FASTOCTREE).save(small, "png", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def plot_training_loss(runs: Iterable[Run], title: str = "Training loss") -> Plot:
    """Training loss by epoch (the report's Figure 10)."""
    runs = _drawable(runs)

    def draw(axes: Axes) -> None:
        _curves(axes, runs, lambda run: run.column("train_loss"))
        _leave_out_divergence(axes, runs)
        axes.set(title=title, xlabel="epoch", ylabel="cross-entropy (nats)")

    return Plot(draw, _alt(title, "mean cross-entropy of each epoch", runs))


def plot_test_error(
    runs: Iterable[Run],
    title: str | None = None,
    *,
    smoothed: bool = False,
    window: int = 51,
    degree: int = 10,
) -> Plot:
    """Test error in percent by epoch, raw or smoothed (the report's Figures 12 and 13).

    Args:
        runs: what to draw.
        title: above the plot.
        smoothed: draw Savitzky-Golay over the faint raw curves.
        window: of the smoothing, in epochs, see `smooth`.
        degree: of its polynomial.
    """
    runs = _drawable(runs)
    title = title or ("Test error, smoothed" if smoothed else "Test error")

    def draw(axes: Axes) -> None:
        def raw(run: Run) -> np.ndarray:
            return 100 * run.column("test_error")

        if smoothed:
            _curves(axes, runs, raw, alpha=0.2, named=False)
            _curves(axes, runs, lambda run: smooth(raw(run), window, degree))
        else:
            _curves(axes, runs, raw)
        axes.set(title=title, xlabel="epoch", ylabel="test error (%)")

    return Plot(draw, _alt(title, "test error of each epoch", runs))


def plot_running_time(runs: Iterable[Run], title: str = "Running time") -> Plot:
    """Wall time of each run, in bars (the report's Figure 14)."""
    runs = _drawable(runs)

    def draw(axes: Axes) -> None:
        seconds = [run.summary().wall_seconds for run in runs]
        unit, name = (60, "minutes") if max(seconds, default=0) > 120 else (1, "seconds")
        names = [_name(run, runs) for run in runs]
        colors = [COLORS[run.norm] for run in runs]
        bars = axes.barh(range(len(runs)), [s / unit for s in seconds], color=colors)
        axes.bar_label(bars, fmt="%.1f", padding=3)
        axes.set_yticks(range(len(runs)), names)
        axes.invert_yaxis()
        axes.margins(x=0.1)
        axes.grid(visible=False)  # each bar has its number
        axes.set(title=title, xlabel=name)

    return Plot(draw, _alt(title, "wall time of each run", runs))


RIGHT = ' style="text-align:right"'  # for columns of numbers


@dataclass(frozen=True)
class Table:
    """Rows of text under a header; shown as HTML in a notebook, as columns in a terminal."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __repr__(self) -> str:
        lines = [self.header, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )

    def _repr_html_(self) -> str:
        columns = list(zip(*self.rows, strict=True)) or [()] * len(self.header)
        numbers = [any(c) and all(re.match(r"[-+]?\d|$", cell) for cell in c) for c in columns]

        def line(cells: Sequence[str], tags: Sequence[str]) -> str:
            each = zip(tags, numbers, cells, strict=True)
            return "".join(
                f"<{tag}{RIGHT * right}>{escape(cell)}</{tag[:2]}>" for tag, right, cell in each
            )

        others = len(self.header) - 1
        head = line(self.header, ['th scope="col"'] * (1 + others))
        body = [line(row, ['th scope="row"', *["td"] * others]) for row in self.rows]
        rows = "".join(f"<tr>{cells}</tr>" for cells in (head, *body))
        return f'<table class="wn-table">{rows}</table>'


def table(runs: Iterable[Run]) -> Table:
    """Test errors in percent: the report's, the paper's, and three readings of the runs'."""
    header = ("", "report", "paper", "best epoch", "final epoch", "mean of last 20", "state")

    def percent(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.2f}"

    rows = []
    for row in compare(runs):
        best = percent(row["best"]) + (f" ({row['best_epoch']})" if row["best_epoch"] else "")
        errors = (percent(row["report"]), percent(row["paper"]), best, percent(row["final"]))
        rows.append((row["label"], *errors, percent(row["last20"]), row["state"] or "no run"))
    return Table(header, rows)


def _drawable(runs: Iterable[Run]) -> list[Run]:
    return [run for run in runs if run.rows]


def _name(run: Run, runs: Sequence[Run]) -> str:
    """The configuration; with the source, where the runs come from several."""
    if len({other.source for other in runs}) == 1:
        return run.norm.label
    source = run.source.replace("$", r"\$")  # a name, whatever matplotlib would set as mathematics
    return f"{run.norm.label} ({source})"


def _curves(
    axes: Axes,
    runs: Sequence[Run],
    values: Callable[[Run], np.ndarray],
    alpha: float = 1.0,
    named: bool = True,
) -> None:
    sources = list(dict.fromkeys(run.source for run in runs))
    for run in runs:
        curve = values(run)
        axes.plot(
            run.column("epoch"),
            curve,
            color=COLORS[run.norm],
            linestyle=STYLES[run.norm],
            linewidth=1.0 if sources.index(run.source) else 1.6,
            # A line through one point is invisible.
            marker="o" if np.isfinite(curve).sum() == 1 else None,
            alpha=alpha,
            label=_name(run, runs) if named else None,
        )
    if not runs:
        axes.text(0.5, 0.5, "no runs to show", ha="center", transform=axes.transAxes)
    elif named:
        axes.legend(frameon=False)
        gone = filter(_diverged, runs)
        text = "\n".join(f"{run.norm.label}: {run.outcome}" for run in gone)
        axes.text(0.01, 0.01, text, transform=axes.transAxes, fontsize="small")


def _leave_out_divergence(axes: Axes, runs: Sequence[Run]) -> None:
    """Scale losses to the epochs after which a run went on, or was done: 1e30 flattens all else."""
    rows = [row for run in runs for row in (run.rows[:-1] if _diverged(run) else run.rows)]
    losses = [row.train_loss for row in rows if np.isfinite(row.train_loss)]
    if losses and any(map(_diverged, runs)):
        margin = 0.05 * (max(losses) - min(losses)) or 0.05
        axes.set_ylim(min(losses) - margin, max(losses) + margin)


def _diverged(run: Run) -> bool:
    return run.state is State.DIVERGED


def _alt(title: str, what: str, runs: Sequence[Run]) -> str:
    if not runs:
        return f"{title}: no runs to show."
    groups = groupby(runs, key=lambda run: run.source)
    named = "; ".join(f"{s}: {', '.join(r.norm.label for r in members)}" for s, members in groups)
    return f"{title}: {what}, for {named}."


def _undated(suffix: str) -> dict[str, None] | None:
    """Metadata that leaves out what changes from run to run."""
    return {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(
        suffix
    )


@contextmanager
def _theme(theme: Theme) -> Iterator[None]:
    ink = INK[theme]
    settings: dict[Any, Any] = {
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), ink),
        **dict.fromkeys(("xtick.color", "ytick.color", "legend.labelcolor"), ink),
        **dict.fromkeys(("figure.facecolor", "axes.facecolor"), PAPER_COLOR[theme]),
        "savefig.facecolor": PAPER_COLOR[theme],
        "axes.prop_cycle": cycler(color=list(COLORS.values())[1:]),
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": ink,
        "grid.alpha": 0.15,
        "svg.hashsalt": "wnlib",
    }
    with plt.rc_context(settings):
        yield


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
