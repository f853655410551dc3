"""Data-dependent initialization: one minibatch sets the scale and the offset of every layer.

Equation numbers are those of Salimans & Kingma (2016), https://arxiv.org/abs/1602.07868.
"""

import math
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _WeightNorm as TorchWeightNorm

from wnlib.layers import FrozenScale, MeanOnlyBatchNorm, WeightNorm

PART = 50  # images that are worked on at once


@torch.no_grad()
def data_dependent_init(model: nn.Module, images: Tensor) -> None:
    """Initialize g and b so that pre-activations start with mean 0 and variance 1 (eq. 6).

    One pass over one minibatch, with noise and dropout as in training, layer after layer: each
    linear or convolutional layer divides its scale by σ[t] and, where it has a bias, sets it to
    −μ[t]/σ[t]. A weight-normalized layer changes g and keeps v, and so does one with a
    frozen scale; a plain one changes its weights.
    Mean-only BN after a layer takes over the centering: its offset and the layer's bias start at
    zero and its running mean at μ[t]/σ[t]. Batch norm normalizes by itself: the layer before it is
    left as it is, γ = 1, β = 0, and the running statistics are those of the minibatch.

    Args:
        model: made of the layers above; any other modules may stand between them.
        images: what the model takes, (N, …), N ≥ 2. The paper's released code uses 500 images.

    Raises:
        ValueError: fewer than two images; images that are not finite; a channel that is constant
            on the minibatch; a layer used twice. The model is left as it was.
        TypeError: a layer whose weight has a parametrization other than weight normalization.
    """
    if len(images) < 2:
        raise ValueError(
            f"data-dependent initialization needs at least 2 images, got {len(images)}"
        )
    bad = (~images.isfinite()).flatten(1).any(1)
    if bad.any():
        raise ValueError(
            f"image {int(bad.nonzero()[0])} of the minibatch has NaN or infinite values"
        )
    before = {name: value.clone() for name, value in _tensors(model)}
    training = {module: module.training for module in model.modules()}
    momentum = {m: m.momentum for m in model.modules() if isinstance(m, _BatchNorm)}
    decay = {m: m.decay for m in model.modules() if isinstance(m, MeanOnlyBatchNorm)}
    hooks = _InitHooks(model)
    try:
        model.train()
        for norm in momentum:
            norm.momentum = 1.0  # the running statistics become the minibatch's
        for norm in decay:
            norm.decay = 0.0
        model(images)
    except BaseException:
        for name, value in _tensors(model):
            value.copy_(before[name])
        raise
    finally:
        hooks.remove()
        for norm, value in momentum.items():
            norm.momentum = value
        for norm, value in decay.items():
            norm.decay = value
        for module, value in training.items():
            module.training = value


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers, those too that `state_dict` leaves out."""
    return chain(model.named_parameters(), model.named_buffers())


def _std_mean(t: Tensor, dims: list[int]) -> tuple[Tensor, Tensor]:
    """σ and μ over `dims`, the first among them, in fp64, in the shape of t with ones there."""
    # In parts: of 500 images a layer of width 96 in fp64 is 400 MB.
    count = math.prod(t.shape[d] for d in dims)
    parts = t.split(PART)
    mean = sum(part.sum(dims, keepdim=True, dtype=torch.float64) for part in parts) / count
    squares = ((part - mean).square_().sum(dims, keepdim=True) for part in parts)
    return (sum(squares) / count).sqrt(), mean


def _scaled(t: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(t − μ)/σ, taken in fp64, in the type and the memory format of t."""
    out = torch.empty_like(t)
    for part, there in zip(t.split(PART), out.split(PART), strict=True):
        there.copy_((part - mean) / std)
    return out


class _Last(NamedTuple):
    """The layer that ran last. A norm knows that it follows by the tensor that it is handed."""

    layer: nn.Module
    out: Tensor  # as given on
    version: int  # of out: an activation may work in place
    t: Tensor  # as it was
    before: list[tuple[Tensor, Tensor]]  # parameters and the values they had


class _InitHooks:
    """The forward hooks behind `data_dependent_init`."""

    def __init__(self, model: nn.Module) -> None:
        self.names = {module: name or "the model" for name, module in model.named_modules()}
        self.seen: set[nn.Module] = set()
        self.last: _Last | None = None
        self.handles = []
        for module in model.modules():
            if isinstance(module, nn.Linear | _ConvNd):
                self.handles.append(module.register_forward_pre_hook(self.before_layer))
                self.handles.append(module.register_forward_hook(self.after_layer))
            elif isinstance(module, _BatchNorm | MeanOnlyBatchNorm):
                self.handles.append(module.register_forward_pre_hook(self.before_norm))

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()

    def before_layer(self, _layer: nn.Module, _inputs: object) -> None:
        self.last = None  # no norm follows it now, and its tensors are large

    def after_layer(self, layer: nn.Module, _inputs: object, t: Tensor) -> Tensor:
        name = self.names[layer]
        if layer in self.seen:
            raise ValueError(f"{name} is used twice; no one scale suits both uses")
        self.seen.add(layer)
        channel = t.ndim - 1 if isinstance(layer, nn.Linear) else 1
        dims = [d for d in range(t.ndim) if d != channel]
        std, mean = _std_mean(t, dims)
        constant = ~(std > 1e-6 * mean.abs()).flatten()
        if constant.any():
            raise ValueError(
                f"{name}: output channel {int(constant.nonzero()[0])} is constant on this "
                "minibatch, so it has no scale; use more, or more varied, images"
            )
        scale = self._scale(layer, name)
        before = [(p, p.clone()) for p in (scale, layer.bias) if p is not None]
        self._divide(layer, scale, std.flatten())
        if layer.bias is not None:
            layer.bias.copy_((layer.bias - mean.flatten()) / std.flatten())
            out = _scaled(t, mean, std)
        else:  # nothing to centre with: mean-only BN follows, or nobody
            out = _scaled(t, torch.zeros_like(mean), std)
        # Norms look at dimension 1: they follow no linear layer with its units elsewhere.
        self.last = _Last(layer, out, out._version, t, before) if channel == 1 else None
        return out

    def before_norm(self, norm: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        last = self.last
        x = inputs[0]
        follows = last is not None and x is last.out and x._version == last.version
        if isinstance(norm, MeanOnlyBatchNorm):
            norm.bias.zero_()
            if not follows or last.layer.bias is None:
                return None
            uncentred = x - last.layer.bias.view(-1, *[1] * (x.ndim - 2))
            last.layer.bias.zero_()
            return (uncentred,)
        norm.reset_parameters()
        if not follows:
            return None
        for parameter, value in last.before:  # batch norm scales by itself: put the layer back
            parameter.copy_(value)
        return (last.t,)

    @staticmethod
    def _scale(layer: nn.Module, name: str) -> Tensor:
        """The tensor that carries a layer's scale: g or s, or the weight itself."""
        if not parametrize.is_parametrized(layer, "weight"):
            return layer.weight
        steps = layer.parametrizations.weight
        if len(steps) == 1 and isinstance(steps[0], WeightNorm | TorchWeightNorm):
            return steps.original0
        if len(steps) == 1 and isinstance(steps[0], FrozenScale):
            return steps[0].g
        raise TypeError(f"{name}: the weight has a parametrization other than weight normalization")

    @staticmethod
    def _divide(layer: nn.Module, scale: Tensor, factor: Tensor) -> None:
        """Divide every output unit's weight by `factor` (units,), in place."""
        if parametrize.is_parametrized(layer, "weight"):
            exp = getattr(layer.parametrizations.weight[0], "exp", False)
            factor = factor.view(scale.shape)
            scale.copy_(scale - factor.log() if exp else scale / factor)
        else:
            units = WeightNorm(layer, exp=False)
            scale.div_(units.spread(factor.view(units.norm(scale).shape), scale))
