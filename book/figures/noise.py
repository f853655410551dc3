"""The noise that a minibatch's mean and standard deviation add to what they normalize."""

from typing import Any

import numpy as np
import torch
import traitlets
from torch import Tensor
from wnlib.layers import Norm

from figures.base import Figure
from figures.plots import COLORS, Plot

# Closer in the tails: even steps of a Gaussian.
LEVELS = tuple(
    float(f"{p:.5f}")
    for p in (
        0,
        *torch.special.ndtr(torch.linspace(-3.8, 3.8, 153, dtype=torch.float64)).tolist(),
        1,
    )
)


class BatchNoise(Figure):
    """The noise of mean-only batch norm and of batch norm, side by side.

    Minibatches of n standardized pre-activations are drawn in the browser, from a generator with a
    seed. The noise is what a normalized value is off from what the true mean and standard
    deviation would have made of it.

    Attributes:
        source: the distribution of the pre-activations, "gauss", "laplace" or "layer".
        n: images in a minibatch; one value each.
        seed: of the draws.
    """

    script = "noise"

    source = traitlets.Enum(("gauss", "laplace", "layer"), "gauss").tag(sync=True)
    n = traitlets.Int(10, min=2, max=1000).tag(sync=True)
    seed = traitlets.Int(0, min=0, max=999).tag(sync=True)
    title = traitlets.Unicode(
        "Enlarge the minibatch: both noises shrink. Does batch norm's become Gaussian?"
    ).tag(sync=True)
    caption = traitlets.Unicode(
        "Density, on a logarithmic axis, of what normalizing by a minibatch adds to a value, in "
        "standard deviations; dashed: the Gaussian of the same variance, whose kurtosis is 3. "
        "Batch norm’s noise is larger for values far out, which gives it heavy tails. Not so in "
        "the smallest minibatches: of two values one becomes 1 and the other −1."
    ).tag(sync=True)

    def __init__(self, values: Tensor | None = None, **kwargs: Any) -> None:
        """With pre-activations of a layer as a third source, if there are any.

        Args:
            values: pre-activations (N, C), one row an image; standardized here unit by unit.
            kwargs: traits.

        Raises:
            ValueError: `source` is "layer" and there are no values; values that are not finite; a
                unit that is the same for all images.
        """
        content = {}
        if values is not None:
            t = values.detach().double()
            std, mean = torch.std_mean(t, 0, correction=0)
            if not (t.isfinite().all() and (std > 0).all()):
                raise ValueError("pre-activations have to be finite, and to vary in every unit")
            z = ((t - mean) / std).flatten()
            quantiles = torch.quantile(z, torch.tensor(LEVELS).double())
            content = {"levels": LEVELS, "quantiles": [round(q, 2) for q in quantiles.tolist()]}
            kwargs = {"source": "layer"} | kwargs
        elif kwargs.get("source") == "layer":
            raise ValueError('source="layer" needs the values of a layer')
        super().__init__(data=content, **kwargs)

    def picture(self) -> Plot:
        """The noise of mean-only batch norm and of batch norm."""
        draw_from = np.random.default_rng(self.seed)
        shape = (max(1500, 40_000 // self.n), self.n)
        if self.source == "laplace":
            z = draw_from.laplace(0, 0.5**0.5, shape)
        elif self.source == "layer" and self.data:
            z = np.interp(draw_from.random(shape), self.data["levels"], self.data["quantiles"])
        else:
            z = draw_from.standard_normal(shape)
        mean, std = z.mean(1, keepdims=True), z.std(1, keepdims=True)
        noises = {Norm.MOBN: (z - mean) - z, Norm.BN: (z - mean) / std - z}
        reach = 7 / self.n**0.5

        def draw(axes: np.ndarray) -> None:
            grid = np.linspace(-reach, reach, 71)
            for ax, (norm, e) in zip(axes.flat, noises.items(), strict=True):
                height, _ = np.histogram(e, grid)
                height = height / e.size / (grid[1] - grid[0])
                ax.stairs(height, grid, color=COLORS[norm], fill=True)
                s = e.std()
                bell = np.exp(-0.5 * (grid / s) ** 2) / (s * (2 * np.pi) ** 0.5)
                ax.plot(grid, bell, "--", color="gray")
                ax.set(yscale="log", xlim=(-1.6, 1.6), ylim=(1e-3, 40), xlabel="noise (stds)")
                ax.set_title(norm.label)
            axes.flat[0].set_ylabel("density")

        kurtosis = [((e - e.mean()) ** 4).mean() / e.var() ** 2 for e in noises.values()]
        alt = (
            f"Density, on a logarithmic axis, of the noise that minibatches of {self.n} add, each "
            "beside the Gaussian of the same variance. Mean-only batch norm: kurtosis "
            f"{kurtosis[0]:.1f}. Batch norm: kurtosis {kurtosis[1]:.1f}."
        )
        return Plot(draw, alt, size=(7.0, 3.0), grid=(1, 2))
