"""Gradient descent on a bowl, as it is and in other coordinates."""

import numpy as np
import traitlets
from wnlib.layers import Norm

from figures.base import Figure, Number
from figures.plots import COLORS, Plot


class Curvature(Figure):
    """Gradient descent on f(w) = w'Hw / 2, plain and on u with w = A u; H has eigenvalues 1 and κ.

    Of two A, the diagonal that gives each axis the same curvature, and H^(−1/2).

    Attributes:
        kappa: the condition number κ of H.
        angle: by which H's flat direction is turned, in degrees.
        start: where descent starts, two numbers in the plane.
        best: whether each descent has its best fixed learning rate, 2 / (λ_min + λ_max).
        rate: otherwise, the learning rate as a fraction of the largest stable one, 2 / λ_max.
    """

    script = "curvature"

    kappa = Number(10, min=1, max=100).tag(sync=True)
    angle = Number(30, min=0, max=90).tag(sync=True)
    start = traitlets.Tuple(Number(), Number(), default_value=(0.2, 1.2)).tag(sync=True)
    best = traitlets.Bool(True).tag(sync=True)
    rate = Number(0.9, min=0.01, max=1.2).tag(sync=True)
    title = traitlets.Unicode(
        "Turn the bowl and stretch it: which coordinates keep descent short?"
    ).tag(sync=True)
    caption = traitlets.Unicode(
        "The bowl from above, with sixty steps of each descent; and the loss after each step. Pale "
        "bands are the bound ρ² to the power of the step. The start can be dragged. Under “more” "
        "the learning rate is set: beyond its limit, 2/λmax, descent diverges."
    ).tag(sync=True)

    def picture(self) -> Plot:
        """The plain descent and those in u = A⁻¹ w, each with its best learning rate."""
        turn = np.deg2rad(self.angle)
        axes_of_h = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        h = axes_of_h @ np.diag([1, self.kappa]) @ axes_of_h.T
        root = axes_of_h @ np.diag([1, self.kappa**-0.5]) @ axes_of_h.T
        scaled = np.diag(np.diag(h) ** -0.5)
        chosen = {"plain": np.eye(2), "each axis scaled": scaled, "H to the −1/2": root}
        paths = {}
        for name, matrix in chosen.items():
            values = np.linalg.eigvalsh(matrix @ h @ matrix)
            step = np.eye(2) - 2 / values.sum() * matrix @ matrix @ h
            paths[name] = [np.linalg.matrix_power(step, k) @ self.start for k in range(61)]

        def draw(pair: np.ndarray) -> None:
            plane, curve = pair.flat
            side = np.linspace(-1.3, 1.3, 61)
            grid = np.stack(np.meshgrid(side, side), -1)
            levels = self.kappa * np.geomspace(1e-3, 1, 9)
            plane.contour(
                side, side, (grid @ h * grid).sum(-1) / 2, levels, colors="gray", linewidths=0.6
            )
            plane.set(aspect="equal", xlim=(-1.3, 1.3), ylim=(-1.3, 1.3))
            first = np.array(self.start) @ h @ self.start or 1
            looks = zip(("o--", "s-", "^-."), (Norm.BN, Norm.WN, Norm.WN_MOBN), strict=True)
            for (name, path), (style, norm) in zip(paths.items(), looks, strict=True):
                color = COLORS[norm]
                points = np.array(path)
                loss = np.maximum((points @ h * points).sum(1) / first, 1e-30)
                plane.plot(*points.T, style, color=color, ms=4, lw=1.2)
                curve.semilogy(loss, style, color=color, ms=4, lw=1.2, label=name)
            curve.set(xlabel="step", ylabel="loss / loss at the start", ylim=(1e-12, 2))
            curve.legend(frameon=False)

        alt = (
            f"Gradient descent on a bowl with condition number {self.kappa:g}, from above, and its "
            "loss by step. The plain path zigzags; scaling each axis helps little while the bowl "
            "is turned; in the coordinates of H to the −1/2 one step is enough."
        )
        return Plot(draw, alt, size=(7.0, 3.3), grid=(1, 2))
