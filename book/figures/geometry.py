"""One weight vector in the plane: v, w = g v / ‖v‖, their gradients, and descent on them."""

import numpy as np
import traitlets
from matplotlib.axes import Axes
from wnlib.layers import Norm

from figures.base import Figure, Number, rounded
from figures.plots import COLORS, Plot

# Curvatures of 0.2 and 0.6: descent on w itself is stable at every rate offered, up to 3.
TURN = np.deg2rad(25)
VECTORS = np.array([[np.cos(TURN), -np.sin(TURN)], [np.sin(TURN), np.cos(TURN)]])
CURVATURE = VECTORS @ np.diag([0.2, 0.6]) @ VECTORS.T


def _pair(limit: float, default: tuple[float, float]) -> traitlets.Tuple:
    x, y = (Number(min=-limit, max=limit) for _ in "xy")
    return traitlets.Tuple(x, y, default_value=default).tag(sync=True)


class Geometry(Figure):
    """One weight vector in the plane, w = g v / ‖v‖, on a quadratic loss in w.

    Attributes:
        v: two numbers, where descent starts.
        g: the signed length of w, where descent starts.
        minimum: of the loss, two numbers.
        optimizer: "sgd", "momentum" (0.9) or "adam", of g and v, as in torch.optim.
        rate: its learning rate η.
        noise: standard deviation of what a minibatch adds to each component of w's gradient.
        step: how many of its steps are taken, 0 to 60.
    """

    script = "geometry"

    v = _pair(1e6, (0.8, -0.05))
    g = Number(1.4, min=-2, max=2).tag(sync=True)
    minimum = _pair(10, (-0.4, 1.2))
    optimizer = traitlets.Enum(("sgd", "momentum", "adam"), "sgd").tag(sync=True)
    rate = Number(0.3, min=0.01, max=3).tag(sync=True)
    noise = Number(0.4, min=0, max=1).tag(sync=True)
    step = traitlets.Int(0, min=0, max=60).tag(sync=True)
    title = traitlets.Unicode(
        "Press Run: why does v get longer, and what slows down as it does?"
    ).tag(sync=True)
    caption = traitlets.Unicode(
        "At w the gradient splits: its part across w goes to v, times g/‖v‖; its part along w goes "
        "to g. What reaches v is orthogonal to v, so the next step of plain descent (small circle) "
        "ends further out; the dotted circle is where v started. The plots by step: ‖v‖ under each "
        "of the three optimizers, the chosen one beside what Pythagoras makes of the lengths of "
        "its steps (dashed); and the effective learning rate across w. The noise stands for "
        "minibatches."
    ).tag(sync=True)
    data = traitlets.Dict({"curvature": rounded(CURVATURE)}).tag(sync=True)

    def picture(self) -> Plot:
        """The vectors before the first step."""
        v, minimum = np.array(self.v), np.array(self.minimum)
        unit = v / (np.linalg.norm(v) or 1)
        w = self.g * unit
        down = CURVATURE @ (minimum - w)
        across = down - (down @ unit) * unit
        arrows = [  # from, by, color, line style, name
            ((0, 0), v, COLORS[Norm.WN], "-", "v"),
            ((0, 0), w, COLORS[Norm.WN_MOBN], "-", "w = g v / ‖v‖"),
            (w, down, COLORS[Norm.BN], "-", "−∇L of w"),
            (w, across, COLORS[Norm.MOBN], "-", "its part across w"),
            (v, self.g / (np.linalg.norm(v) or 1) * across, COLORS[Norm.WN], "--", "−∇L of v"),
        ]

        def draw(axes: Axes) -> None:
            side = np.linspace(-2, 2, 61)
            off = np.stack(np.meshgrid(side, side), -1) - minimum
            loss = (off @ CURVATURE * off).sum(-1) / 2
            levels = 0.03 * np.arange(1, 9) ** 2
            axes.contour(side, side, loss, levels, colors="gray", linewidths=0.5)
            turn = np.linspace(0, 2 * np.pi, 121)
            for radius, style in ((np.linalg.norm(v), ":"), (abs(self.g), "-")):
                axes.plot(radius * np.cos(turn), radius * np.sin(turn), style, color="gray", lw=1)
            for start, by, color, style, name in arrows:
                look = {"arrowstyle": "->", "color": color, "ls": style, "lw": 2}
                axes.annotate("", np.add(start, by), start, arrowprops=look)
                axes.plot([], [], color=color, ls=style, lw=2, label=name)
            axes.plot(*minimum, "x", color="gray", ms=9, mew=2, label="minimum")
            axes.set(aspect="equal", xlim=(-2, 2), ylim=(-2, 2))
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)

        return Plot(
            draw,
            "One weight vector in the plane. v and w lie on one line through the origin. The "
            "gradient of v is the part of w's gradient that is orthogonal to that line, scaled by "
            "g over the length of v.",
            size=(7.0, 4.2),
        )
