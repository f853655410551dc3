"""Recorded grids as figures, tables and gaps; the four chapters share them.

Color is the normalization, as in all of the book; the dash is the start.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from beyond import record, record_games
from beyond.training import MODELS
from figures import Frames, Rates
from figures.frames import Film
from figures.plots import COLORS, Gain, Plot, Table, forest
from figures.rates import Comparison, Line
from wnlib import Norm

DOTS, DASHES = "2 3", "7 4"
# Of DRAW and the VAE: normalization and dash of each start.
LOOKS = {
    "small": (Norm.NONE, DOTS),
    "default": (Norm.NONE, DASHES),
    "unit": (Norm.NONE, ""),
    "wn-small": (Norm.WN, DOTS),
    "wn-unit": (Norm.WN, ""),
    "plain": (Norm.NONE, DASHES),
    "plain-init": (Norm.NONE, ""),
    "wn-init": (Norm.WN, ""),
}
GRAYS = ["#" + 3 * f"{17 * v:02x}" for v in range(16)]


class Grid(NamedTuple):
    """What is recorded of one experiment, in one form for all four.

    Attributes:
        x: updates or frames of a row.
        curves: by set-up and rate, a curve for each seed, seeds in order.
        names: of the set-ups.
        lower: whether lower is better.
    """

    x: list[float]
    curves: dict[str, dict[float, list[list[float]]]]
    names: dict[str, str]
    lower: bool

    def ends(self, key: str, rate: float) -> np.ndarray:
        """Where the curves of each seed end."""
        return np.array([curve[-1] for curve in self.curves[key][rate]])

    def mean(self, key: str, rate: float) -> float:
        return float(self.ends(key, rate).mean())

    def best(self, *keys: str) -> tuple[str, float]:
        """Of these set-ups and their rates, those with the best mean."""
        sign = 1 if self.lower else -1
        pairs = [(k, rate) for k in keys for rate in self.curves[k]]
        return min(pairs, key=lambda pair: sign * self.mean(*pair))

    def gain(
        self, of: tuple[str, float], over: tuple[str, float]
    ) -> tuple[float, float]:
        """How much better one ends than another, and half the width of
        its interval over seeds, infinite if there is one seed."""
        sign = -1 if self.lower else 1
        gains = sign * (self.ends(*of) - self.ends(*over))
        return record_games.paired(gains.tolist())

    @property
    def seeds(self) -> int:
        """Of each set-up and rate; the same everywhere."""
        [n] = {len(s) for r in self.curves.values() for s in r.values()}
        return n


def grid(name: str) -> Grid:
    """The recorded runs of one of the four chapters, or of self-play."""
    if name in MODELS:
        return _generative(name)
    runs = record_games.load(name)
    column, steps, times = {
        "policy": ("accuracy", "update", 100),
        "selfplay": ("score", "games", 100),
        "dqn": ("mean_return", "frames", 1),
    }[name]
    curves: dict[str, dict[float, list]] = {}
    for run in sorted(runs, key=lambda run: run["seed"]):
        key = "-".join(run[k] for k in ("norm", "start") if k in run)
        values = [times * row[column] for row in run["rows"]]
        rates = curves.setdefault(key, {})
        rates.setdefault(run["rate"], []).append(values)
    names = {
        key: Norm(key.split("-")[0]).label
        + {"small": ", small start", "unit": ", unit start"}.get(
            key.partition("-")[2], ""
        )
        for key in curves
    }
    x = [row[steps] for row in runs[0]["rows"]]
    order = [
        *("-".join(pair) for pair in record_games.POLICY),
        "none",
        "wn",
    ]
    curves = {key: curves[key] for key in order if key in curves}
    return Grid(x, _sorted(curves), names, lower=False)


def _generative(name: str) -> Grid:
    records = record.load_grid(name)
    longest = max((r.rows for r in records), key=len)
    curves: dict[str, dict[float, list]] = {}
    for start in MODELS[name].STARTS:
        for r in (r for r in records if r.plan.start == start):
            y = [row.test_bound for row in r.rows]
            y += [float("nan")] * (len(longest) - len(y))
            rates = curves.setdefault(start, {})
            rates.setdefault(r.plan.lr, []).append(y)
    x = [float(row.update) for row in longest]
    return Grid(x, _sorted(curves), MODELS[name].STARTS, lower=True)


def _sorted(curves):
    return {k: dict(sorted(rates.items())) for k, rates in curves.items()}


def figure(
    of: Grid,
    comparisons: dict[str, tuple],
    *,
    names: tuple[str, str],
    span: tuple[float, float],
    **more,
) -> Rates:
    """The grid to play with; comparisons: key to (label, set-ups, best)."""
    keys = list(of.curves)
    lines = [
        Line(of.names[k], *_look(k, of.lower), runs)
        for k, runs in of.curves.items()
    ]
    offered = {
        key: Comparison(label, [keys.index(k) for k in chosen], best)
        for key, (label, chosen, best) in comparisons.items()
    }
    return Rates(
        of.x, lines, offered, lower=of.lower, names=names, span=span, **more
    )


def _look(key: str, generative: bool) -> tuple[str, str]:
    if generative:
        norm, dash = LOOKS[key]
    else:
        norm, _, start = key.partition("-")
        dash = {"small": DASHES, "unit": DOTS}.get(start, "")
    return COLORS[Norm(norm)], dash


def table(of: Grid, unit: str, digits: int = 1) -> Table:
    """Where each set-up ends, by rate: the mean over seeds."""
    rates = sorted({rate for found in of.curves.values() for rate in found})

    def cell(value: float) -> str:
        return f"{value:,.{digits if value < 1000 else 0}f}"

    rows = [
        (of.names[key], *(cell(of.mean(key, rate)) for rate in rates))
        for key in of.curves
    ]
    return Table((unit, *(f"rate {rate:g}" for rate in rates)), rows)


def gains(
    of: Grid, unit: str, pairs: dict[str, tuple], digits: int = 1
) -> Plot:
    """What weight norm gains, by comparison, with its intervals.

    pairs: label to (set-up, rate) of weight norm and of the other.
    """
    rows = []
    for label, pair in pairs.items():
        gain, half = of.gain(*pair)
        rows.append(Gain(label, gain, gain - half, gain + half))
    title = f"What weight norm gains ({of.seeds} seeds)"
    return forest(rows, title=title, xlabel=unit, digits=digits)


def canvases(lr: float, starts: tuple[str, ...]) -> Frames:
    """What DRAW paints at a rate, step by step: three test images and
    three digits of its own, six tiles beside each other a step."""
    films = {}
    for start in starts:
        sheet = _sheet("draw", start, lr)
        tiles = sheet.reshape(6, 28, 9, 28).transpose(2, 1, 0, 3)
        frames = tiles[1:].reshape(8, 28, 6 * 28)
        notes = [f"canvas after step {t + 1} of 8" for t in range(8)]
        films[start] = Film(MODELS["draw"].STARTS[start], frames, notes)
    return Frames(
        films,
        GRAYS,
        name="Step",
        alt="Six canvases: three that redraw test images, three invented.",
        height=150,
        frame=7,
        title="Step through: whose canvas becomes digits?",
        caption="The first three redraw a test image each, the last three "
        f"are the network's own. After 240 updates at a rate of {lr:g}.",
    )


def invented(rates: tuple[float, ...], starts: tuple[str, ...]) -> Frames:
    """What the VAE makes up, two rows of six, a frame a rate."""
    films = {}
    for start in starts:
        sheets = [_sheet("vae", start, lr) for lr in rates]
        frames = np.stack([s[: 2 * 28, : 6 * 28] for s in sheets])
        notes = [f"learning rate {lr:g}" for lr in rates]
        films[start] = Film(MODELS["vae"].STARTS[start], frames, notes)
    return Frames(
        films,
        GRAYS,
        name="Rate",
        alt="Twelve images that a network made up.",
        height=200,
        title="Raise the rate: which network still writes?",
        caption="Twelve images that each network made up after 180 "
        "updates, from the same latents.",
    )


def _sheet(model: str, start: str, lr: float) -> np.ndarray:
    """The recorded picture of seed 0, in 16 grays."""
    folder = Path(record.HERE.parent / "runs" / f"beyond-{model}")
    path = folder / start / f"lr{lr:g}" / "seed0" / "samples.png"
    return np.asarray(Image.open(path)) // 16
