"""Data-dependent initialization: one minibatch sets the scale and the offset of every layer."""

import warnings
from collections.abc import Mapping
from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from wnlib.layers import MeanOnlyBatchNorm, per_unit


@torch.no_grad()
def data_dependent_init_(
    model: nn.Module, images: Tensor, init_scale: float | Mapping[str, float] = 1.0
) -> None:
    """Set g and b so that pre-activations start with mean 0 and variance 1 (the paper's eq. 6).

    In one pass, with noise and dropout as in training, each linear or convolutional layer divides
    its g (or, without one, its weight) by σ[t] and sets its bias, if it has one, to −μ[t]/σ[t].
    A layer whose next sibling is batch norm is taken to feed it and left as it is. Batch norms,
    mean-only or not, start anew, with the running statistics of the minibatch. A second pass, with
    the same noise, checks each deviation, and each mean where there is a bias. A caller's autocast
    is off. A warning names the layers that the images do not reach: they are left as they are.

    Args:
        model: of these layers, and any other modules between them.
        images: what the model takes, (N, …). The paper's released code uses 500.
        init_scale: the standard deviation to start with, the paper's 1 by default; or, by name, of
            some layers. Residual branches do better with less.

    Raises:
        ValueError: `init_scale` will not do; a channel is constant on the images, or not finite; a
            layer is used twice, or does not come out as asked. The model is left as it was.
        TypeError: a weight is computed, but not from a g per output unit; or transposed in groups.
    """
    modules = dict(model.named_modules())
    layers = {n or "the model": m for n, m in modules.items() if isinstance(m, nn.Linear | _ConvNd)}
    scales = init_scale if isinstance(init_scale, Mapping) else dict.fromkeys(layers, init_scale)
    for name, scale in scales.items():
        if name not in layers:
            raise ValueError(f"the model has no layer {name}")
        if not 0 < scale < float("inf"):
            raise ValueError(f"init_scale is a number above 0, not {scale!r}")
    siblings = chain(*(pairwise(parent.children()) for parent in modules.values()))
    norms = {m: m.momentum for m in modules.values() if isinstance(m, _BatchNorm)}
    batch_norms = {norm for norm in norms if not isinstance(norm, MeanOnlyBatchNorm)}
    normed = {layer for layer, norm in siblings if norm in batch_norms}
    visits = [Visit(n, m, scales.get(n, 1.0)) for n, m in layers.items() if m not in normed]

    modes = {module: module.training for module in modules.values()}
    before = [(t, t.clone()) for t in chain(model.parameters(), model.buffers())]
    noise = generators(images.device)
    hooks = [visit.layer.register_forward_hook(visit) for visit in visits]
    try:
        model.train()
        for checking in (False, True):
            for visit in visits:
                visit.checking = checking
            for norm in norms:
                norm.reset_parameters()
                norm.momentum = 1.0  # the statistics are those of this minibatch alone
            generators(images.device, noise)  # each pass sees the same noise
            with torch.autocast(images.device.type, enabled=False):
                model(images)
    except BaseException:
        for tensor, value in before:
            tensor.copy_(value)
        raise
    finally:
        for hook in hooks:
            hook.remove()
        for norm, momentum in norms.items():
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
    if idle := ", ".join(visit.name for visit in visits if not visit.reached):
        warnings.warn(f"left as they are, since the images do not reach them: {idle}", stacklevel=3)


class Visit:
    """A forward hook of one layer: it sets the layer by its outputs, or checks them once set."""

    def __init__(self, name: str, layer: Any, sigma: float) -> None:
        self.name, self.layer, self.sigma = name, layer, sigma
        self.checking = self.reached = False
        self.g, self.log = scale_of(layer, name)

    def __call__(self, layer: Any, _: object, t: Tensor) -> Tensor:
        """From what the layer puts out to what it puts out once it is set."""
        if self.reached and not self.checking:
            raise ValueError(f"{self.name} is used twice, and one scale cannot suit both uses")
        self.reached = True
        dims = list(range(t.ndim - 1)) if isinstance(layer, nn.Linear) else [0, *range(2, t.ndim)]
        wide = torch.promote_types(t.dtype, torch.float32)
        std, mean = torch.std_mean(t.to(wide), dims, correction=0, keepdim=True)
        if not (std > 1e-6 * mean.abs()).all():
            raise ValueError(f"{self.name}: a channel is constant on these images, or not finite")
        std /= self.sigma
        if self.checking:
            centered = mean / self.sigma if layer.bias is not None else torch.zeros_like(mean)
            off = torch.maximum((std - 1).abs(), centered.abs()).max().item()
            if off > (0.2 if t.dtype.itemsize == 2 else 0.01):  # half precision is coarse
                why = "is its weight shared, or does a hook compute it?"
                raise ValueError(f"{self.name} puts out a mean or deviation {off:.2g} off; {why}")
            return t
        units = std.view(per_unit(layer))
        self.g.copy_(self.g - units.log() if self.log else self.g / units)
        if layer.bias is None:
            return t.div_(std)
        layer.bias.copy_((layer.bias - mean.flatten()) / std.flatten())
        return t.sub_(mean).div_(std)


def scale_of(layer: Any, name: str) -> tuple[Tensor, bool]:
    """What sets the size of the output units, g or the plain weight; and whether it is log g."""
    if isinstance(layer.weight, nn.Parameter):
        return layer.weight, False
    if parametrize.is_parametrized(layer, "weight"):
        steps = layer.parametrizations.weight
        g = getattr(steps, "original0", getattr(steps[0], "g", None))  # the second if frozen
        if g is not None and list(g.shape) == per_unit(layer):
            return g, getattr(steps[0], "exp", False)
    raise TypeError(f"{name}: its weight is computed, but not from a parametrization's g per unit")


def generators(device: torch.device, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The states of torch's generators, of the CPU and the device; then set to `state`."""
    modules = {device.type: getattr(torch, device.type), "cpu": torch}
    with torch.cuda.device(device if device.type == "cuda" else -1):  # of several, this GPU
        found = {name: module.get_rng_state() for name, module in modules.items()}
        for name, value in (state or {}).items():
            modules[name].set_rng_state(value)
    return found
