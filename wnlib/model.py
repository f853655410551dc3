"""ConvPool-CNN-C in its five configurations, at any width, and the parts it is made of."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from wnlib.layers import FrozenScale, MeanOnlyBatchNorm, Norm, Plain, Scale, weight_norm


class GaussianNoise(nn.Module):
    """Adds N(0, sigma²) to the input in training; nothing in evaluation. Any shape."""

    def __init__(self, sigma: float = 0.15) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.sigma):
            return x
        drawn = torch.randn([x.numel()], dtype=x.dtype, device=x.device)
        return torch.add(x, shaped(drawn, x), alpha=self.sigma)


class Dropout(nn.Dropout):
    """Dropout as torch has it; for p = ½ on a CPU it draws a byte per unit, which is faster."""

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and self.p == 0.5 and input.device.type == "cpu"):
            return super().forward(input)
        words = torch.randint(-(2**63), 2**63 - 1, [(input.numel() + 7) // 8])  # int64
        keep = shaped(words.view(torch.int8)[: input.numel()], input) >= 0
        return input * keep.to(input.dtype).mul_(2)


def shaped(flat: Tensor, x: Tensor) -> Tensor:
    """Flat values, which torch draws several times as fast, in the shape and memory order of x."""
    if x.ndim == 4 and x.stride(1) == 1:  # channels last
        return flat.view(x.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
    return flat.view(x.shape)


class GlobalAvgPool(nn.Module):
    """(N, C, H, W) to (N, C), the mean over the pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def block(
    layer: nn.Conv2d | nn.Linear, norm: Norm, act: bool = True,
    bn_eps: float = 1e-6, scale: Scale = "linear", plain: Plain = "divided",
) -> nn.Sequential:  # fmt: skip
    """A fresh layer in one of the five configurations, then leaky ReLU, if it is to act.

    Weights start as N(0, 0.05²) and biases at zero (Section 3); where a normalization centers, that
    has the bias. Without weight norm, `plain` says what initialization sets, see `Recipe`.
    """
    units = len(nn.init.normal_(layer.weight, std=0.05))
    centered = norm.mean_only or norm is Norm.BN
    layer.register_parameter("bias", None if centered else nn.Parameter(torch.zeros(units)))
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
        parts["act"] = nn.LeakyReLU(0.1, inplace=True)
    return nn.Sequential(parts)


class ConvPoolCNNC(nn.Sequential):
    """ConvPool-CNN-C as the paper changed it (Section 5.1) and the report drew it (Section 6.J).

    From images (N, 3, 32, 32) to logits (N, 10); every layer is normalized in the same way.

    Args:
        norm: one of the five configurations, as `Norm` or its value.
        width: channels of the first three layers; the later ones have twice as many.
        noise: any module, for the input; `GaussianNoise` by default.
        dropout: the probability with which a unit is dropped after each pooling.
        options: bn_eps (added to batch norm's variance), scale and plain, as in `Recipe`.
    """

    def __init__(
        self, norm: Norm | str = Norm.WN, width: int = 96, *,
        noise: nn.Module | None = None, dropout: float = 0.5, **options: Any,
    ) -> None:  # fmt: skip
        norm, w = Norm(norm), width

        def conv(fan_in: int, fan_out: int, kernel: int, padding: int = 0) -> nn.Sequential:
            return block(nn.Conv2d(fan_in, fan_out, kernel, padding=padding), norm, **options)

        parts = OrderedDict(
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
            dense=block(nn.Linear(2 * w, 10), norm, act=False, **options),
        )
        super().__init__(parts)
        self.norm = norm

    def __getitem__(self, index: Any) -> Any:  # a slice is a plain Sequential of its parts
        return nn.Sequential(OrderedDict(self.named_children()))[index]
