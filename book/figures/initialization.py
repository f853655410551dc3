"""Every unit of ConvPool-CNN-C before and after its data-dependent initialization."""

import math
from typing import Any

import numpy as np
import torch
import traitlets
from torch import Tensor, nn
from wnlib.data import Cifar10
from wnlib.init import data_dependent_init_
from wnlib.inputs import symmetric
from wnlib.layers import Norm
from wnlib.model import ConvPoolCNNC

from figures.base import Figure
from figures.plots import COLORS, Plot

SIZES = (10, 20, 50, 100, 200, 500, 1000)
LAYERS = (*(f"conv{i}" for i in range(1, 10)), "dense")
OTHERS = 500  # images that the initialization never saw
# Seeds of noise and dropout, such that no number lies where rounding could go either way (tested).
INIT, LOOK = 2, 2

# Configurations of one kind start as the same function and stay it in training mode, so that one
# of each is computed: what is set once; scale set once, centered by every minibatch; set by none.
KINDS = {"set": Norm.WN, "centered": Norm.WN_MOBN, "batch": Norm.BN}
KIND = dict.fromkeys(Norm, "set") | {
    Norm.MOBN: "centered",
    Norm.WN_MOBN: "centered",
    Norm.BN: "batch",
}


class Initialization(Figure):
    """What each layer hands to its activation, before and after data-dependent initialization.

    Attributes:
        norm: the configuration, a value of `Norm`.
        size: how many images the initialization sees, one of `SIZES`.
        layer: whose numbers are read off, an index into `LAYERS`.
    """

    script = "initialization"

    norm = traitlets.Enum([norm.value for norm in Norm], "wn").tag(sync=True)
    size = traitlets.Enum(SIZES, 10).tag(sync=True)
    layer = traitlets.Int(len(LAYERS) - 1, min=0, max=len(LAYERS) - 1).tag(sync=True)
    title = traitlets.Unicode(
        "Give the initialization more images: how even do the units become on images it never saw?"
    ).tag(sync=True)
    caption = traitlets.Unicode(
        "A bar for each unit: its mean ± standard deviation before the activation, on other images "
        "than those of the initialization, with noise and dropout as in training; the thin bar "
        "inside is the same unit before the initialization. On the initialization's own images "
        "every bar would reach from −1 to 1. Click on a layer to read its numbers."
    ).tag(sync=True)

    def __init__(self, data: Cifar10, width: int = 8, **kwargs: Any) -> None:
        """From a data set: initializes on training images, looks at test images.

        Args:
            data: the images, at least 1,000 + 500; they are scaled to [−1, 1].
            width: of the network; at 8, measuring takes some seconds.
            kwargs: traits.

        Raises:
            ValueError: too few images.
        """
        content = {
            "layers": list(LAYERS),
            "sizes": list(SIZES),
            "others": OTHERS,
            "kinds": {norm.value: kind for norm, kind in KIND.items()},
        }
        super().__init__(data=content | _content(data, width), **kwargs)

    def picture(self) -> Plot:
        """The bars of the chosen configuration and minibatch."""
        kind = KIND[Norm(self.norm)]
        after = self.data["after"][kind]
        after = after[min(SIZES.index(self.size), len(after) - 1)]
        color = COLORS[Norm(self.norm)]

        def draw(axes: Any) -> None:
            axes.axhspan(-1, 1, color="gray", alpha=0.15, lw=0)
            for i, found in enumerate(after):
                places = (
                    i + (np.arange(len(found["mean"])) + 0.5) / len(found["mean"]) * 0.84 + 0.08
                )
                mean, std = np.array(found["mean"]) / 100, np.array(found["std"]) / 100
                axes.bar(places, 2 * std, 0.7 / len(mean), mean - std, color=color)
            axes.set(ylim=(-3, 3), xlim=(0, len(LAYERS)), ylabel="mean ± std of each unit")
            axes.set_xticks(np.arange(len(LAYERS)) + 0.5, LAYERS)

        alt = (
            f"{Norm(self.norm).label}, initialized on {self.size} images: mean plus and minus "
            f"standard deviation of every unit of the ten layers on {OTHERS} other images, around "
            "the band from −1 to 1 that they fill on the images of the initialization."
        )
        return Plot(draw, alt, size=(7.0, 3.0))


_MEASURED: dict[tuple[str, int], dict[str, Any]] = {}  # takes seconds, and is the same every time


def _content(data: Cifar10, width: int) -> dict[str, Any]:
    key = data.digest, width
    if key not in _MEASURED:
        _MEASURED[key] = _short(measure(data, width))
    return _MEASURED[key]


def measure(data: Cifar10, width: int = 8) -> dict[str, Any]:
    """Statistics of every layer, before and after, for each kind and size.

    Raises:
        ValueError: too few images.

    Returns:
        before: kind → for each layer its units' mean and std, on other images.
        after: kind → for each size, for each layer the same; one entry if the size is no matter.
    """
    if len(data.train_images) < max(SIZES) or len(data.test_images) < OTHERS:
        raise ValueError(
            f"the figure takes {max(SIZES)} training and {OTHERS} test images; {data.name} has "
            f"{len(data.train_images)} and {len(data.test_images)}"
        )
    with torch.random.fork_rng(devices=[]):  # the caller's own draws stay as they are
        torch.manual_seed(0)
        order = torch.randperm(len(data.train_images))[: max(SIZES)]
        images = symmetric(data.train_images[order])
        others = symmetric(data.test_images[:: len(data.test_images) // OTHERS][:OTHERS])
        before, after = {}, {}
        for kind, norm in KINDS.items():
            model = _fresh(norm, width)
            before[kind] = _watch(model, others, LOOK)
            after[kind] = []
            for size in SIZES if kind != "batch" else SIZES[:1]:
                model = _fresh(norm, width)
                torch.manual_seed(INIT)
                data_dependent_init_(model, images[:size])
                after[kind].append(_watch(model, others, LOOK))
    return {"before": before, "after": after}


def _fresh(norm: Norm, width: int) -> ConvPoolCNNC:
    torch.manual_seed(0)
    return ConvPoolCNNC(norm, width)


@torch.no_grad()
def _watch(model: nn.Module, x: Tensor, seed: int) -> list[dict[str, Any]]:
    """The statistics of each layer on x (N, 3, 32, 32), with the noise and dropout of a seed."""
    found = []

    def hook(_module: nn.Module, _inputs: object, t: Tensor) -> None:
        found.append(_statistics(t))

    parts = [getattr(model, name) for name in LAYERS]
    handles = [getattr(p, "norm", p.layer).register_forward_hook(hook) for p in parts]
    torch.manual_seed(seed)
    model(x)
    for handle in handles:
        handle.remove()
    return found


def _statistics(t: Tensor) -> dict[str, Tensor]:
    """Of t (N, C, ...): mean and std by unit."""
    # Sums in fp32 would depend on the number of threads; torch.std_mean in fp64 is slow.
    dims = [0, *range(2, t.ndim)]
    values = t.numel() // t.shape[1]
    mean = t.sum(dims, dtype=torch.float64) / values  # (C,)
    std = (t.square().sum(dims, dtype=torch.float64) / values - mean.square()).clamp_min(0).sqrt()
    return {"mean": mean, "std": std}


def _short(found: dict[str, Any]) -> dict[str, Any]:
    """The same for JSON, no finer than is seen, so that rounding hides what machines differ by."""

    def hundredths(t: Tensor) -> list[int]:
        return (100 * t).round().int().tolist()

    def small(t: Tensor, std: Tensor) -> list[float]:
        digits = 3 - math.floor(math.log10(std.max()))
        return [round(v, digits) + 0.0 for v in t.tolist()]  # no negative zero

    def rounded(layers: list[dict[str, Tensor]]) -> list[dict[str, list[int]]]:
        return [{name: hundredths(values) for name, values in f.items()} for f in layers]

    before = {
        kind: [{name: small(values, f["std"]) for name, values in f.items()} for f in layers]
        for kind, layers in found["before"].items()
    }
    return {"before": before, "after": {k: [*map(rounded, v)] for k, v in found["after"].items()}}
