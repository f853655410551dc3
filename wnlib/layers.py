"""Weight normalization and mean-only batch normalization.

Section and equation numbers are those of Salimans & Kingma (2016), https://arxiv.org/abs/1602.07868.
"""

from enum import StrEnum
from typing import Any, Literal, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

Module = TypeVar("Module", bound=nn.Module)
Scale = Literal["linear", "exp"]  # what weight norm learns: g, or s with g = exp(s)
Plain = Literal["divided", "frozen"]  # what initialization sets without it: w, or a g beside it


class Norm(StrEnum):
    """The five configurations of the paper's Section 5.1, in the order used everywhere."""

    NONE = "none", "plain"
    WN = "wn", "weight norm"
    MOBN = "mobn", "mean-only BN"
    BN = "bn", "batch norm"
    WN_MOBN = "wn_mobn", "WN + mean-only BN"

    label: str  #: the name shown in legends and tables
    weight_normalized: bool  #: whether the layers' weights are written as w = g v / ‖v‖
    mean_only: bool  #: whether the outputs are centered over the minibatch, but not scaled

    def __new__(cls, value: str, label: str) -> Self:
        self = str.__new__(cls, value)
        self._value_, self.label = value, label
        self.weight_normalized, self.mean_only = "wn" in value, "mobn" in value
        return self


def per_unit(layer: Any, name: str = "weight") -> list[int]:
    """The shape of one number per output unit, as it broadcasts against a weight of the layer.

    Units lie along dimension 0, those of a transposed convolution along 1; TypeError: in groups.
    """
    unit = int(getattr(layer, "transposed", False))
    if unit and layer.groups > 1:
        raise TypeError("a transposed convolution in groups cannot have one number per output unit")
    return [size if d == unit else 1 for d, size in enumerate(getattr(layer, name).shape)]


def length(v: Tensor, shape: list[int] | torch.Size) -> Tensor:
    """‖v‖ over the dimensions that have size 1 in `shape`, which it takes; in fp32 or wider."""
    dims = [d for d, size in enumerate(shape) if size == 1]
    wide = torch.promote_types(v.dtype, torch.float32)
    return torch.linalg.vector_norm(v, dim=dims, keepdim=True, dtype=wide)


class WeightNorm(nn.Module):
    """w = g v / ‖v‖ (eq. 2) as a parametrization by g and v, or by s and v with g = eˢ."""

    def __init__(self, shape: list[int], scale: Scale) -> None:
        super().__init__()
        self.shape, self.exp = shape, scale == "exp"
        if self.exp:  # a checkpoint with this key holds s where others hold g
            self.register_buffer("exponential", torch.tensor(True))

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        norm = length(v, g.shape)
        norm = norm + (norm == 0)  # where v is zero, w is, too, and the gradients are finite
        factor = (g.exp() if self.exp else g) / norm
        return (v * factor).to(v.dtype)

    def right_inverse(self, w: Tensor) -> tuple[Tensor, Tensor]:
        g = length(w, self.shape)
        if self.exp:
            g = g.clamp_min(torch.finfo(g.dtype).tiny).log()
        return g.to(w.dtype), w.clone()  # training must not change the caller's tensor


class FrozenScale(nn.Module):
    """w = g W, with a g that only initialization sets: "plain" in the paper's released code."""

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.register_buffer("g", layer.weight.new_ones(per_unit(layer)))
        self.g: Tensor

    def forward(self, w: Tensor) -> Tensor:
        return w * self.g


def weight_norm(module: Module, name: str = "weight", scale: Scale = "linear") -> Module:
    """Write a layer's weight as w = g v / ‖v‖, one g per output unit (eq. 2); return the layer.

    A parametrization of `torch.nn.utils.parametrize`: its parameters are
    ``parametrizations.<name>.original0`` (g, shaped to broadcast) and ``original1`` (v, shaped as
    the weight); with `scale` "exp" it is s that is learned, g = exp(s) (Section 2). The layer
    computes what it computed before. The norm is taken in fp32 or wider; w has v's type and memory
    format; a v of zero gives a w of zero and finite gradients. An LSTM takes a call per weight. To
    set a weight, assign a tensor, ``layer.weight = w``; in place, as by ``nn.init``, one changes a
    copy. Checkpoints of torch's own weight norms load here, but not with ``dim=None``, and ours
    there, of transposed convolutions with ``dim=1``; never a g as an s or the reverse.

    Raises:
        ValueError: the weight is parametrized already, or `scale` is neither.
        TypeError: there is no such weight of two or more dimensions, or it is that of a transposed
            convolution in groups.
    """
    if scale not in ("linear", "exp"):
        raise ValueError(f'scale is "linear" or "exp", not {scale!r}')
    kind, weight = type(module).__name__, getattr(module, name, None)
    if parametrize.is_parametrized(module, name):
        raise ValueError(f"{kind}.{name} is parametrized already; call remove_parametrizations")
    if not isinstance(weight, nn.Parameter) or weight.ndim < 2:
        raise TypeError(f"{kind} has no {name} of two or more dimensions")
    parametrize.register_parametrization(module, name, WeightNorm(per_unit(module, name), scale))
    module.register_load_state_dict_pre_hook(_adopt)
    return module


def _adopt(layer: Any, state: dict[str, Any], prefix: str, *others: Any) -> None:
    """Before a state is loaded: g and v of torch's forms become ours; g and s are told apart."""
    for name, steps in getattr(layer, "parametrizations", {}).items():  # none once removed
        form, old, new = steps[0], f"{prefix}{name}", f"{prefix}parametrizations.{name}"
        if not isinstance(form, WeightNorm):
            continue
        at_g, at_v = f"{new}.original0", f"{new}.original1"
        for older, ours in ((f"{old}_g", at_g), (f"{old}_v", at_v)):
            if older in state:
                state[ours] = state.pop(older)
        g, v = state.get(at_g), state.get(at_v)
        if g is None or v is None or v.shape != steps.original1.shape or g.ndim != v.ndim:
            continue  # torch says what is wrong
        if (f"{new}.0.exponential" in state) != form.exp:
            learned = "s = log g" if form.exp else "g"
            others[-1].append(f"this layer learns {learned}, which {at_g} is not")
        elif g.shape != steps.original0.shape and g.shape == length(v, g.shape).shape:
            # One g per input unit, say: the weight that it gives has one per output unit, too.
            state[at_g], state[at_v] = form.right_inverse(form(g, v))


class MeanOnlyBatchNorm(_BatchNorm):
    """t̃ = t − μ[t] + b over the minibatch (eq. 7): centered like batch norm, never scaled.

    Batch norm computes γ (t − μ) / √(σ² + ε) + b. With ε = 2⁶⁰ and γ = √ε = 2³⁰ the factor of t − μ
    is 1 to fp32's rounding, for σ up to 2¹⁸ (in fp16 2¹⁰), and the gradient that of eq. 8,
    ∇_t L = ∇_t̃ L − μ[∇_t̃ L]: so torch's own batch norm does the work, on (N, C) or (N, C, …), with
    its running mean in evaluation, its momentum (the paper's decay of 0.9 is 0.1) and its errors.
    """

    running_mean: Any  # (C,)
    num_batches_tracked: Any

    def __init__(self, num_features: int, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, 2.0**60, momentum)
        self.register_parameter("weight", None)  # γ is not learned; bias, (C,), is b
        self.register_buffer("running_var", self.running_var, persistent=False)  # stays at 1

    @property
    def weight(self) -> nn.Parameter:
        """γ, (C,), for `SyncBatchNorm.convert_sync_batchnorm`, which takes it over."""
        return nn.Parameter(torch.full_like(self.bias.float(), self.eps**0.5), requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:
        momentum = self.momentum
        if self.training:
            self.num_batches_tracked.add_(1)
            if momentum is None:  # the plain average of all minibatches
                momentum = 1.0 / float(self.num_batches_tracked)
        eps = 2.0**30 if self.bias.dtype is torch.float16 else self.eps  # fp16 holds no 2³⁰
        gamma = torch.full_like(self.bias, eps**0.5)
        running = self.running_mean, torch.ones_like(self.running_mean)  # σ² is nothing beside ε
        return F.batch_norm(input, *running, gamma, self.bias, self.training, momentum or 0.0, eps)
