"""ReLU, leaky ReLU and others, with their derivatives."""

import numpy as np
import traitlets
from matplotlib.axes import Axes
from wnlib.layers import Norm

from figures.base import Figure
from figures.plots import COLORS, Plot


class Activations(Figure):
    """An activation function and its derivative; a point moves along both.

    Attributes:
        kind: "relu", "leaky", "sigmoid" or "tanh".
        slope: of the leaky ReLU below zero.
        at: where both are read off.
    """

    script = "activations"

    kind = traitlets.Enum(("relu", "leaky", "sigmoid", "tanh"), "leaky").tag(sync=True)
    slope = traitlets.Float(0.1, min=0, max=1).tag(sync=True)
    at = traitlets.Float(-1.0, min=-4, max=4).tag(sync=True)
    title = traitlets.Unicode(
        "Move the point below zero: which activations still pass a gradient?"
    ).tag(sync=True)
    caption = traitlets.Unicode(
        "Solid: the activation. Dashed: its derivative, the factor by which the backward pass "
        "multiplies. ReLU's is zero for every negative input; the leaky ReLU's is its slope."
    ).tag(sync=True)

    def picture(self) -> Plot:
        """Leaky ReLU, whatever the state: the others need the front end."""
        slope = self.slope

        def draw(axes: Axes) -> None:
            t = np.linspace(-4, 4, 201)
            axes.plot(t, np.where(t > 0, t, slope * t), color=COLORS[Norm.WN], label="f(t)")
            derivative = np.where(t > 0, 1, slope)
            axes.plot(t, derivative, "--", color=COLORS[Norm.BN], label="f'(t)")
            axes.set(xlabel="t", ylim=(-1.5, 4))
            axes.legend(frameon=False)

        return Plot(draw, f"Leaky ReLU with slope {slope:g} and its derivative.", size=(6.4, 3.2))
