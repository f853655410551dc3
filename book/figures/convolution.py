"""A kernel that slides over an image, and the size of what comes out."""

import numpy as np
import traitlets
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from wnlib.layers import Norm

from figures.base import Figure
from figures.plots import COLORS, Plot


class ConvolutionArithmetic(Figure):
    """A square image, a kernel at one of its places, and the outputs: ⌊(W − F + 2P)/S⌋ + 1 a side.

    Attributes:
        width: W, pixels a side.
        kernel: F, the kernel's side.
        padding: P, zeros put around the image.
        stride: S, pixels from one place to the next.
        place: which output is looked at, row by row from 0.
    """

    script = "convolution"

    width = traitlets.Int(6, min=1, max=9).tag(sync=True)
    kernel = traitlets.Int(3, min=1, max=6).tag(sync=True)
    padding = traitlets.Int(0, min=0, max=3).tag(sync=True)
    stride = traitlets.Int(2, min=1, max=4).tag(sync=True)
    place = traitlets.Int(0, min=0).tag(sync=True)
    title = traitlets.Unicode(
        "Slide the kernel, then change the stride: which pixels does it never see?"
    ).tag(sync=True)
    caption = traitlets.Unicode(
        "The image, with its padding of zeros in pale; the kernel, and a frame where it lies now; "
        "one output for each place. Crossed pixels lie under the kernel at no place: it steps over "
        "them, or the stride does not divide W − F + 2P and the kernel stops early."
    ).tag(sync=True)

    def picture(self) -> Plot:
        """Image, kernel and outputs at the first place."""
        w, f, p, s = self.width, self.kernel, self.padding, self.stride
        whole = w + 2 * p
        size = (whole - f) // s + 1 if whole >= f else 0
        blue, orange = COLORS[Norm.WN], COLORS[Norm.BN]
        outputs_at = whole + f + 2

        def draw(axes: Axes) -> None:
            axes.set(xlim=(-0.5, outputs_at + size + 0.5), ylim=(max(whole, f) + 0.5, -1))
            axes.set(aspect="equal")
            axes.set_axis_off()
            for x, name in ((0, "image"), (whole + 1, "kernel"), (outputs_at, "outputs")):
                axes.text(x, -0.3, name, weight="bold")
            for i, j in np.ndindex(whole, whole):
                inside = p <= min(i, j) and max(i, j) < w + p
                alpha = 0.35 if inside else 0.08
                axes.add_patch(Rectangle((j, i), 0.94, 0.94, color=blue, alpha=alpha))
            axes.add_patch(Rectangle((0, 0), f, f, fill=False, ec=orange, lw=3))
            for i, j in np.ndindex(f, f):
                corner = (whole + 1 + j, i)
                axes.add_patch(Rectangle(corner, 0.94, 0.94, color="#888888", alpha=0.25))
                weight = f"{np.sign(f - 1 - 2 * j):d}".replace("-", "−")
                axes.text(corner[0] + 0.47, i + 0.5, weight, ha="center", va="center")
            for i, j in np.ndindex(size, size):
                alpha = 0.35 if (i, j) != (0, 0) else 1.0
                corner = (outputs_at + j, i)
                axes.add_patch(Rectangle(corner, 0.94, 0.94, color=orange, alpha=alpha))

        alt = (
            f"A {w} by {w} image with padding {p}; a {f} by {f} kernel with stride {s} gives "
            f"{size} by {size} outputs."
        )
        return Plot(draw, alt, size=(6.4, 3.0))
