"""Weight normalization and mean-only batch normalization.

Section and equation numbers are those of Salimans & Kingma (2016), https://arxiv.org/abs/1602.07868.
"""

from enum import StrEnum
from functools import partial
from typing import Any, Literal, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy
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


class Units(nn.Module):
    """The output units of a weight: along dimension 0, or 1 if transposed, its groups along 0."""

    def __init__(self, layer: nn.Module, name: str = "weight") -> None:
        super().__init__()
        transposed = getattr(layer, "transposed", False) and name == "weight"
        self.groups: int = getattr(layer, "groups", 1) if transposed else 1
        grouped = self.groups > 1  # seen as (groups, in/groups, out/groups, ...)
        kept = (0, 2) if grouped else (int(transposed),)
        self.dims = [d for d in range(getattr(layer, name).ndim + grouped) if d not in kept]

    def apart(self, v: Tensor) -> Tensor:
        """v in the shape against which one number per output unit broadcasts."""
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

    def __init__(self, layer: nn.Module, name: str, scale: Scale) -> None:
        super().__init__(layer, name)
        self.exp = scale == "exp"
        if self.exp:  # a checkpoint with this key holds s where others hold g
            self.register_buffer("exponential", torch.tensor(True))

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        norm = self.norm(v)
        # 1 stands in for ‖v‖ = 0: w is zero there, and the gradients are finite.
        factor = (g.exp() if self.exp else g) / (norm + (norm == 0))
        return self.times(v, factor).to(v.dtype)

    def right_inverse(self, w: Tensor) -> tuple[Tensor, Tensor]:
        g = self.norm(w)
        if self.exp:
            g = g.clamp_min(torch.finfo(g.dtype).tiny).log()
        return g.to(w.dtype), w


class FrozenScale(Units):
    """w = g W, as with "plain" in the paper's released code: g is set by initialization alone.

    Adam, whose steps have the length of its rate, moves w by g times that.
    """

    g: Tensor

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.register_buffer("g", torch.ones_like(self.norm(layer.weight.detach())))

    def reset_parameters(self) -> None:
        self.g.fill_(1)

    def forward(self, w: Tensor) -> Tensor:
        return self.times(w, self.g)


def weight_norm(module: Module, name: str = "weight", scale: Scale = "linear") -> Module:
    """Write a weight of a layer as w = g v / ‖v‖, one g per output unit (eq. 2), and return it.

    A parametrization of `torch.nn.utils.parametrize`: its parameters are
    ``parametrizations.<name>.original0`` (g, shaped to broadcast) and ``original1`` (v, shaped as
    the weight); with `scale` "exp" it is s that is learned, g = exp(s) (Section 2). The layer
    computes what it computed before; where v is zero, w is zero and the gradients are finite. The
    norm is taken in fp32 or wider; w has v's type and memory format. Of a layer with several
    weights, as an LSTM, each takes a call.

    To set the weight, assign to it (``layer.weight = w``) or call ``layer.reset_parameters()``;
    in place, as by ``nn.init``, one changes a copy. Checkpoints of torch's own weight norms load
    here, and ours there; where s is learned none that holds g does, nor the reverse.

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
    parametrize.register_parametrization(module, name, WeightNorm(module, name, scale))
    module.register_load_state_dict_pre_hook(_adopt)
    if hasattr(module, "reset_parameters"):
        module.reset_parameters = partial(_reset_parameters, module)  # pyright: ignore
    return module


def _adopt(layer: Any, state: dict[str, Any], prefix: str, *others: Any) -> None:
    """Before a state is loaded: g and v of torch's forms become ours; g and s are told apart."""
    for name, steps in getattr(layer, "parametrizations", {}).items():  # none once removed
        form, old, new = steps[0], f"{prefix}{name}", f"{prefix}parametrizations.{name}"
        if not isinstance(form, WeightNorm):
            continue
        at_g, at_v, mark = f"{new}.original0", f"{new}.original1", f"{new}.0.exponential"
        if older := f"{old}_g" in state and f"{old}_v" in state:
            state[at_g], state[at_v] = state.pop(f"{old}_g"), state.pop(f"{old}_v")
        g, v, shape = state.get(at_g), state.get(at_v), steps.original1.shape
        if not (isinstance(g, Tensor) and isinstance(v, Tensor) and v.shape == shape):
            continue  # torch says what is wrong
        if older and form.exp:
            state[mark] = form.exponential
        elif (mark in state) != form.exp:
            theirs, ours = ("g", "s = log g") if form.exp else ("s = log g", "g")
            others[-1].append(f"{at_g} is {theirs}, where this layer learns {ours}")
        if g.ndim == v.ndim and (g.shape != form.norm(v).shape or (older and form.exp)):
            dims = [d for d in range(v.ndim) if g.shape[d] == 1]
            norm = torch.linalg.vector_norm(v, dim=dims, keepdim=True)
            if g.shape == norm.shape:  # one g per input unit, or none of the sizes is right
                state[at_g], state[at_v] = form.right_inverse(v * (g / (norm + (norm == 0))))


def _reset_parameters(layer: Any) -> None:
    """The `reset_parameters` of the layer's class, whose new weights become new g and v."""
    with torch.no_grad(), parametrize.cached():  # so that what it fills in place is kept
        type(layer).reset_parameters(layer)
        drawn = {name: getattr(layer, name) for name in getattr(layer, "parametrizations", ())}
    for name, weight in drawn.items():
        setattr(layer, name, weight)


class MeanOnlyBatchNorm(_BatchNorm):
    """t̃ = t − μ[t] + b over the minibatch (eq. 7): centered like batch norm, never scaled.

    Batch norm computes γ (t − μ) / √(σ² + ε) + b. With ε = 2⁶⁰ and γ = √ε = 2³⁰ the factor of t − μ
    is 1 to rounding, and the gradient that of eq. 8, ∇_t L = ∇_t̃ L − μ[∇_t̃ L]: so torch's own batch
    norm does the work. In evaluation a running mean takes the place of μ. From (N, C) or (N, C, …)
    to the same shape and type; momentum and errors are those of `nn.BatchNorm2d`. The paper's decay
    of 0.9 is a momentum of 0.1 here.
    """

    running_mean: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]
    num_batches_tracked: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]
    __jit_unused_properties__ = ("weight",)

    def __init__(self, num_features: int, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, 0, momentum, affine=False)
        del self._parameters["weight"]  # γ is not learned
        self.affine, self.bias = True, nn.Parameter(torch.zeros_like(self.running_mean))  # (C,)
        self.register_buffer("running_var", self.running_var, persistent=False)  # stays at 1
        self._apply(lambda tensor: tensor)  # sets ε

    def _apply(self, *args: Any, **kwargs: Any) -> Self:  # what `to`, `half` and the like call
        super()._apply(*args, **kwargs)
        self.eps = 2.0**30 if self.bias.dtype is torch.float16 else 2.0**60  # fp16 holds no 2³⁰
        return self

    @property
    def weight(self) -> nn.Parameter:
        """γ, (C,), for `SyncBatchNorm.convert_sync_batchnorm`."""
        return nn.Parameter(torch.full_like(self.bias, self.eps**0.5), requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:
        momentum = self.momentum
        if self.training:
            self.num_batches_tracked.add_(1)
            if momentum is None:  # the plain average of all minibatches
                momentum = 1.0 / float(self.num_batches_tracked)
        gamma = torch.full_like(self.bias, self.eps**0.5)
        running = self.running_mean, torch.ones_like(self.running_mean)  # σ² is nothing beside ε
        rate = 0.0 if momentum is None else momentum
        return F.batch_norm(input, *running, gamma, self.bias, self.training, rate, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_features}, momentum={self.momentum}"
