"""Data-dependent initialization: one minibatch sets the scale and the offset of every layer.

Equation numbers are those of Salimans & Kingma (2016), https://arxiv.org/abs/1602.07868.
"""

import math
from collections.abc import Container, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _WeightNorm as TorchWeightNorm

from wnlib.layers import FrozenScale, MeanOnlyBatchNorm, WeightNorm

PART = 50  # images that are worked on at once
TOLERANCE = 0.01  # of a mean or a standard deviation, once it is set


@torch.no_grad()
def data_dependent_init_(
    model: nn.Module, images: Tensor, init_scale: float | Mapping[str, float] = 1.0
) -> None:
    """Initialize g and b so that pre-activations start with mean 0 and variance 1 (eq. 6).

    One pass over one minibatch, with noise and dropout as in training, layer after layer: each
    linear or convolutional layer divides its scale by σ[t] and, where it has a bias, sets it to
    −μ[t]/σ[t]. A weight-normalized layer changes g and keeps v, and so does one with a frozen
    scale; a plain one changes its weights. Mean-only BN after a layer takes over the centring: its
    offset and the layer's bias start at zero and its running mean at μ[t]/σ[t]. Batch norm
    normalizes by itself: the layer before it is left as it is, γ = 1, β = 0, and the running
    statistics are those of the minibatch. A last pass, with the same noise, checks it all.

    Args:
        model: made of the layers above; any other modules may stand between them.
        images: what the model takes, (N, …), N ≥ 2. The paper's released code uses 500 images.
        init_scale: the standard deviation to start with, the paper's 1 by default; or, by name, of
            some layers. Residual branches do better with less.

    Raises:
        ValueError: fewer than two images; images that are not finite; a channel that is constant
            on the minibatch; a name that no layer has; a layer that does not come out as asked:
            it is used twice, shares its weight, or something else computes it. The model is left
            as it was.
        TypeError: a layer whose weight has a parametrization other than weight normalization with
            one g an output unit.
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
    layers = {
        module: name or "the model"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | _ConvNd)
    }
    scales = init_scale
    if not isinstance(scales, Mapping):
        scales = dict.fromkeys(layers.values(), scales)
    if unknown := scales.keys() - layers.values():
        raise ValueError(f"the model has no layer {', '.join(sorted(unknown))}")
    before = [(t, t.clone()) for t in chain(model.parameters(), model.buffers())]
    drawn = read_generators(images.device)

    def set_(layer: nn.Module, _: object, t: Tensor) -> Tensor | None:
        norm = followers.get(layer)
        std, mean = _std_mean(t, layer)
        constant = ~(std > 1e-6 * mean.abs()).flatten()
        if constant.any():
            raise ValueError(
                f"{layers[layer]}: output channel {int(constant.nonzero()[0])} is constant on this "
                "minibatch, so it has no scale; use more, or more varied, images"
            )
        if isinstance(norm, _BatchNorm):
            return None
        std /= scales.get(layers[layer], 1.0)
        _divide(layer, layers[layer], std.flatten())
        if layer.bias is None:
            mean.zero_()
        elif norm is not None:  # mean-only BN will centre: only what the bias added goes
            mean.copy_(layer.bias.view(mean.shape))
            layer.bias.zero_()
        else:
            layer.bias.copy_((layer.bias - mean.flatten()) / std.flatten())
        out = torch.empty_like(t)
        for part, there in zip(t.split(PART), out.split(PART), strict=True):
            there.copy_((part - mean) / std)
        return out

    def check(layer: nn.Module, _: object, t: Tensor) -> None:
        norm = followers.get(layer)
        if isinstance(norm, _BatchNorm):
            return
        std, mean = (each / scales.get(layers[layer], 1.0) for each in _std_mean(t, layer))
        off = (std - 1).abs().max().item()
        if norm is None and layer.bias is not None:
            off = max(off, mean.abs().max().item())
        if not off < TOLERANCE:
            raise ValueError(
                f"{layers[layer]}: mean and deviation of its outputs are {off:.2g} off after "
                "initialization; is it used twice, is its weight shared, or does a hook compute it?"
            )

    try:
        with _in_training(model):
            followers = _followers(model, layers, images)
            for visit in (set_, check):
                for norm in model.modules():
                    if isinstance(norm, _BatchNorm):
                        norm.reset_parameters()
                    elif isinstance(norm, MeanOnlyBatchNorm):
                        norm.bias.zero_()
                write_generators(drawn)  # each pass sees the same noise
                with ExitStack() as hooks:
                    for layer in layers:
                        hooks.enter_context(layer.register_forward_hook(visit))
                    model(images)
    except BaseException:
        for tensor, value in before:
            tensor.copy_(value)
        raise


@contextmanager
def _in_training(model: nn.Module) -> Iterator[None]:
    """The model in training mode, its running statistics those of the minibatch alone."""
    training = {module: module.training for module in model.modules()}
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm | MeanOnlyBatchNorm)]
    momentum = [norm.momentum for norm in norms]
    try:
        model.train()
        for norm in norms:
            norm.momentum = 1.0
        yield
    finally:
        for norm, value in zip(norms, momentum, strict=True):
            norm.momentum = value
        for module, value in training.items():
            module.training = value


def _followers(
    model: nn.Module, layers: Container[nn.Module], images: Tensor
) -> dict[nn.Module, nn.Module]:
    """The norm that takes the output of each layer, if one does, as it is."""
    followers: dict[nn.Module, nn.Module] = {}
    last: tuple[nn.Module, Tensor, int] | None = None

    def after_layer(layer: nn.Module, _: object, t: Tensor) -> None:
        nonlocal last
        # Norms look at dimension 1: they follow no linear layer with its units elsewhere.
        last = (layer, t, t._version) if _channel(layer, t) == 1 else None

    def before_norm(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        if last and inputs[0] is last[1] and inputs[0]._version == last[2]:  # not changed in place
            followers[last[0]] = norm

    with ExitStack() as hooks:
        for module in model.modules():
            if module in layers:
                hooks.enter_context(module.register_forward_hook(after_layer))
            elif isinstance(module, _BatchNorm | MeanOnlyBatchNorm):
                hooks.enter_context(module.register_forward_pre_hook(before_norm))
        model(images)
    return followers


def _channel(layer: nn.Module, t: Tensor) -> int:
    return t.ndim - 1 if isinstance(layer, nn.Linear) else 1


def _std_mean(t: Tensor, layer: nn.Module) -> tuple[Tensor, Tensor]:
    """σ and μ of a layer's units, in fp64, in the shape of t with ones in the other dimensions."""
    dims = [d for d in range(t.ndim) if d != _channel(layer, t)]
    # In parts: of 500 images a layer of width 96 in fp64 is 400 MB. Apple's GPUs have no fp64.
    wide = torch.float32 if t.device.type == "mps" else torch.float64
    count = math.prod(t.shape[d] for d in dims)
    parts = t.split(PART)
    mean = sum(part.sum(dims, keepdim=True, dtype=wide) for part in parts) / count
    squares = ((part - mean).square_().sum(dims, keepdim=True) for part in parts)
    return (sum(squares) / count).sqrt(), mean


def _divide(layer: nn.Module, name: str, factor: Tensor) -> None:
    """Divide the scale of every output unit by `factor` (units,), in place: g, s, or the weight."""
    if not parametrize.is_parametrized(layer, "weight"):
        units = WeightNorm(layer, "weight", exp=False)
        units.units(layer.weight).div_(factor.view(units.norm(layer.weight).shape))
        return
    steps = layer.parametrizations.weight
    kind = steps[0] if len(steps) == 1 else None
    known = isinstance(kind, WeightNorm | TorchWeightNorm)
    g = kind.g if isinstance(kind, FrozenScale) else steps.original0 if known else torch.empty(0)
    if g.numel() != len(factor):
        raise TypeError(
            f"{name}: its weight has a parametrization other than weight normalization with one g "
            "an output unit; wnlib.weight_norm gives it that"
        )
    factor = factor.view(g.shape)
    g.copy_(g - factor.log() if getattr(kind, "exp", False) else g / factor)


def read_generators(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's generators on the CPU and on the device, by the device's type."""
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = getattr(torch, device.type).get_rng_state()
    return state


def write_generators(state: dict[str, Tensor]) -> None:
    """Set them to what `read_generators` has read."""
    for name, value in state.items():
        (torch if name == "cpu" else getattr(torch, name)).set_rng_state(value)
