"""Data-dependent initialization: one minibatch sets the scale and the offset of every layer."""

import warnings
from collections.abc import Mapping
from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrizations import _WeightNorm as TorchWeightNorm

from wnlib.layers import FrozenScale, MeanOnlyBatchNorm, Units, WeightNorm


@torch.no_grad()
def data_dependent_init_(
    model: nn.Module, images: Tensor, init_scale: float | Mapping[str, float] = 1.0
) -> None:
    """Set g and b so that pre-activations start with mean 0 and variance 1 (the paper's eq. 6).

    In one pass, with noise and dropout as in training, each linear or convolutional layer divides
    its g (or, without one, its weight) by σ[t] and sets its bias, if it has one, to −μ[t]/σ[t].
    If its next sibling is mean-only BN, that takes over the centering: both biases start at zero.
    If it is batch norm, the layer is left as it is, γ = 1, β = 0. Running statistics are those of
    the minibatch. A second pass, with the same noise, checks it all. Neither is under autocast.
    A warning names the layers that the images do not reach and that are left as they are.

    Args:
        model: of these layers, and any other modules between them.
        images: what the model takes, (N, …), N ≥ 2. The paper's released code uses 500.
        init_scale: the standard deviation to start with, the paper's 1 by default; or, by name, of
            some layers. Residual branches do better with less.

    Raises:
        ValueError: images or `init_scale` will not do; a channel is constant; a layer has no shape
            yet, is used twice, or does not come out as asked. The model is left as it was.
        TypeError: a weight has a parametrization other than one g per output unit.
    """
    if len(images) < 2:
        raise ValueError(f"data-dependent initialization takes 2 images or more, not {len(images)}")
    if len(bad := (~images.isfinite()).reshape(len(images), -1).any(1).nonzero()):
        raise ValueError(f"image {int(bad[0])} of the minibatch has NaN or infinite values")
    if lazy := [name for name, value in model.state_dict(keep_vars=True).items() if is_lazy(value)]:
        raise ValueError(f"{lazy[0]} has no shape yet; run the model once on the images")
    modules = dict(model.named_modules())
    layers = {n or "the model": m for n, m in modules.items() if isinstance(m, nn.Linear | _ConvNd)}
    scales = init_scale if isinstance(init_scale, Mapping) else dict.fromkeys(layers, init_scale)
    if unknown := scales.keys() - layers.keys():
        raise ValueError(f"the model has no layer {', '.join(sorted(unknown))}")
    if bad := {name: scale for name, scale in scales.items() if not 0 < scale < float("inf")}:
        raise ValueError(f"init_scale is a number above 0, not {next(iter(bad.values()))!r}")
    siblings = chain(*(pairwise(parent.children()) for parent in modules.values()))
    norm_of = {one: other for one, other in siblings if isinstance(other, _BatchNorm)}
    visits = [Visit(n, m, norm_of.get(m), scales.get(n, 1.0)) for n, m in layers.items()]

    training = {module: module.training for module in modules.values()}
    momenta = {m: m.momentum for m in modules.values() if isinstance(m, _BatchNorm)}
    before = [(t, t.clone()) for t in chain(model.parameters(), model.buffers())]
    noise = generators(images.device)
    hooks = [visit.layer.register_forward_hook(visit.after_layer) for visit in visits]
    hooks += [v.norm.register_forward_pre_hook(v.before_norm) for v in visits if v.norm]
    try:
        model.train()
        for checking in (False, True):
            for norm in momenta:
                norm.reset_parameters()
                norm.momentum = 1.0  # the statistics are those of this minibatch alone
            for visit in visits:
                visit.checking, visit.runs, visit.followed = checking, 0, False
            generators(images.device, noise)  # each pass sees the same noise
            with torch.autocast(images.device.type, enabled=False):
                model(images)
        for visit in visits:
            if visit.runs and visit.norm and not visit.followed:
                raise ValueError(f"{visit.name}: the norm beside it does not take what it puts out")
    except BaseException:
        for tensor, value in before:
            tensor.copy_(value)
        raise
    finally:
        for hook in hooks:
            hook.remove()
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        for module, mode in training.items():
            module.training = mode
    if idle := ", ".join(visit.name for visit in visits if not visit.runs):
        warnings.warn(f"left as they are, since the images do not reach them: {idle}", stacklevel=3)


class Visit:
    """What happens to one layer: the first pass sets it by its output, the second checks it."""

    def __init__(self, name: str, layer: Any, norm: _BatchNorm | None, sigma: float) -> None:
        self.name, self.layer, self.norm, self.sigma = name, layer, norm, sigma
        self.checking, self.runs, self.followed = False, 0, False  # in this pass
        self.g, self.log = scale_of(layer, name)

    def before_norm(self, _: nn.Module, inputs: tuple[Tensor]) -> None:
        self.followed |= inputs[0] is self.output
        self.output = None

    def after_layer(self, layer: Any, _: object, t: Tensor) -> Tensor:
        """From what the layer puts out to what it puts out once it is set."""
        self.runs += 1
        if self.runs > 1:
            raise ValueError(f"{self.name} is used twice, and one scale cannot suit both uses")
        channel = t.ndim - 1 if isinstance(layer, nn.Linear) else 1
        if channel > 1:
            self.norm = None  # norms look at dimension 1
        self.output = t if self.norm else None
        dims = [d for d in range(t.ndim) if d != channel]
        wide = torch.promote_types(t.dtype, torch.float32)
        std, mean = torch.std_mean(t.to(wide), dims, correction=0, keepdim=True)
        if not std.isfinite().all():
            raise ValueError(f"{self.name} puts out NaN or infinite values on this minibatch")
        if len(constant := (std <= 1e-6 * mean.abs()).flatten().nonzero()):
            raise ValueError(
                f"{self.name}: output channel {int(constant[0])} is constant on this minibatch, so "
                "it has no scale; use more, or more varied, images"
            )
        mean_only = isinstance(self.norm, MeanOnlyBatchNorm)
        if self.norm and not mean_only:
            return t
        std /= self.sigma
        if self.checking:
            centered = layer.bias is not None and not mean_only
            off = torch.maximum((std - 1).abs(), (mean / self.sigma).abs() * centered).max().item()
            if off < (0.1 if t.dtype.itemsize == 2 else 0.01):  # half precision is coarse
                return t
            raise ValueError(
                f"{self.name}: mean and deviation of its outputs are {off:.2g} off after "
                "initialization; is its weight shared, or does a hook compute it?"
            )
        units = std.view(Units(layer).norm(layer.weight).shape)
        self.g.copy_(self.g - units.log() if self.log else self.g / units)
        if layer.bias is None:
            return t.div_(std)
        if mean_only:  # it will center: only what the bias added goes, and the bias comes out zero
            mean.copy_(layer.bias.view(mean.shape))
        layer.bias.copy_((layer.bias - mean.flatten()) / std.flatten())
        return t.sub_(mean).div_(std)


def scale_of(layer: Any, name: str) -> tuple[Tensor, bool]:
    """What sets the size of the output units, g or the plain weight; and whether it is log g."""
    if "weight" in layer._parameters:
        return Units(layer).apart(layer.weight), False
    steps: Any = getattr(layer, "parametrizations", {"weight": ()})["weight"]
    form = steps[0] if len(steps) == 1 else None
    if isinstance(form, FrozenScale):
        return form.g, False
    known = isinstance(form, WeightNorm | TorchWeightNorm)
    if known and steps.original0.shape == Units(layer).norm(layer.weight).shape:
        return steps.original0, getattr(form, "exp", False)
    raise TypeError(
        f"{name}: its weight is neither plain nor weight-normalized with one g per output unit; "
        "wnlib.weight_norm makes it so"
    )


def generators(device: torch.device, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The states of torch's generators, of the CPU and the device; then set to `state`."""
    modules = {device.type: getattr(torch, device.type), "cpu": torch}
    found = {name: module.get_rng_state() for name, module in modules.items()}
    for name, value in (state or {}).items():
        modules[name].set_rng_state(value)
    return found
