"""One of each figure, as the book makes them: what tests with and without a browser go through."""

import dataclasses
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import figures as widgets
import numpy as np
import torch
from figures import initialization
from figures.base import Figure
from figures.frames import Film
from figures.rates import Comparison, Line
from filelock import FileLock
from torch import Tensor

from wnlib.data import load_cifar10
from wnlib.inputs import ZCA
from wnlib.lab import load_runs

RUNS = Path(__file__).parent.parent / "book" / "runs"


def pixels() -> Tensor:
    """Some numbers of each training image, (2000, 16)."""
    return load_cifar10().train_images[:, 0, ::8, ::8].flatten(1)


def shared(name: str, find: Callable[[], Any]) -> Any:
    """What one of pytest's processes has found, for all of them: it takes seconds."""
    path = Path(os.environ["WNLIB_CACHE"]) / f"{name}.pt"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            torch.save(find(), path)
    return torch.load(path)


def measured() -> dict[str, Any]:
    """What the figure on initialization has measured, before it is rounded."""
    return shared("initialization", lambda: initialization.measure(load_cifar10()))


def initialized() -> widgets.Initialization:
    found = measured()
    with patch.object(initialization, "measure", return_value=found):
        return widgets.Initialization(load_cifar10())


def whitened() -> widgets.Whitening:
    data = load_cifar10()
    zca = ZCA(**shared("zca", lambda: dataclasses.asdict(ZCA.of(data))))
    with patch.object(ZCA, "of", return_value=zca):
        return widgets.Whitening(data)


def rates() -> widgets.Rates:
    """Two seeds of each of two set-ups at two rates, one of which diverges."""
    runs = {0.001: [[9.0, 7.0, 6.0], [9.0, 8.0, 7.0]], 0.01: [[9.0, 5.0, 4.0], [9.0, 6.0, 4.5]]}
    other = {0.001: [[9.0, 5.5, 5.0], [9.0, 5.0, 4.2]], 0.01: [[9.0, np.nan, np.nan]] * 2}
    lines = [Line("plain", "#7f7f7f", "7 4", runs), Line("weight norm", "#2288CC", "", other)]
    offered = {
        "one": Comparison("at one rate", (0, 1)),
        "best": Comparison("each at its best", (0, 1), best=True),
    }
    names = ("update", "bound (nats)")
    return widgets.Rates(
        (10, 20, 30), lines, offered, lower=True, names=names, span=(3, 10), level=(8, "chance")
    )


def frames() -> widgets.Frames:
    """A dot that goes across, and one that goes down."""
    films = {
        key: Film(
            label,
            np.stack(
                [np.roll(np.eye(1, 20, dtype=np.uint8), k * by).reshape(4, 5) for k in range(4)]
            ),
            [f"after {k} moves" for k in range(4)],
        )
        for key, label, by in (("across", "across", 1), ("down", "down", 5))
    }
    palette = ("#00000000", "#d55e00")
    title, caption = (
        "Move on: where does the dot go?",
        "A board of 4 by 5 cells, on which a dot moves.",
    )
    return widgets.Frames(films, palette, name="Move", alt=caption, title=title, caption=caption)


def connect4() -> widgets.Connect4:
    """A position with room in every column, and one without; a network of noise."""
    pairs = [(5264044474637, 31859864224143), (27944133510662, 279258512476047)]
    sizes = (2, 16, 9), (16, 16, 9), (16, 16, 9), (16, 4, 1), (168, 7, 1)
    count = sum(o * i * k + o for i, o, k in sizes)
    weights = np.random.default_rng(0).normal(0, 0.1, count)
    return widgets.Connect4(pairs, weights, width=16, blocks=1)


FIGURES: dict[str, Callable[[], Figure]] = {
    "Activations": widgets.Activations,
    "BatchNoise": lambda: widgets.BatchNoise(pixels(), source="gauss"),
    "Connect4": connect4,
    "ConvolutionArithmetic": widgets.ConvolutionArithmetic,
    "Curvature": widgets.Curvature,
    "FiveCurves": lambda: widgets.FiveCurves(load_runs(RUNS / "report-2019")),
    "Frames": frames,
    "Geometry": widgets.Geometry,
    "Initialization": initialized,
    "Rates": rates,
    "Smoothing": lambda: widgets.Smoothing(load_runs(RUNS / "report-2019"), norm="mobn"),
    "Whitening": whitened,
}


@cache
def made(name: str) -> Figure:
    """One of them, to be looked at and left as it is: some take seconds to make."""
    return FIGURES[name]()


@cache
def html_of(name: str) -> str:
    """What a page has of it; to draw its picture takes a third of a second."""
    return made(name).html()
