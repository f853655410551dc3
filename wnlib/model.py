"""ConvPool-CNN-C in its five configurations, at any width, and the parts it is made of."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from wnlib.layers import FrozenScale, MeanOnlyBatchNorm, Norm, Plain, Scale, weight_norm


class GaussianNoise(nn.Module):
    """Adds N(0, sigma²) to the input in training; nothing in evaluation. Any shape."""

    def __init__(self, sigma: float = 0.15) -> None:
        super().__init__()
        self.sigma = sigma

    def draw(self, x: Tensor) -> Tensor:
        """As many numbers as x has, flat, of mean 0 and standard deviation 1."""
        return torch.randn([x.numel()], dtype=x.dtype, device=x.device)

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.sigma):
            return x
        return torch.add(x, shaped(self.draw(x), x), alpha=self.sigma)

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}"


class UniformNoise(GaussianNoise):
    """Adds U(−√3 sigma, √3 sigma) in training: mean 0 and standard deviation sigma. Any shape."""

    def draw(self, x: Tensor) -> Tensor:
        return (2 * torch.rand([x.numel()], dtype=x.dtype, device=x.device) - 1) * 3**0.5


class Dropout(nn.Dropout):
    """Dropout as torch has it, any shape; for p = ½ on a CPU it draws one random byte per unit.

    With that a step of WN + mean-only BN at width 24 is 8 % shorter, by drawing flat noise 5 %.
    """

    def forward(self, input: Tensor) -> Tensor:
        here = input.device.type == "cpu" and self.training and self.p == 0.5
        if not torch.jit.is_scripting() and here:  # pyright: ignore[reportPrivateImportUsage]
            words = torch.randint(-(2**63), 2**63 - 1, [(input.numel() + 7) // 8])  # int64
            keep = shaped(words.view(torch.int8)[: input.numel()], input) >= 0
            return input * keep.to(input.dtype).mul_(2)
        return F.dropout(input, self.p, self.training)


def shaped(flat: Tensor, x: Tensor) -> Tensor:
    """Flat values, which torch draws several times as fast, in the shape and memory order of x."""
    if x.ndim == 4 and x.stride(1) == 1:  # channels last
        n, c, h, w = x.shape
        return flat.view(n, h, w, c).permute(0, 3, 1, 2)
    return flat.view(x.shape)


class GlobalAvgPool(nn.Module):
    """(N, C, H, W) to (N, C), the mean over the pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def block(
    layer: nn.Conv2d | nn.Linear,
    norm: Norm,
    *,
    act: bool = True,
    slope: float = 0.1,
    bn_eps: float = 1e-6,
    scale: Scale = "linear",
    plain: Plain = "divided",
) -> nn.Sequential:
    """One layer in one of the five configurations: layer, normalization, leaky ReLU.

    The weights start as N(0, 0.05²), biases at zero (Section 3).

    Args:
        layer: fresh; where a normalization centers, that has the bias.
        norm: the configuration.
        act: whether the leaky ReLU follows, which has `slope` below zero.
        bn_eps: added to batch norm's variance.
        scale: weight norm's, see `weight_norm`.
        plain: what initialization sets without it: the weight, or a `FrozenScale` beside it.
    """
    units = len(nn.init.normal_(layer.weight, std=0.05))
    centered = norm.mean_only or norm is Norm.BN
    bias = None if centered else nn.Parameter(layer.weight.new_zeros(units))
    layer.register_parameter("bias", bias)
    parts: OrderedDict[str, nn.Module] = OrderedDict(layer=layer)
    if norm.weight_normalized:
        weight_norm(layer, scale=scale)
    elif plain == "frozen":
        parametrize.register_parametrization(layer, "weight", FrozenScale(layer))
    if norm.mean_only:
        parts["norm"] = MeanOnlyBatchNorm(units)
    elif norm is Norm.BN:
        batch_norm = nn.BatchNorm2d if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d
        parts["norm"] = batch_norm(units, eps=bn_eps)  # torch's momentum 0.1 is a decay of 0.9
    if act:
        parts["act"] = nn.LeakyReLU(slope, inplace=True)
    return nn.Sequential(parts)


class ConvPoolCNNC(nn.Sequential):
    """ConvPool-CNN-C as the paper changed it (Section 5.1) and the report drew it (Section 6.J).

    From images (N, 3, 32, 32) to logits (N, classes); every layer is normalized in the same way.

    Args:
        norm: one of the five configurations, as `Norm` or its value.
        width: channels of the first three layers; the later ones have twice as many.
        noise: on the input, in training; `GaussianNoise` by default, any module.
        dropout: the probability with which a unit is dropped after each pooling.
        classes: the number of outputs.
        options: slope, bn_eps, scale and plain, as in `block`.
    """

    def __init__(
        self,
        norm: Norm | str = Norm.WN,
        width: int = 96,
        *,
        noise: nn.Module | None = None,
        dropout: float = 0.5,
        classes: int = 10,
        **options: Any,
    ) -> None:
        norm, w = Norm(norm), width

        def conv(fan_in: int, fan_out: int, kernel: int, padding: int = 0) -> nn.Sequential:
            return block(nn.Conv2d(fan_in, fan_out, kernel, padding=padding), norm, **options)

        super().__init__(
            OrderedDict(
                noise=GaussianNoise() if noise is None else noise,
                conv1=conv(3, w, 3, 1),  # (N, w, 32, 32)
                conv2=conv(w, w, 3, 1),
                conv3=conv(w, w, 3, 1),
                pool1=nn.MaxPool2d(2),  # (N, w, 16, 16)
                drop1=Dropout(dropout),
                conv4=conv(w, 2 * w, 3, 1),  # (N, 2w, 16, 16)
                conv5=conv(2 * w, 2 * w, 3, 1),
                conv6=conv(2 * w, 2 * w, 3, 1),
                pool2=nn.MaxPool2d(2),  # (N, 2w, 8, 8)
                drop2=Dropout(dropout),
                conv7=conv(2 * w, 2 * w, 3),  # (N, 2w, 6, 6)
                conv8=conv(2 * w, 2 * w, 1),
                conv9=conv(2 * w, 2 * w, 1),
                gap=GlobalAvgPool(),  # (N, 2w)
                dense=block(nn.Linear(2 * w, classes), norm, act=False, **options),
            )
        )
        self.norm = norm
