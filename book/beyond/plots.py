"""Recorded grids as figures and tables."""

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from beyond.record import Record
from beyond.training import MODELS
from wnlib.lab.plots import Plot, Table

# Weight norm is drawn through, plain networks are broken; in both chapters.
LOOKS = {
    "small": ("#7f7f7f", ":", "o"),
    "default": ("#D55E00", "--", "s"),
    "unit": ("#009E73", "-.", "^"),
    "wn-small": ("#CC79A7", "-", "v"),
    "wn-unit": ("#2288CC", "-", "D"),
    "plain": ("#7f7f7f", ":", "o"),
    "plain-init": ("#009E73", "-.", "^"),
    "wn-init": ("#2288CC", "-", "D"),
}


def bounds(records: list[Record]) -> dict[str, dict[float, list[float]]]:
    """By start and rate: the final test bound of every seed, in nats."""
    found: dict[str, dict[float, list[float]]] = {}
    for r in records:
        rates = found.setdefault(r.plan.start, {})
        rates.setdefault(r.plan.lr, []).append(r.bound)
    return found


def best(records: list[Record]) -> dict[str, tuple[float, float]]:
    """By start: its best rate, and the mean bound there."""
    return {
        start: min(
            ((lr, float(np.mean(b))) for lr, b in rates.items()),
            key=lambda pair: pair[1],
        )
        for start, rates in bounds(records).items()
    }


def bound_table(records: list[Record]) -> Table:
    """Final test bound, the mean over seeds, start by rate."""
    found = bounds(records)
    names = MODELS[records[0].plan.model].STARTS
    rates = sorted({r.plan.lr for r in records})

    def cell(start: str, lr: float) -> str:
        mean = np.mean(found[start].get(lr, [np.nan]))
        if np.isnan(mean):
            return ""
        return f"{mean:.1f}" if np.isfinite(mean) else "diverged"

    rows = [
        (names[start], *(cell(start, lr) for lr in rates))
        for start in found
    ]
    return Table(("nats", *(f"rate {lr:g}" for lr in rates)), rows)


def bound_plot(records: list[Record], lr: float) -> Plot:
    """Left: bound against update at one rate. Right: against rate."""
    model = records[0].plan.model
    names, found = MODELS[model].STARTS, bounds(records)
    at_rate = [r for r in records if r.plan.lr == lr]
    finite = [b for f in found.values() for s in f.values() for b in s]
    low = min(finite)

    def draw(axes: np.ndarray) -> None:
        left, right = axes[0]
        for r in at_rate:
            colour, line, _ = LOOKS[r.plan.start]
            x, y = (
                [w.update for w in r.rows],
                [w.test_bound for w in r.rows],
            )
            left.plot(x, y, color=colour, linestyle=line, linewidth=1.6)
        left.set(title=f"at a rate of {lr:g}", xlabel="update")
        left.set(
            ylabel="bound of -log p(x), nats", ylim=(low - 5, low + 120)
        )
        for start, rates in found.items():
            _by_rate(right, start, rates, names[start])
        ticks = sorted({r.plan.lr for r in records})
        right.set(title="at the end", xlabel="learning rate", xscale="log")
        right.set_ylim(low - 5, low + 120)
        right.set_xticks(ticks, [f"{t:g}" for t in ticks])
        right.minorticks_off()
        right.legend(frameon=False, fontsize="small")

    best_of = best(records)
    text = "; ".join(
        f"{names[s]}: {b:.0f} at a rate of {r:g}"
        for s, (r, b) in best_of.items()
    )
    return Plot(
        draw,
        "Bound of the test images in nats, lower is better. Left: against "
        f"update, at a rate of {lr:g}, a line a run. Right: at the end, "
        f"against the learning rate. The best of each: {text}.",
        size=(8.5, 4.0),
        grid=(1, 2),
    )


def _by_rate(axes: Axes, start: str, rates: dict, label: str) -> None:
    colour, line, mark = LOOKS[start]
    x = sorted(rates)
    mean = [np.mean(rates[lr]) for lr in x]
    look = {"color": colour, "linestyle": line, "marker": mark}
    axes.plot(x, mean, label=label, **look)
    for lr in x:  # every seed
        seeds = rates[lr]
        axes.plot([lr] * len(seeds), seeds, "_", color=colour, alpha=0.6)


def picture(records: list[Record], titles: list[str], alt: str) -> Plot:
    """What networks of seed 0 painted at the end, side by side."""
    sheets = [
        np.asarray(Image.open(r.folder / "samples.png")) for r in records
    ]

    def draw(axes: np.ndarray) -> None:
        for ax, sheet, title in zip(axes.flat, sheets, titles, strict=True):
            ax.imshow(255 - sheet, cmap="gray", vmin=0, vmax=255)
            ax.set_title(title, fontsize="medium")
            ax.grid(False)
            ax.set(xticks=[], yticks=[])

    height, width = sheets[0].shape
    size = (8.5, 8.5 / len(records) * height / width + 0.5)
    return Plot(draw, alt, size=size, grid=(1, len(records)))
