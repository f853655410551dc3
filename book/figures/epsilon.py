"""Batch norm and mean-only batch norm as the two ends of one formula, by ε."""

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from torch.nn import functional as F
from wnlib.layers import Norm

from figures.plots import COLORS, Plot

N = 10  # images in a minibatch
SIGMAS = (0.25, 1.0, 4.0)
EPSILONS = 2.0 ** np.arange(-20, 61)  # 1e-6 to 1e18


def normalize(t: torch.Tensor, eps: float) -> torch.Tensor:
    """Pre-activations (N, C) by torch's batch norm, with γ = √(1 + ε): σ = 1 stays as it is."""
    gamma = torch.full(t.shape[1:], (1 + eps) ** 0.5, dtype=t.dtype)
    return F.batch_norm(t, None, None, weight=gamma, training=True, eps=eps)


def scale(sigma: float, eps: float) -> float:
    """By how much a unit of standard deviation σ is scaled."""
    t = torch.tensor([[-sigma], [sigma]], dtype=torch.float64)
    return float(normalize(t, eps)[1, 0] / sigma)


def noise(eps: float, count: int = 20_000) -> tuple[float, float]:
    """n times the variance, and the kurtosis, of what minibatches of n Gaussian values add."""
    generator = torch.Generator().manual_seed(0)
    t = torch.randn(N, count, generator=generator, dtype=torch.float64)
    e = (normalize(t, eps) - t).flatten()
    e = e - e.mean()
    return float(N * e.square().mean()), float(e.pow(4).mean() / e.square().mean() ** 2)


def kept(eps: float) -> tuple[float, float]:
    """What is left of a gradient, as a share of it: along the ones, and along t − μ (σ = 1)."""
    generator = torch.Generator().manual_seed(0)
    t = torch.randn(N, 1, generator=generator, dtype=torch.float64)
    t = ((t - t.mean()) / t.std(correction=0)).requires_grad_()
    shares = []
    for direction in (torch.ones_like(t), t.detach()):
        (back,) = torch.autograd.grad(normalize(t, eps), t, direction)
        shares.append(float((back * direction).sum() / direction.square().sum()))
    return shares[0], shares[1]


def one_formula() -> Plot:
    """Scale, noise and the gradient's two directions, from ε = 1e-6 to 2⁶⁰, as torch has them."""
    noises = np.array([noise(eps) for eps in EPSILONS[::2]])
    shares = np.array([kept(eps) for eps in EPSILONS])

    def draw(grid: np.ndarray) -> None:
        first, second, third = grid.flat
        for sigma, style in zip(SIGMAS, (":", "-", "--"), strict=True):
            values = [scale(sigma, eps) for eps in EPSILONS]
            first.plot(EPSILONS, values, style, color=COLORS[Norm.BN], label=f"σ = {sigma:g}")
        first.set(yscale="log", title="scale of a unit")
        first.set_yticks([0.25, 1, 4], ["1/4", "1", "4"])
        first.minorticks_off()
        second.plot(EPSILONS[::2], noises[:, 0], color=COLORS[Norm.BN], label="n · variance")
        second.plot(EPSILONS[::2], noises[:, 1], "--", color=COLORS[Norm.BN], label="kurtosis")
        second.set(title=f"noise of {N} images", ylim=(0, 5.5))
        third.plot(EPSILONS, shares[:, 1], color=COLORS[Norm.BN], label="along t − μ")
        third.plot(EPSILONS, shares[:, 0], "--", color=COLORS[Norm.BN], label="along the ones")
        third.set(title="gradient that is left", ylim=(-0.05, 1.05))
        for axes, legend in zip(
            grid.flat, ("upper right", "upper right", "center right"), strict=True
        ):
            _between(axes, legend)

    (before, tails), (after, calm) = noises[0], noises[-1]
    return Plot(
        draw,
        "Batch norm with γ = √(1 + ε), by ε from 1e-6 to 2 to the 60. The scale of a unit goes "
        "from 1/σ to 1 for each σ. The noise of a minibatch goes from n times the variance "
        f"{before:.1f} and kurtosis {tails:.1f} to {after:.1f} and {calm:.1f}. A gradient along "
        "t − μ, of which batch norm leaves nothing, comes through whole; one along the ones is "
        "lost at every ε.",
        size=(4.6, 6.6),
        grid=(3, 1),
    )


def _between(axes: Axes, legend: Any) -> None:
    axes.set(xscale="log", xlabel="ε")
    axes.set_xticks([1e-6, 1, 2.0**60], ["10⁻⁶", "1", "2⁶⁰"])
    axes.legend(frameon=False, fontsize="small", loc=legend)
