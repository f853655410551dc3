"""What a Savitzky-Golay filter does to a recorded curve, at its ends above all."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import traitlets
from matplotlib.axes import Axes
from wnlib.lab.records import Run
from wnlib.layers import Norm

from figures.base import Figure
from figures.plots import COLORS, Plot, smooth


class Smoothing(Figure):
    """A run's test error, smoothed, with the polynomial of one window laid open.

    Args:
        runs: one of each configuration is offered, the first whose test errors are all known.
        traits: the first state.

    Attributes:
        norm: the configuration that is seen.
        window: in epochs, odd.
        degree: of the polynomial.
        at: the epoch whose window is laid open; None for the last.
        part: "all" epochs or the "end".
    """

    script = "smoothing"

    norm = traitlets.Enum([norm.value for norm in Norm], Norm.NONE.value).tag(sync=True)
    window = traitlets.Int(51, min=3, max=101).tag(sync=True)
    degree = traitlets.Int(10, min=0, max=10).tag(sync=True)
    at = traitlets.Int(None, allow_none=True).tag(sync=True)
    part = traitlets.Enum(("end", "all"), "end").tag(sync=True)
    title = traitlets.Unicode(
        "Lower the degree: how much of the curve's end is the last epoch?"
    ).tag(sync=True)
    caption = traitlets.Unicode(
        "Dots: the recorded test errors. Solid: smoothed. Dashed: the polynomial fitted in the "
        "window of the epoch that the point marks; the smoothed value is read off it there. In the "
        "shaded ends no window has the epoch in its middle, and one polynomial gives them all."
    ).tag(sync=True)

    def __init__(self, runs: Iterable[Run], **traits: Any) -> None:
        curves: dict[Norm, np.ndarray] = {}
        for run in runs:
            errors = run.column("test_error")
            if len(errors) and np.isfinite(errors).all():
                curves.setdefault(run.norm, errors)
        kept = [
            {"norm": norm.value, "test_error": [round(float(e), 6) for e in errors]}
            for norm, errors in curves.items()
        ]
        first = {"norm": kept[0]["norm"]} if kept else {}
        super().__init__(**{"data": {"runs": kept}} | first | traits)

    @traitlets.validate("window")
    def _odd(self, proposal: Any) -> int:
        if proposal["value"] % 2 == 0:
            raise traitlets.TraitError(f"window is odd, not {proposal['value']}")
        return proposal["value"]

    def picture(self) -> Plot:
        """The last 75 epochs of the run, smoothed, and the last window's polynomial."""
        norm = Norm(self.norm)
        runs = [run for run in self.data["runs"] if run["norm"] == self.norm]
        errors = 100 * np.array(runs[0]["test_error"] if runs else [np.nan])
        epochs = np.arange(1, len(errors) + 1)
        width = min(self.window, len(errors) - (len(errors) % 2 == 0))
        curve = smooth(errors, self.window, self.degree) if runs else errors
        fit = smooth(errors[-width:], width, self.degree) if runs else errors

        def draw(axes: Axes) -> None:
            end = slice(max(len(errors) - 75, 0), None)
            axes.plot(
                epochs[end], errors[end], ".", alpha=0.5, color=COLORS[norm], label="recorded"
            )
            axes.plot(epochs[end], curve[end], lw=2, color=COLORS[norm], label="smoothed")
            axes.plot(epochs[-width:], fit, "--", color="gray", label="last window's polynomial")
            axes.axvspan(len(errors) - (width - 1) / 2, len(errors), color="gray", alpha=0.15)
            axes.set(xlabel="epoch", ylabel="test error (%)", title=norm.label)
            axes.legend(frameon=False)

        return Plot(
            draw,
            f"Test error of the last epochs, {norm.label}, recorded and smoothed with window "
            f"{self.window} and degree {self.degree}; the polynomial of the last window.",
            size=(6.4, 3.4),
        )
