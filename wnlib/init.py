"""Data-dependent initialization: one minibatch sets the scale and the offset of every layer.

Equation numbers are those of Salimans & Kingma (2016), https://arxiv.org/abs/1602.07868.
"""

import copy
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrizations import _WeightNorm as TorchWeightNorm

from wnlib.layers import FrozenScale, MeanOnlyBatchNorm, Units, WeightNorm

Layer = nn.Linear | _ConvNd
AnyNorm = _BatchNorm | MeanOnlyBatchNorm

TOLERANCE = 0.01  # of a mean or a standard deviation, once it is set


@torch.no_grad()
def data_dependent_init_(
    model: nn.Module, images: Tensor, init_scale: float | Mapping[str, float] = 1.0
) -> None:
    """Set g and b so that pre-activations start with mean 0 and variance 1 (eq. 6).

    In one pass, with noise and dropout as in training, each linear or convolutional layer divides
    its g (or, without one, its weight) by σ[t] and sets its bias, if it has one, to −μ[t]/σ[t].
    Mean-only BN after a layer takes over the centering: both biases start at zero, its running mean
    at μ[t]/σ[t]. Batch norm normalizes by itself: the layer before it is left as it is, γ = 1,
    β = 0, and the running statistics are those of the minibatch. A last pass, with the same noise,
    checks it all.

    Args:
        model: of these layers, and any other modules between them.
        images: what the model takes, (N, …), N ≥ 2. The paper's released code uses 500 images.
        init_scale: the standard deviation to start with, the paper's 1 by default; or, by name, of
            some layers. Residual branches do better with less.

    Raises:
        ValueError: fewer than two images, or not finite; a channel that is constant on them; a name
            that no layer has; a layer that does not come out as asked, since it is used twice,
            shares its weight, or something else computes it. The model is left as it was.
        TypeError: a weight with a parametrization other than one g an output unit.
    """
    if len(images) < 2:
        raise ValueError(f"data-dependent initialization takes 2 images or more, not {len(images)}")
    if len(bad := (~images.isfinite()).flatten(1).any(1).nonzero()):
        raise ValueError(f"image {int(bad[0])} of the minibatch has NaN or infinite values")
    for layer, name in _layers(model).items():
        _scale(layer, name)
    values = (value for module in model.modules() for value in vars(module).values())
    kept = {id(v): v for v in values if isinstance(v, Tensor) and not v.is_leaf}  # has no copy
    trial = copy.deepcopy(model, kept).train()  # if anything fails, the model is as it was
    names = _layers(trial)
    if not isinstance(init_scale, Mapping):
        init_scale = dict.fromkeys(names.values(), init_scale)
    if unknown := init_scale.keys() - names.values():
        raise ValueError(f"the model has no layer {', '.join(sorted(unknown))}")
    sigmas = {layer: init_scale.get(name, 1.0) for layer, name in names.items()}

    def visit(layer: Layer, _: object, t: Tensor) -> Tensor:
        std, mean = _std_mean(layer, t)
        constant = ~(std > 1e-6 * mean.abs()).flatten()
        if constant.any():
            raise ValueError(
                f"{names[layer]}: output channel {int(constant.nonzero()[0])} is constant on this "
                "minibatch, so it has no scale; use more, or more varied, images"
            )
        norm = followers.get(layer)
        if isinstance(norm, _BatchNorm):
            return t
        std /= sigmas[layer]
        if checking:
            off = (std - 1).abs().max().item()
            if norm is None and layer.bias is not None:
                off = max(off, (mean / sigmas[layer]).abs().max().item())
            if off < TOLERANCE:
                return t
            raise ValueError(
                f"{names[layer]}: mean and deviation of its outputs are {off:.2g} off after "
                "initialization; is it used twice, is its weight shared, or does a hook compute it?"
            )
        scale, log = _scale(layer, names[layer])
        factor = std.view(Units(layer).norm(layer.weight).shape)
        scale.copy_(scale - factor.log() if log else scale / factor)
        if layer.bias is None:
            mean.zero_()
        elif norm is None:
            layer.bias.copy_((layer.bias - mean.flatten()) / std.flatten())
        else:  # mean-only BN will center: only what the bias added goes
            mean.copy_(layer.bias.view(mean.shape))
            layer.bias.zero_()
        return t.sub_(mean).div_(std)

    norms = [module for module in trial.modules() if isinstance(module, AnyNorm)]
    for norm in norms:
        norm.momentum = 1.0  # the statistics are those of this minibatch alone
    drawn = generators(images.device)
    followers = _followers(trial, images)
    for layer in names:
        layer.register_forward_hook(visit)
    for checking in (False, True):  # noqa: B007, visit looks at it
        for norm in norms:
            if isinstance(norm, MeanOnlyBatchNorm):
                norm.bias.zero_()
            else:
                norm.reset_parameters()
        generators(images.device, drawn)  # each pass sees the same noise
        trial(images)
    ours, tried = (chain(each.parameters(), each.buffers()) for each in (model, trial))
    for tensor, value in zip(ours, tried, strict=True):
        tensor.copy_(value)


def _layers(model: nn.Module) -> dict[Layer, str]:
    """The layers to initialize, and their names."""
    modules = ((module, name or "the model") for name, module in model.named_modules())
    return {module: name for module, name in modules if isinstance(module, Layer)}


def _scale(layer: Layer, name: str) -> tuple[Tensor, bool]:
    """What sets the size of the output units, g or the plain weight; and whether it is log g."""
    if "weight" in layer._parameters:
        return Units(layer).apart(layer.weight), False
    steps: Any = getattr(layer, "parametrizations", {"weight": ()})["weight"]
    form = steps[0] if len(steps) == 1 else None
    if isinstance(form, FrozenScale):
        return form.g, False
    if isinstance(form, WeightNorm | TorchWeightNorm):
        g = steps.original0
        if g.shape == Units(layer).norm(layer.weight).shape:
            return g, getattr(form, "exp", False)
    raise TypeError(
        f"{name}: its weight is neither plain nor weight-normalized with one g an output unit; "
        "wnlib.weight_norm makes it so"
    )


def _followers(model: nn.Module, images: Tensor) -> dict[Layer, AnyNorm]:
    """The norm that takes a layer's output as it is, of each layer that has one."""
    followers: dict[Layer, AnyNorm] = {}
    last: tuple[Layer, Tensor, int] | None = None

    def after_layer(layer: Layer, _: object, t: Tensor) -> None:
        nonlocal last
        # Norms look at dimension 1: they follow no linear layer with its units elsewhere.
        last = None if isinstance(layer, nn.Linear) and t.ndim > 2 else (layer, t, t._version)

    def before_norm(norm: AnyNorm, inputs: tuple[Tensor]) -> None:
        if last and inputs[0] is last[1] and inputs[0]._version == last[2]:  # not changed in place
            followers[last[0]] = norm

    for module in model.modules():
        if isinstance(module, Layer):
            module.register_forward_hook(after_layer)
        elif isinstance(module, AnyNorm):
            module.register_forward_pre_hook(before_norm)
    model(images)
    return followers


def _std_mean(layer: Layer, t: Tensor) -> tuple[Tensor, Tensor]:
    """σ and μ of a layer's units, in the shape of t with ones in the other dimensions."""
    channel = t.ndim - 1 if isinstance(layer, nn.Linear) else 1
    dims = [d for d in range(t.ndim) if d != channel]
    return torch.std_mean(t, dims, correction=0, keepdim=True)


def generators(device: torch.device, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The states of torch's generators, of the CPU and the device; then set to `state`."""
    modules = {device.type: getattr(torch, device.type), "cpu": torch}
    found = {name: module.get_rng_state() for name, module in modules.items()}
    for name, value in (state or {}).items():
        modules[name].set_rng_state(value)
    return found
