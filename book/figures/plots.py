"""Still figures and tables: of recorded runs, of a few numbers, in the reader's theme."""

import base64
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from html import escape
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from PIL import Image
from scipy.signal import savgol_filter
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
        text: its numbers, a line each, for a terminal and the list of claims.
    """

    draw: Callable[[Any], None]
    alt: str
    size: tuple[float, float] = (7.0, 4.0)
    grid: tuple[int, int] = (1, 1)
    text: str = ""

    def __repr__(self) -> str:
        return self.text or f"Plot({self.alt!r})"

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
        """Write a PNG, the same bytes for the same figure."""
        with _theme(theme):
            self.figure(theme).savefig(path, format="png", dpi=dpi, metadata={"Software": None})

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


def plot_test_error(
    runs: Iterable[Run],
    title: str | None = None,
    *,
    smoothed: bool = False,
    window: int = 51,
    degree: int = 10,
    names: Sequence[str] | None = None,
) -> Plot:
    """Test error in percent by epoch, raw or smoothed (the report's Figures 12 and 13).

    Args:
        runs: what to draw.
        title: above the plot.
        smoothed: draw Savitzky-Golay over the faint raw curves.
        window: of the smoothing, in epochs, see `smooth`.
        degree: of its polynomial.
        names: of the runs, where two of one name are one curve; else configuration and source.
    """
    runs = list(runs)
    if names is not None:
        names = [_plain(name) for name, run in zip(names, runs, strict=True) if run.rows]
    runs = _drawable(runs)
    labels = names or [_name(run, runs) for run in runs]
    title = title or ("Test error, smoothed" if smoothed else "Test error")

    def draw(axes: Axes) -> None:
        def raw(run: Run) -> np.ndarray:
            return 100 * run.column("test_error")

        if smoothed:
            _curves(axes, runs, raw, alpha=0.2)
            _curves(axes, runs, lambda run: smooth(raw(run), window, degree), labels)
        else:
            _curves(axes, runs, raw, labels)
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
    """Rows of text under a header; shown as HTML in a notebook, as columns in a terminal.

    A column in which every text is empty or begins with a digit, a sign or "×" is set to the right.
    On a narrow page the table scrolls by itself.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    _: KW_ONLY
    caption: str = ""

    def __repr__(self) -> str:
        lines = [self.header, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        texts = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([*filter(None, [self.caption]), *texts])

    def _repr_html_(self) -> str:
        columns = list(zip(*self.rows, strict=True)) or [()] * len(self.header)
        numbers = [any(c) and all(re.match(r"[-+−×]?\d|×|$", cell) for cell in c) for c in columns]

        def line(cells: Sequence[str], tags: Sequence[str]) -> str:
            each = zip(tags, numbers, cells, strict=True)
            return "".join(
                f"<{tag}{RIGHT * right}>{escape(cell)}</{tag[:2]}>" for tag, right, cell in each
            )

        others = len(self.header) - 1
        head = line(self.header, ['th scope="col"'] * (1 + others))
        body = [line(row, ['th scope="row"', *["td"] * others]) for row in self.rows]
        rows = "".join(f"<tr>{cells}</tr>" for cells in (head, *body))
        caption = f"<caption>{escape(self.caption)}</caption>" if self.caption else ""
        return f'<table class="wn-table">{caption}{rows}</table>'


def table(runs: Iterable[Run]) -> Table:
    """Test errors in percent: the report's, the paper's, and three readings of the runs'."""
    header = ("", "report", "paper", "best epoch", "final epoch", "mean of last 20", "state")
    first: dict[Norm, Run] = {}
    for run in runs:
        first.setdefault(run.norm, run)
    rows = []
    for norm in Norm:
        cells = [f"{100 * REPORT[norm]:.2f}", f"{100 * PAPER[norm]:.2f}", "", "", "", "no run"]
        if (run := first.get(norm)) is not None and run.rows:
            s = run.summary()
            best, final, last = (100 * e for e in (s.best_error, s.final_error, s.last20_error))
            cells[2:5] = f"{best:.2f} ({s.best_epoch})", f"{final:.2f}", f"{last:.2f}"
        if run is not None:
            cells[5] = run.outcome
        rows.append((norm.label, *cells))
    return Table(header, rows)


class Checked:
    """That something holds, shown as a small "✓ checked" that leads to its claim.

    Args:
        what: holds, as a sentence.
        holds: whether it does; of an array, whether all of it does.
        claim: its number among the claims, such as "P2".

    Raises:
        AssertionError: it does not hold.
    """

    def __init__(self, what: str, holds: ArrayLike, claim: str = "") -> None:
        if not np.asarray(holds).all():  # of torch, too
            raise AssertionError(f"this does not hold: {what}")
        self.what, self.claim = what, claim

    def __repr__(self) -> str:
        return f"{self.what}: True"

    def _repr_html_(self) -> str:
        mark = "✓ checked"
        if self.claim:
            mark = f'<a href="claims.html#{escape(self.claim)}">{mark}</a>'
        return f'<small class="wn-checked">{mark}: {escape(self.what)}</small>'


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


def bump(
    runs: Iterable[Run],
    at: Sequence[int],
    title: str = "Order by epoch",
) -> Plot:
    """The order of the configurations at some epochs, the lowest on top.

    Args:
        runs: of several seeds the mean counts, while all of them run.
        at: epochs.
        title: above the plot.
    """
    runs = _drawable(runs)
    groups = {norm: [run for run in runs if run.norm == norm] for norm in Norm}

    def value(group: list[Run], epoch: int) -> float:
        there = [epoch <= len(run.rows) - _diverged(run) for run in group]
        if not group or not all(there):
            return np.nan
        return float(np.mean([run.column("test_error")[epoch - 1] for run in group]))

    norms = [norm for norm, group in groups.items() if group]
    values = np.array([[value(groups[norm], epoch) for epoch in at] for norm in norms])
    places = [
        [
            1 + (column < v).sum() if np.isfinite(v) else np.nan
            for v, column in zip(row, values.T, strict=True)
        ]
        for row in values
    ]
    order = [
        ", ".join(
            norms[k].label for k in np.argsort(column, kind="stable") if np.isfinite(column[k])
        )
        for column in values.T
    ]

    def draw(axes: Axes) -> None:
        x = np.arange(len(at))
        for norm, line in zip(norms, places, strict=True):
            look = {"color": COLORS[norm], "linestyle": STYLES[norm]}
            axes.plot(x, line, linewidth=2.5, **look)
            axes.plot(x, line, "o", markersize=9, color=COLORS[norm])
            last = np.flatnonzero(np.isfinite(line))
            if not len(last):
                continue
            end, gone = last[-1], last[-1] + 1 < len(at)
            text = f"  × {norm.label} diverged" if gone else f"  {norm.label}"
            axes.text(end + 0.12, line[end], text, va="center", color=COLORS[norm])
        axes.set_xticks(x, [str(epoch) for epoch in at])
        axes.set_yticks(range(1, len(norms) + 1))
        axes.set(title=title, xlabel="epoch", ylabel="place", ylim=(len(norms) + 0.5, 0.5))
        axes.set_xlim(-0.3, len(at) - 1 + 0.28 * len(at))
        axes.grid(visible=False)

    told = "; ".join(f"epoch {epoch}: {names}" for epoch, names in zip(at, order, strict=True))
    return Plot(draw, f"{title}, lowest first. {told}.", size=(7.0, 3.2))


def heat(
    values: ArrayLike | Mapping[str, ArrayLike],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    xlabel: str = "",
    digits: int = 2,
) -> Plot:
    """Numbers in a table of colored cells; several tables share one scale.

    Args:
        values: (rows, columns), or such by title; NaN is a run that diverged, shown as "×".
        rows: their names.
        columns: theirs.
        title: above all.
        xlabel: what the columns are.
        digits: after the point.
    """
    named = values if isinstance(values, Mapping) else {"": values}
    tables = {name: np.asarray(table, float) for name, table in named.items()}
    every = np.concatenate([table[np.isfinite(table)] for table in tables.values()])
    low, high = (every.min(initial=np.inf), every.max(initial=-np.inf))

    def draw(grid: Any) -> None:
        every_axes = np.atleast_2d(grid)[0]
        for axes, (name, cells) in zip(every_axes, tables.items(), strict=True):
            axes.imshow(cells, cmap="cividis", vmin=low, vmax=high, aspect="auto")
            for (i, j), v in np.ndenumerate(cells):
                known = np.isfinite(v)
                bright = known and (v - low) > 0.55 * (high - low)
                ink = {"color": "black" if bright else "white"} if known else {}
                axes.text(
                    j, i, f"{v:.{digits}f}" if known else "×", ha="center", va="center", **ink
                )
            axes.set_xticks(range(len(columns)), columns)
            axes.set_yticks(range(len(rows)), rows if axes is every_axes[0] else [""] * len(rows))
            axes.set(title=name, xlabel=xlabel)
            axes.grid(visible=False)
        every_axes[0].figure.suptitle(title)

    told = "; ".join(
        f"{f'{name}, ' if name else ''}{row}: "
        + ", ".join(
            f"{column} {f'{v:.{digits}f}' if np.isfinite(v) else 'diverged'}"
            for column, v in zip(columns, line, strict=True)
        )
        for name, cells in tables.items()
        for row, line in zip(rows, cells, strict=True)
    )
    height = 1.3 + 0.42 * len(rows)
    return Plot(draw, f"{title}. {told}.", size=(7.0, height), grid=(1, len(tables)))


def strip(
    groups: Mapping[Norm, Sequence[float]] | Mapping[str, Sequence[float]],
    *,
    title: str,
    xlabel: str,
) -> Plot:
    """A point per seed, and a line at each group's mean.

    Args:
        groups: values by configuration, or by a name that may begin with one's; NaN diverged.
        title: above the plot.
        xlabel: what the values are.
    """
    named = [
        (g.label if isinstance(g, Norm) else g, np.asarray(v, float)) for g, v in groups.items()
    ]
    colors = [
        next((COLORS[n] for n in Norm if name.startswith(n.label)), "C0") for name, _ in named
    ]

    def draw(axes: Axes) -> None:
        for y, ((_, values), color) in enumerate(zip(named, colors, strict=True)):
            known = values[np.isfinite(values)]
            axes.plot(known, np.full(len(known), y), "o", markersize=8, alpha=0.7, color=color)
            if len(known):
                axes.plot([known.mean()] * 2, [y - 0.3, y + 0.3], linewidth=2.5, color=color)
            if len(known) < len(values):
                text = f"× {len(values) - len(known)} of {len(values)} diverged"
                axes.text(1.02, y, text, transform=axes.get_yaxis_transform(), va="center")
        axes.set_yticks(range(len(named)), [name for name, _ in named])
        axes.set(title=title, xlabel=xlabel, ylim=(len(named) - 0.5, -0.5))

    def told(values: np.ndarray) -> str:
        return ", ".join(f"{v:.2f}" if np.isfinite(v) else "diverged" for v in values)

    alt = "; ".join(f"{name}: {told(values)}" for name, values in named)
    return Plot(draw, f"{title}, {xlabel}. {alt}.", size=(7.0, 1.2 + 0.42 * len(named)))


class Gain(NamedTuple):
    """How much better something is than what it is compared with; low and high bound it."""

    label: str
    gain: float
    low: float | None = None
    high: float | None = None
    group: str = ""


def forest(rows: Sequence[Gain], *, title: str, xlabel: str, digits: int = 1) -> Plot:
    """Gains beside a line at zero, with their intervals, if they have one, and in numbers.

    Args:
        rows: from above; those of one group stand together under its name.
        title: above the plot.
        xlabel: what a gain is measured in, and which side is better.
        digits: after the point.
    """

    def number(row: Gain) -> str:
        value = f"{row.gain:+.{digits}f}"
        if row.low is not None and row.high is not None:
            value += f" ({row.low:+.{digits}f} to {row.high:+.{digits}f})"
        return value.replace("-", "−")

    lines: list[Gain | str] = []
    for group, members in groupby(rows, key=lambda row: row.group):
        lines += [*([group] if group else []), *members]

    def draw(axes: Axes) -> None:
        axes.axvline(0, linewidth=1, alpha=0.6, color=plt.rcParams["text.color"])
        right = axes.get_yaxis_transform()
        for y, row in enumerate(lines):
            if isinstance(row, str):
                continue
            face = "none"
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [y, y], linewidth=2, color=COLORS[Norm.WN])
                face = COLORS[Norm.WN]
            axes.plot(row.gain, y, "o", markersize=7, mfc=face, mec=COLORS[Norm.WN])
            axes.text(1.02, y, number(row), transform=right, va="center", fontsize="small")
        labels = axes.set_yticks(
            range(len(lines)), [r if isinstance(r, str) else r.label for r in lines]
        )
        for tick, row in zip(labels, lines, strict=True):
            tick.label1.set_fontweight("bold" if isinstance(row, str) else "normal")
        axes.tick_params(axis="y", length=0)
        axes.set(title=title, xlabel=xlabel, ylim=(len(lines) - 0.4, -0.6))
        axes.grid(visible=False, axis="y")

    told = "; ".join(f"{f'{r.group}, ' if r.group else ''}{r.label}: {number(r)}" for r in rows)
    text = told.replace("; ", "\n").replace("−", "-")
    size = (7.0, 1.2 + 0.3 * len(lines))
    return Plot(draw, f"{title}, {xlabel}. {told}.", size, text=text)


def _drawable(runs: Iterable[Run]) -> list[Run]:
    return [run for run in runs if run.rows]


def _name(run: Run, runs: Sequence[Run]) -> str:
    """The configuration; with the source, where the runs come from several."""
    if len({other.source for other in runs}) == 1:
        return run.norm.label
    return _plain(f"{run.norm.label} ({run.source})")


def _plain(name: str) -> str:
    """A name, whatever matplotlib would set as mathematics."""
    return name.replace("$", r"\$")


def _curves(
    axes: Axes,
    runs: Sequence[Run],
    values: Callable[[Run], np.ndarray],
    names: Sequence[str] | None = None,
    alpha: float = 1.0,
) -> None:
    """A line per run; runs of one name, such as seeds, stand once in the legend. No names, none."""
    sources = list(dict.fromkeys(run.source for run in runs))
    seen: set[str] = set()
    for i, run in enumerate(runs):
        curve = values(run)
        again = names is not None and names[i] in seen
        axes.plot(
            run.column("epoch"),
            curve,
            color=COLORS[run.norm],
            linestyle=STYLES[run.norm],
            linewidth=1.0 if again or sources.index(run.source) else 1.6,
            # A line through one point is invisible.
            marker="o" if np.isfinite(curve).sum() == 1 else None,
            alpha=alpha,
            label=names[i] if names and not again else None,
        )
        seen.update(names[i : i + 1] if names else [])
    if not runs:
        axes.text(0.5, 0.5, "no runs to show", ha="center", transform=axes.transAxes)
    elif names:
        axes.legend(frameon=False)
        gone = [f"{n}: {r.outcome}" for n, r in zip(names, runs, strict=True) if _diverged(r)]
        text = "\n".join(dict.fromkeys(gone))
        axes.text(0.01, 0.01, text, transform=axes.transAxes, fontsize="small")


def _diverged(run: Run) -> bool:
    return run.state is State.DIVERGED


def _alt(title: str, what: str, runs: Sequence[Run]) -> str:
    if not runs:
        return f"{title}: no runs to show."
    groups = groupby(runs, key=lambda run: run.source)
    named = "; ".join(f"{s}: {', '.join(r.norm.label for r in members)}" for s, members in groups)
    return f"{title}: {what}, for {named}."


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
