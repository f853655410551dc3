"""Weight normalization and mean-only batch normalization.

Section and equation numbers are those of Salimans & Kingma (2016), https://arxiv.org/abs/1602.07868.
"""

from enum import StrEnum
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from wnlib._cpu import centre, shift

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
        """Whether the layers' outputs are centred over the minibatch, without being scaled."""
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

    Their order and names (original0, original1) are those of PyTorch's own
    `parametrizations.weight_norm`.
    """

    def __init__(self, layer: nn.Module, name: str, exp: bool) -> None:
        super().__init__()
        # Transposed convolutions keep their output units in dimension 1 of the weight, split into
        # groups along dimension 0; every other layer keeps them in dimension 0.
        transposed = getattr(layer, "transposed", False) and name == "weight"
        self.groups: int = getattr(layer, "groups", 1) if transposed else 1
        unit = 1 if transposed else 0
        ndim = getattr(layer, name).ndim
        if self.groups > 1:  # v is seen as (groups, in/groups, out/groups, ...)
            self.dims = [1, *range(3, ndim + 1)]
        else:
            self.dims = [d for d in range(ndim) if d != unit]
        self.exp = exp

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        if self.exp:
            g = g.exp()
        norm = self.norm(v)
        # 1 stands in for ‖v‖ = 0: w is zero there, and the gradients are finite.
        w = self.units(v) * (g / (norm + (norm == 0)))  # v first: w has its memory format
        return (w.flatten(0, 1) if self.groups > 1 else w).to(v.dtype)

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
        wide = torch.promote_types(v.dtype, torch.float32)
        return torch.linalg.vector_norm(self.units(v), dim=self.dims, keepdim=True, dtype=wide)


class FrozenScale(WeightNorm):
    """w = g W as a parametrization: one g an output unit, set by initialization, not trained.

    The "normal" network of the paper's released code: W stays as drawn, so that Adam, whose steps
    have the length of its rate, moves w by g times that.
    """

    g: Tensor

    def __init__(self, layer: nn.Module, name: str = "weight") -> None:
        super().__init__(layer, name, exp=False)
        self.register_buffer("g", torch.ones_like(self.norm(getattr(layer, name).detach())))

    def forward(self, w: Tensor) -> Tensor:
        w = self.units(w) * self.g
        return w.flatten(0, 1) if self.groups > 1 else w

    def right_inverse(self, w: Tensor) -> Tensor:
        w = self.units(w) / self.g
        return w.flatten(0, 1) if self.groups > 1 else w


def weight_norm(module: M, name: str = "weight", scale: Literal["linear", "exp"] = "linear") -> M:
    """Write a weight of a layer as w = g v / ‖v‖, one g an output unit (eq. 2).

    The weight becomes a `torch.nn.utils.parametrize` parametrization with the parameters
    ``parametrizations.<name>.original0`` (g, one an output unit, shaped to broadcast) and
    ``original1`` (v, shaped as the weight). The layer computes what it computed before. Several
    weights of one module take one call each: ``weight_ih_l0`` and ``weight_hh_l0`` of an LSTM.

    To set the weight, assign to it (``layer.weight = w``) or call ``layer.reset_parameters()``.
    What changes ``layer.weight`` in place, as ``nn.init`` does, changes a copy: that is so with
    every parametrization of torch.

    Checkpoints: those of torch's `parametrizations.weight_norm` and of its older hook
    (``weight_g``, ``weight_v``) load as they are, and load there, where g is one number an output
    unit; that is every layer but a transposed convolution. There torch has by default one g an
    input channel: such a checkpoint loads too, as the same w, with g = ‖w‖ of each output unit.

    Precision: the norm and the product are taken in fp32 (or the weight's type, if wider), under
    autocast too; w has v's type and memory format. Where v is zero, w is zero and the gradients
    are finite.

    Args:
        module: a layer with that weight: Linear, Conv1d-3d, ConvTranspose1d-3d, Bilinear,
            Embedding, LSTM, GRU, MultiheadAttention (``in_proj_weight``), ...
        name: of the weight, which is floating point and has two or more dimensions.
        scale: "linear" learns g; "exp" learns s with g = exp(s) (Section 2).

    Returns:
        The same module.

    Raises:
        ValueError: the weight is parametrized already, or has one dimension, or `scale` is neither.
        TypeError: the module has no such weight, or it is lazy or not floating point.
    """
    kind = type(module).__name__
    if scale not in ("linear", "exp"):
        raise ValueError(f'scale is "linear" or "exp", not {scale!r}')
    if parametrize.is_parametrized(module, name):
        raise ValueError(
            f"{kind}.{name} is parametrized already; call "
            f'torch.nn.utils.parametrize.remove_parametrizations(layer, "{name}") first'
        )
    weight = getattr(module, name, None)
    if isinstance(module, LazyModuleMixin):
        raise TypeError(f"{kind} has no shape yet; run it once on an input, then call weight_norm")
    if not isinstance(weight, nn.Parameter):
        raise TypeError(f"{kind} has no parameter named {name} to normalize")
    if not weight.is_floating_point():
        raise TypeError(f"{kind}.{name} is {weight.dtype}; weight_norm needs floating point")
    if weight.ndim < 2:
        raise ValueError(f"{kind}.{name} has shape {tuple(weight.shape)}; it needs two dimensions")
    form = WeightNorm(module, name, scale == "exp")
    parametrize.register_parametrization(module, name, form)
    module._register_load_state_dict_pre_hook(
        lambda state, prefix, *_: _adopt(form, name, state, prefix)
    )
    parametrized = type(module)  # a class of this module's own
    if hasattr(module, "reset_parameters") and "reset_parameters" not in vars(parametrized):
        parametrized.reset_parameters = _reset_parameters  # type: ignore[attr-defined]
    return module


def _adopt(form: WeightNorm, name: str, state: dict[str, Any], prefix: str) -> None:
    """Bring the g and v of a checkpoint into our form: the older hook's, or one g an input unit."""
    ours = [f"{prefix}parametrizations.{name}.original{i}" for i in (0, 1)]
    hooks = [f"{prefix}{name}_{letter}" for letter in "gv"]
    old = all(key in state for key in hooks)
    g, v = (state.get(key) for key in (hooks if old else ours))
    if g is None or v is None:
        return
    if g.shape != form.norm(v).shape or (old and form.exp):
        dims = [d for d in range(v.ndim) if g.ndim == 0 or g.shape[d] == 1]
        g, v = form.right_inverse(v * (g / torch.linalg.vector_norm(v, dim=dims, keepdim=True)))
    state |= dict(zip(ours, (g, v), strict=True))
    for key in hooks:
        state.pop(key, None)


def _reset_parameters(self: nn.Module) -> None:
    """The layer's own `reset_parameters`, whose new weights become new g and v."""
    with torch.no_grad(), parametrize.cached():  # so that what it fills in place is kept
        super(type(self), self).reset_parameters()  # type: ignore[misc]
        drawn = {name: getattr(self, name).clone() for name in self.parametrizations}
    for name, weight in drawn.items():
        setattr(self, name, weight)


class MeanOnlyBatchNorm(nn.Module):
    """t̃ = t − μ[t] + b over the minibatch (eq. 7): centred like BN, never scaled.

    In training μ is the minibatch mean of each channel, and its gradient centres ∇_t L (eq. 8); in
    evaluation a running average takes its place.

    Precision: means are taken and kept in fp32 (or the input's type, if wider); the output has the
    input's type.

    Args:
        num_features: the number of channels C.
        momentum: as in `nn.BatchNorm2d`: the running mean becomes (1 − momentum) · old + momentum ·
            minibatch mean. The paper's decay of 0.9 is a momentum of 0.1.

    Shape:
        (N, C) or (N, C, …), up to five dimensions, to the same shape.

    Raises:
        ValueError: another number of dimensions or of channels; a single value a channel in
            training, whose mean is itself; a momentum outside [0, 1].
    """

    running_mean: Tensor

    def __init__(self, num_features: int, momentum: float = 0.1) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum lies in [0, 1], not {momentum}")
        self.momentum = momentum
        self.bias = nn.Parameter(torch.zeros(num_features))  # (C,)
        self.register_buffer("running_mean", torch.zeros(num_features))  # (C,)

    def forward(self, t: Tensor) -> Tensor:
        if not 2 <= t.ndim <= 5 or t.shape[1] != len(self.bias):
            raise ValueError(
                f"MeanOnlyBatchNorm({len(self.bias)}) takes (N, {len(self.bias)}, ...) of two to "
                f"five dimensions, not {tuple(t.shape)}"
            )
        if not self.training:
            return shift(t, self.bias - self.running_mean)
        if t.numel() == t.shape[1]:
            raise ValueError(f"expected more than 1 value per channel, got size {tuple(t.shape)}")
        if not t.numel():
            return t + self.bias.sum() * 0  # nothing to average; b has a gradient of zero
        centred, mean = centre(t, self.bias)  # t − μ[t] + b, (N, C, …), and μ[t], (C,)
        with torch.no_grad():
            self.running_mean.mul_(1 - self.momentum).add_(self.momentum * mean)
        return centred

    def extra_repr(self) -> str:
        return f"{len(self.bias)}, momentum={self.momentum}"
