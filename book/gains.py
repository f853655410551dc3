"""Every gain over a plain network that the book measured fairly.

Fairly: both sides may have the better start, and each has its best rate of
those that were tried.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import tukey_hsd

from beyond import plots, record_games
from wnlib import Norm
from wnlib.lab import load_runs
from wnlib.training import State

HERE = Path(__file__).parent
# Of each task: whose, its unit, and the starts of plain and other networks.
TASKS = {
    "draw": ("DRAW, MNIST", "nats", ("small", "default", "unit")),
    "vae": ("VAE, MNIST", "nats", ("plain", "plain-init")),
    "policy": ("Policy, Connect-4", "points", ("none-he", "none-small")),
    "dqn": ("Q-network, Breakout", "bricks", ("none",)),
}


class Fair(NamedTuple):
    """What a method gains in a task, with its 95 % interval.

    Positive is better; plain is what the plain network reaches, in the
    same unit.
    """

    task: str
    method: str
    gain: float
    low: float
    high: float
    unit: str
    plain: float


def fair():
    """All of them, a list of Fair."""
    return [*_cifar(), *_small_batches(), *_beyond(), _selfplay()]


def at_rate(rate):
    """Test errors in percent on CIFAR-10 of each norm, (3,) by seed.

    Width 24, 20 epochs; the plain network is the released one.
    """
    ends = {}
    for part in ("", "-seeds", "-frozen"):
        for run in load_runs(HERE / "runs" / f"width24-paper-20{part}"):
            divided = run.norm == Norm.NONE and part != "-frozen"
            if run.recipe.lr == rate and not divided:
                error = 100 * run.rows[-1].test_error
                ends.setdefault(run.norm, {})[run.recipe.seed] = error
    return {n: np.array([e[s] for s in sorted(e)]) for n, e in ends.items()}


def at_best_rates():
    """The same, each at its best of five rates (see chapter 6)."""
    return at_rate(0.001) | at_rate(0.003)


def at_whole_width():
    """The five at the paper's width, a run each: 40 epochs, seed 0.

    Of the rates that were tried for a network, it has the one at which it
    ends lowest on the test images; a run that diverged does not count.
    """
    ended = {}
    for part in ("", "-fair"):
        for run in load_runs(HERE / "runs" / f"width96-paper-40{part}"):
            if run.state == State.FINISHED:
                ended.setdefault(run.norm, []).append(run)
    return [
        min(ended[norm], key=lambda run: run.rows[-1].test_error)
        for norm in Norm
    ]


def _tukey(task, errors):
    """Over the first of these groups, by Tukey's test of all pairs."""
    (_, plain), *others = errors.items()
    interval = tukey_hsd(*errors.values()).confidence_interval()
    for k, (name, e) in enumerate(others, 1):
        ends = (
            plain.mean() - e.mean(),
            interval.low[0, k],
            interval.high[0, k],
        )
        yield Fair(task, name, *ends, "points", plain.mean())


def _cifar():
    ends = {norm.label: e for norm, e in at_best_rates().items()}
    return _tukey("CIFAR-10", ends)


def _small_batches():
    record = json.loads((HERE / "records/small-batches.json").read_text())
    ends = {
        row["method"]: 100 * np.array(row["test"])
        for row in record["rows"]
        if row["size"] == 2
    }
    return _tukey("Minibatches of two", ends)


def _beyond():
    for name, (task, unit, starts) in TASKS.items():
        grid = plots.grid(name)
        base = grid.best(*starts)
        others = {}
        for key in grid.curves:
            if key not in starts:
                others.setdefault(grid.names[key].split(",")[0], []).append(
                    key
                )
        for method, keys in others.items():
            gain, half = grid.gain(grid.best(*keys), base)
            ends = gain, gain - half, gain + half
            yield Fair(task, method, *ends, unit, grid.mean(*base))


def _selfplay():
    """Of a match at the larger rate; even is 50 points of 100."""
    scores = [
        50 - 100 * match["score"]
        for match in record_games.played()
        if match["pair"] == ["none-small", "wn-small"]
        and match["rate"] == max(record_games.SELFPLAY_RATES)
    ]
    gain, half = record_games.paired(scores)
    ends = gain, gain - half, gain + half
    return Fair("Self-play, a match", Norm.WN.label, *ends, "points", 50.0)
