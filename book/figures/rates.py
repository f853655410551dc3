"""Recorded runs at a few learning rates, compared at one rate, or each at its best."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import traitlets
from matplotlib.axes import Axes

from figures.base import Figure, rounded
from figures.plots import Plot


class Line(NamedTuple):
    """A set-up: its look, and its runs."""

    name: str
    color: str
    dash: str  #: as in SVG, "" for a line drawn through
    runs: Mapping[float, Sequence[Sequence[float]]]  #: by rate, a curve for each seed


class Comparison(NamedTuple):
    """Lines beside each other, by their places."""

    label: str
    lines: Sequence[int]
    best: bool = False  #: each at the rate at which its mean ends best


class Rates(Figure):
    """Curves at a learning rate, and below or beside them where they end, against the rate.

    Args:
        x: where all curves have their values, such as the numbers of updates.
        lines: the set-ups.
        comparisons: what is offered, by key.
        lower: whether lower is better.
        names: of the axes: x, and the value.
        span: of the axis of values.
        digits: that a value is shown with, after the point.
        level: a value to compare with, such as that of chance, and its name.
        traits: the first state.

    Attributes:
        comparison: the key of one.
        rate: the learning rate, where a comparison has one for all.
    """

    script = "rates"

    comparison = traitlets.Unicode().tag(sync=True)
    rate = traitlets.Float().tag(sync=True)
    title = traitlets.Unicode("Change the rate: which gap stays?").tag(sync=True)
    caption = traitlets.Unicode(
        "Thin: each seed. Thick: their mean. Against the rate: where the curves end."
    ).tag(sync=True)

    def __init__(
        self,
        x: Sequence[float],
        lines: Sequence[Line],
        comparisons: Mapping[str, Comparison],
        *,
        lower: bool,
        names: tuple[str, str],
        span: tuple[float, float],
        digits: int = 1,
        level: tuple[float, str] | None = None,
        **traits: Any,
    ) -> None:
        rates = sorted({rate for line in lines for rate in line.runs})
        data = {
            "x": list(x),
            "rates": rates,
            "lines": [
                {
                    "name": line.name,
                    "color": line.color,
                    "dash": line.dash,
                    "runs": [rounded(line.runs.get(rate, []), 5) for rate in rates],
                }
                for line in lines
            ],
            "comparisons": {key: c._asdict() for key, c in comparisons.items()},
            "lower": lower,
            "names": list(names),
            "span": list(span),
            "digits": digits,
            "level": level,
        }
        first = {"comparison": next(iter(comparisons)), "rate": rates[0]}
        super().__init__(**{"data": data} | first | traits)

    def chosen(self) -> list[tuple[dict[str, Any], int]]:
        """The lines that are compared, each with the place of its rate."""
        comparison, rates = self.data["comparisons"][self.comparison], self.data["rates"]
        sign = 1 if self.data["lower"] else -1

        def best(line: dict[str, Any]) -> int:
            ends = [sign * _mean([run[-1] for run in runs]) for runs in line["runs"]]
            return int(np.nanargmin([end if np.isfinite(end) else np.inf for end in ends]))

        at = int(np.argmin(np.abs(np.log(rates) - np.log(self.rate))))
        lines = [self.data["lines"][i] for i in comparison["lines"]]
        return [(line, best(line) if comparison["best"] else at) for line in lines]

    def picture(self) -> Plot:
        """Both parts, in the first state."""
        data, chosen = self.data, self.chosen()

        def draw(axes: np.ndarray) -> None:
            left, right = axes.flat
            for line, at in chosen:
                look = {"color": line["color"], "linestyle": _style(line["dash"])}
                mean = [_mean(values) for values in zip(*line["runs"][at], strict=True)]
                left.plot(data["x"], mean, label=line["name"], **look)
                for run in line["runs"][at] if len(line["runs"][at]) > 1 else []:
                    left.plot(data["x"], [_mean([v]) for v in run], linewidth=0.7, **look)
                ends = [_mean([run[-1] for run in runs]) for runs in line["runs"]]
                right.plot(data["rates"], ends, marker="o", **look)
            left.set(xlabel=data["names"][0], ylabel=data["names"][1], ylim=data["span"])
            right.set(xlabel="learning rate", xscale="log", ylim=data["span"])
            right.set_xticks(data["rates"], [f"{rate:g}" for rate in data["rates"]])
            right.minorticks_off()
            _finish(left, data["level"])

        ends = "; ".join(
            f"{line['name']} {_mean([run[-1] for run in line['runs'][at]]):.{data['digits']}f} "
            f"at a rate of {data['rates'][at]:g}"
            for line, at in chosen
        )
        alt = (
            f"{data['names'][1]} against {data['names'][0]} and, at the end, against the rate: "
            f"{ends}."
        )
        return Plot(draw, alt, size=(8.0, 3.6), grid=(1, 2))


def _finish(axes: Axes, level: tuple[float, str] | None) -> None:
    if level:
        axes.axhline(level[0], linestyle=":", color="gray", linewidth=1)
    axes.legend(frameon=False, fontsize="small")


def _mean(values: Sequence[float | None]) -> float:
    """NaN if there is none, or one of them diverged."""
    return float(np.mean([np.nan if v is None else v for v in values])) if values else np.nan


def _style(dash: str) -> Any:
    """A dash pattern in pixels as matplotlib has it."""
    return (0, [float(part) for part in dash.split()]) if dash else "-"
