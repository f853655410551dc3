"""Weight normalization and mean-only batch normalization.

Section and equation numbers are those of Salimans & Kingma (2016), https://arxiv.org/abs/1602.07868.
"""

from enum import StrEnum
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

M = TypeVar("M", bound=nn.Module)


class Norm(StrEnum):
    """The five configurations of the paper's Section 5.1, in the order used everywhere."""

    NONE = "none"
    WN = "wn"
    MOBN = "mobn"
    BN = "bn"
    WN_MOBN = "wn_mobn"

    @property
    def label(self) -> str:
        """The name shown in legends and tables."""
        return _LABELS[self]

    @property
    def weight_normalized(self) -> bool:
        """Whether the layers' weights are written as w = g v / ‖v‖."""
        return self in (Norm.WN, Norm.WN_MOBN)

    @property
    def mean_only(self) -> bool:
        """Whether the layers' outputs are centered over the minibatch, without being scaled."""
        return self in (Norm.MOBN, Norm.WN_MOBN)


_LABELS = {
    Norm.NONE: "normal",
    Norm.WN: "weight norm",
    Norm.MOBN: "mean-only BN",
    Norm.BN: "batch norm",
    Norm.WN_MOBN: "WN + mean-only BN",
}


class WeightNorm(nn.Module):
    """w = g v / ‖v‖ (eq. 2) as a parametrization; its originals are (g, v), or (s, v) with g = eˢ.

    The order and the names (original0, original1) are those of PyTorch's own
    `parametrizations.weight_norm`, so checkpoints go either way.
    """

    def __init__(self, layer: nn.Module, exp: bool) -> None:
        super().__init__()
        # Transposed convolutions keep their output units in dimension 1 of the weight, split into
        # groups along dimension 0; every other layer keeps them in dimension 0.
        transposed = getattr(layer, "transposed", False)
        self.groups = layer.groups if transposed else 1
        unit = 1 if transposed else 0
        if self.groups > 1:  # v is seen as (groups, in/groups, out/groups, ...)
            self.dims = [1, *range(3, layer.weight.ndim + 1)]
        else:
            self.dims = [d for d in range(layer.weight.ndim) if d != unit]
        self.exp = exp

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        scale = g.exp() if self.exp else g
        w = _Scaled.apply(scale, self.units(v), self.dims)
        return w.flatten(0, 1) if self.groups > 1 else w

    def right_inverse(self, w: Tensor) -> tuple[Tensor, Tensor]:
        g = self.norm(w)
        if self.exp:
            g = g.clamp_min(torch.finfo(g.dtype).tiny).log()
        return g.to(w.dtype), w

    def units(self, v: Tensor) -> Tensor:
        """v as g broadcasts against it: the groups of a transposed convolution apart."""
        return v.unflatten(0, (self.groups, -1)) if self.groups > 1 else v

    def norm(self, v: Tensor) -> Tensor:
        """‖v‖ of every output unit, in fp32 or wider, in the shape of g."""
        return _norm(self.units(v), self.dims)

    def spread(self, ratio: Tensor, v: Tensor) -> Tensor:
        """One number an output unit, in the shape of g, as it broadcasts against v."""
        if self.groups == 1:
            return ratio
        return ratio.expand(-1, v.shape[0] // self.groups, *ratio.shape[2:]).flatten(0, 1)


class _Scaled(torch.autograd.Function):
    """w = g v / ‖v‖ with its gradients (eq. 3); ‖v‖ over `dims`, g with ones there.

    Autograd finds the same gradients, in twice the time. Where v is zero, 1 stands in for ‖v‖:
    w is zero there, and the gradients are finite.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(g: Tensor, v: Tensor, dims: list[int]) -> Tensor:
        norm = _norm(v, dims)
        # v first: the product has v's memory format.
        return (v * (g / (norm + (norm == 0)))).to(v.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, list[int]], output: Tensor) -> None:
        g, v, ctx.dims = inputs
        ctx.save_for_backward(g, v)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        g, v = ctx.saved_tensors
        norm = _norm(v, ctx.dims)
        norm = norm + (norm == 0)
        grad_w, wide_v = grad.to(norm.dtype), v.to(norm.dtype)
        grad_g = (grad_w * wide_v).sum(ctx.dims, keepdim=True) / norm
        ratio = g / norm
        grad_v = torch.addcmul(grad_w * ratio, wide_v, ratio * grad_g / norm, value=-1)
        return grad_g.to(g.dtype), grad_v.to(v.dtype), None


def _norm(v: Tensor, dims: list[int]) -> Tensor:
    dtype = torch.promote_types(v.dtype, torch.float32)
    return torch.linalg.vector_norm(v, dim=dims, keepdim=True, dtype=dtype)


def weight_norm(module: M, scale: Literal["linear", "exp"] = "linear") -> M:
    """Write the weight of a layer as w = g v / ‖v‖, one g an output unit (eq. 2).

    The weight becomes a `torch.nn.utils.parametrize` parametrization with the parameters
    ``parametrizations.weight.original0`` (g, one an output unit, shaped to broadcast) and
    ``original1`` (v, shaped as the weight). The layer computes what it computed before.

    Precision: the norm and the product are taken in fp32 (or the weight's type, if wider), under
    autocast too; w has v's type and memory format. Where v is zero, w is zero and the gradients
    are finite.

    Args:
        module: any layer with a floating-point `weight` of two or more dimensions: Linear,
            Conv1d-3d, ConvTranspose1d-3d, Bilinear, Embedding.
        scale: "linear" learns g; "exp" learns s with g = eˢ (Section 2).

    Returns:
        The same module.

    Raises:
        ValueError: the weight is parametrized already, or has one dimension, or `scale` is neither.
        TypeError: the module has no weight, or has one that is lazy or not floating point.
    """
    kind = type(module).__name__
    if scale not in ("linear", "exp"):
        raise ValueError(f'scale is "linear" or "exp", not {scale!r}')
    if parametrize.is_parametrized(module, "weight"):
        raise ValueError(
            f"{kind}.weight is parametrized already; call "
            'torch.nn.utils.parametrize.remove_parametrizations(layer, "weight") first'
        )
    weight = getattr(module, "weight", None)
    if isinstance(module, LazyModuleMixin):
        raise TypeError(f"{kind} has no shape yet; run it once on an input, then call weight_norm")
    if not isinstance(weight, nn.Parameter):
        raise TypeError(f"{kind} has no parameter named weight to normalize")
    if not weight.is_floating_point():
        raise TypeError(f"{kind}.weight is {weight.dtype}; weight_norm needs floating point")
    if weight.ndim < 2:
        raise ValueError(f"{kind}.weight has shape {tuple(weight.shape)}; it needs two dimensions")
    parametrize.register_parametrization(module, "weight", WeightNorm(module, scale == "exp"))
    return module


class FrozenScale(nn.Module):
    """w = g W as a parametrization: one g an output unit, set by initialization, not trained.

    The "normal" network of the paper's released code: W stays as drawn, so that Adam, whose steps
    have the length of its rate, moves w by g times that.
    """

    g: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        shape = (len(weight), *[1] * (weight.ndim - 1))
        self.register_buffer("g", torch.ones(shape))  # (units, 1, …)

    def forward(self, w: Tensor) -> Tensor:
        return w * self.g

    def right_inverse(self, w: Tensor) -> Tensor:
        return w / self.g


class MeanOnlyBatchNorm(nn.Module):
    """t̃ = t − μ[t] + b over the minibatch (Section 4): centered like BN, never scaled.

    In training μ is the minibatch mean of each channel, and its gradient centers ∇_t L (eq. 8);
    in evaluation a running average takes its place.

    Precision: means are taken and kept in fp32 (or the input's type, if wider); the output has the
    input's type.

    Args:
        num_features: the number of channels C.
        decay: the running mean becomes decay · old + (1 − decay) · minibatch mean.

    Shape:
        (N, C) or (N, C, …), up to five dimensions, to the same shape.

    Raises:
        ValueError: another number of dimensions or of channels, or a decay outside [0, 1].
    """

    running_mean: Tensor

    def __init__(self, num_features: int, decay: float = 0.9) -> None:
        super().__init__()
        if not 0 <= decay <= 1:
            raise ValueError(f"decay lies in [0, 1], not {decay}")
        self.decay = decay
        self.bias = nn.Parameter(torch.zeros(num_features))  # (C,)
        self.register_buffer("running_mean", torch.zeros(num_features))  # (C,)

    def forward(self, t: Tensor) -> Tensor:
        if not 2 <= t.ndim <= 5 or t.shape[1] != len(self.bias):
            raise ValueError(
                f"MeanOnlyBatchNorm({len(self.bias)}) takes (N, {len(self.bias)}, ...) of two to "
                f"five dimensions, not {tuple(t.shape)}"
            )
        if not self.training:
            return _add(t, self.bias - self.running_mean)
        mean = _mean(t.detach())
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), 1 - self.decay)
        return _Centre.apply(t, mean, self.bias)

    def extra_repr(self) -> str:
        return f"{len(self.bias)}, decay={self.decay}"


class _Centre(torch.autograd.Function):
    """t̃ = t − μ[t] + b with its gradient, ∇_t L = ∇_t̃ L − μ[∇_t̃ L] (eq. 8).

    Autograd finds the same gradient, in more passes over the large tensors.
    """

    @staticmethod
    def forward(t: Tensor, mean: Tensor, bias: Tensor) -> Tensor:
        return _add(t, bias - mean)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.bias_dtype = inputs[2].dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor]:
        mean = _mean(grad)
        count = grad.numel() // grad.shape[1]
        return _add(grad, -mean), None, (mean * count).to(ctx.bias_dtype)


def _mean(t: Tensor) -> Tensor:
    """The mean of each channel, (N, C, …) to (C,), in fp32 or wider."""
    if t.dtype is torch.bfloat16 and t.device.type == "cpu" and t.ndim > 2:
        return _bf16_sum(t) / (t.numel() // t.shape[1])
    dtype = torch.promote_types(t.dtype, torch.float32)
    return t.mean([0, *range(2, t.ndim)], dtype=dtype)


def _bf16_sum(t: Tensor) -> Tensor:
    """The sum of each channel in fp32 to 17 bits, bf16 (N, C, …) to (C,).

    On a CPU torch copies a bf16 tensor to fp32 before it adds it up. A product with ones adds in
    fp32 where it stands and rounds the sum to bf16; a second one finds what the rounding took off.
    At width 96 that takes a tenth of the time.
    """
    pixels = t.flatten(2)  # (N, C, P)
    ones = t.new_ones(len(t), pixels.shape[2], 1)
    rough = torch.bmm(pixels, ones)  # (N, C, 1)
    rest = torch.baddbmm(rough, pixels, ones, beta=-1)
    return (rough.float() + rest).sum((0, 2))


def _add(t: Tensor, shift: Tensor) -> Tensor:
    """t (N, C, …) plus a number a channel, shift (C,), in the type of t.

    Batch norm in evaluation, with mean 0 and variance 1, is that sum. On a CPU its kernel takes a
    third of the time that a broadcast sum takes over a channels-last tensor in bf16.
    """
    shift = shift.to(torch.promote_types(t.dtype, torch.float32))
    one = torch.ones_like(shift)
    # eps must be positive in torch 2.10 to 2.12, and 1 + 1e-30 is 1.
    return F.batch_norm(t, torch.zeros_like(shift), one, one, shift, eps=1e-30)
