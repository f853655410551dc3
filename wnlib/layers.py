"""Weight normalization and mean-only batch normalization.

Section and equation numbers are those of Salimans & Kingma (2016), https://arxiv.org/abs/1602.07868.
"""

from enum import StrEnum
from typing import Any, Literal, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from wnlib._cpu import center, shift

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

    def __new__(cls, value: str, label: str) -> Self:
        self = str.__new__(cls, value)
        self._value_, self.label = value, label
        return self

    @property
    def weight_normalized(self) -> bool:
        """Whether the layers' weights are written as w = g v / ‖v‖."""
        return self in (Norm.WN, Norm.WN_MOBN)

    @property
    def mean_only(self) -> bool:
        """Whether the layers' outputs are centered over the minibatch, without being scaled."""
        return self in (Norm.MOBN, Norm.WN_MOBN)


class Units(nn.Module):
    """The output units of a layer's weight, each a vector with a length and a factor of its own.

    They lie along dimension 0, those of a transposed convolution along 1, its groups along 0.
    """

    def __init__(self, layer: nn.Module, name: str = "weight") -> None:
        super().__init__()
        transposed = getattr(layer, "transposed", False) and name == "weight"
        self.groups: int = getattr(layer, "groups", 1) if transposed else 1
        grouped = self.groups > 1  # seen as (groups, in/groups, out/groups, ...)
        kept = (0, 2) if grouped else (int(transposed),)
        self.dims = [d for d in range(getattr(layer, name).ndim + grouped) if d not in kept]

    def apart(self, v: Tensor) -> Tensor:
        """v as one number an output unit broadcasts against it."""
        return v.unflatten(0, (self.groups, -1)) if self.groups > 1 else v

    def norm(self, v: Tensor) -> Tensor:
        """‖v‖ of each unit, in fp32 or wider, shaped to broadcast."""
        wide = torch.promote_types(v.dtype, torch.float32)
        return torch.linalg.vector_norm(self.apart(v), dim=self.dims, keepdim=True, dtype=wide)

    def times(self, v: Tensor, factor: Tensor) -> Tensor:
        """Each unit of v times its factor, in the shape and memory format of v."""
        w = self.apart(v) * factor
        return w.flatten(0, 1) if self.groups > 1 else w


class WeightNorm(Units):
    """w = g v / ‖v‖ (eq. 2) as a parametrization by g and v, or by s and v with g = eˢ."""

    def __init__(self, layer: nn.Module, name: str, exp: bool) -> None:
        super().__init__(layer, name)
        self.exp = exp

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        if self.exp:
            g = g.exp()
        norm = self.norm(v)
        # 1 stands in for ‖v‖ = 0: w is zero there, and the gradients are finite.
        return self.times(v, g / (norm + (norm == 0))).to(v.dtype)

    def right_inverse(self, w: Tensor) -> tuple[Tensor, Tensor]:
        g = self.norm(w)
        if self.exp:
            g = g.clamp_min(torch.finfo(g.dtype).tiny).log()
        return g.to(w.dtype), w


class FrozenScale(Units):
    """w = g W as a parametrization: one g an output unit, set by initialization, not trained.

    So it is with "plain" in the paper's released code: Adam, whose steps have the length of its
    rate, moves w by g times that.
    """

    g: Tensor

    def __init__(self, layer: nn.Module, name: str = "weight") -> None:
        super().__init__(layer, name)
        self.register_buffer("g", torch.ones_like(self.norm(getattr(layer, name).detach())))

    def forward(self, w: Tensor) -> Tensor:
        return self.times(w, self.g)

    def right_inverse(self, w: Tensor) -> Tensor:
        return self.times(w, 1 / self.g)


def weight_norm(module: Module, name: str = "weight", scale: Scale = "linear") -> Module:
    """Write a weight of a layer as w = g v / ‖v‖, one g an output unit (eq. 2).

    A parametrization of `torch.nn.utils.parametrize`: its parameters are
    ``parametrizations.<name>.original0`` (g, shaped to broadcast) and ``original1`` (v, shaped as
    the weight). The layer computes what it computed before.

    To set the weight, assign to it (``layer.weight = w``) or call ``layer.reset_parameters()``.
    What changes ``layer.weight`` in place, as ``nn.init`` does, changes a copy. Checkpoints of
    torch's `parametrizations.weight_norm` and of its older hook (``weight_g``, ``weight_v``) load
    here, and ours there; of a transposed convolution, which has one g an input channel there, the
    same w loads. Norm and product are taken in fp32 or wider, under autocast too; w has v's type
    and memory format. Where v is zero, w is zero and the gradients are finite.

    Args:
        module: any layer of torch that has weights, an LSTM or a MultiheadAttention, too.
        name: of the weight; a module with several takes a call for each. It is returned.
        scale: "linear" learns g; "exp" learns s with g = exp(s) (Section 2).

    Raises:
        ValueError: the weight is parametrized already, or `scale` is neither.
        TypeError: the module has no such weight, in floating point and two or more dimensions.
    """
    kind = type(module).__name__
    if scale not in ("linear", "exp"):
        raise ValueError(f'scale is "linear" or "exp", not {scale!r}')
    if parametrize.is_parametrized(module, name):
        remove = f'torch.nn.utils.parametrize.remove_parametrizations(layer, "{name}")'
        raise ValueError(f"{kind}.{name} is parametrized already; call {remove} first")
    weight: Any = getattr(module, name, None)
    if is_lazy(weight):
        raise TypeError(f"{kind} has no shape yet; run it once on an input, then call weight_norm")
    if not (isinstance(weight, nn.Parameter) and weight.is_floating_point() and weight.ndim > 1):
        raise TypeError(f"{kind} has no {name} in floating point and two or more dimensions")
    form = WeightNorm(module, name, scale == "exp")
    parametrize.register_parametrization(module, name, form)
    module._register_load_state_dict_pre_hook(
        lambda state, prefix, *_: _adopt(form, name, state, prefix)
    )
    parametrized: Any = type(module)  # a class of this module's own
    if hasattr(module, "reset_parameters") and "reset_parameters" not in vars(parametrized):
        parametrized.reset_parameters = _reset_parameters
    return module


def _adopt(form: WeightNorm, name: str, state: dict[str, Any], prefix: str) -> None:
    """Bring the g and v of a checkpoint into our form: the older hook's, or one g an input unit."""
    ours = [f"{prefix}parametrizations.{name}.original{i}" for i in (0, 1)]
    hooks = [f"{prefix}{name}_{letter}" for letter in "gv"]
    theirs = hooks if all(key in state for key in hooks) else ours
    if not all(key in state for key in theirs):
        return
    g, v = (state.pop(key) for key in theirs)
    if g.shape != form.norm(v).shape or (form.exp and theirs is hooks):
        dims = [d for d in range(v.ndim) if g.ndim == 0 or g.shape[d] == 1]
        g, v = form.right_inverse(v * (g / torch.linalg.vector_norm(v, dim=dims, keepdim=True)))
    state |= dict(zip(ours, (g, v), strict=True))


def _reset_parameters(self: Any) -> None:
    """The layer's own `reset_parameters`, whose new weights become new g and v."""
    with torch.no_grad(), parametrize.cached():  # so that what it fills in place is kept
        layer: Any = super(type(self), self)
        layer.reset_parameters()
        drawn = {name: getattr(self, name).clone() for name in self.parametrizations}
    for name, weight in drawn.items():
        setattr(self, name, weight)


class MeanOnlyBatchNorm(nn.Module):
    """t̃ = t − μ[t] + b over the minibatch (eq. 7): centered like BN, never scaled.

    In training μ is the minibatch mean of each channel, and its gradient centers ∇_t L (eq. 8); in
    evaluation a running mean takes its place. Means are taken and kept in fp32 or wider; the output
    has the input's type and shape: (N, C) or (N, C, …), up to five dimensions.

    Args:
        num_features: the number of channels C.
        momentum: of the running mean, as in `nn.BatchNorm2d`: the paper's decay of 0.9 is 0.1 here.

    Raises:
        ValueError: for another shape; in training, for one value a channel, which is its own mean.
    """

    running_mean: Tensor

    def __init__(self, num_features: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.bias = nn.Parameter(torch.zeros(num_features))  # (C,)
        self.register_buffer("running_mean", torch.zeros(num_features))  # (C,)

    def forward(self, t: Tensor) -> Tensor:
        channels = len(self.bias)
        if not 2 <= t.ndim <= 5 or t.shape[1] != channels:
            kind = f"(N, {channels}, ...) of two to five dimensions"
            raise ValueError(f"MeanOnlyBatchNorm({channels}) takes {kind}, not {tuple(t.shape)}")
        if not self.training:
            return shift(t, self.bias - self.running_mean)
        if t.numel() == channels:
            raise ValueError(f"expected more than 1 value per channel, got size {tuple(t.shape)}")
        if not t.numel():
            return t + self.bias.sum() * 0  # nothing to average; b has a gradient of zero
        centered, mean = center(t, self.bias)  # t − μ[t] + b, (N, C, …), and μ[t], (C,)
        with torch.no_grad():
            self.running_mean.mul_(1 - self.momentum).add_(self.momentum * mean)
        return centered

    def extra_repr(self) -> str:
        return f"{len(self.bias)}, momentum={self.momentum}"
