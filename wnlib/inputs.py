"""From bytes to what the network sees: [0, 1], (x − 127.5)/128, and ZCA whitening."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import torch
from torch import Tensor

from wnlib.data import Cifar10

Inputs = Literal["unit", "symmetric", "zca"]
PART = 5000  # images that are worked on at once: every step on the way makes another copy


def unit(images: Tensor) -> Tensor:
    """uint8 to fp32 in [0, 1], as the report has it. Any shape."""
    return images.float() / 255


def symmetric(images: Tensor) -> Tensor:
    """uint8 to fp32 in (−1, 1), as the paper's released code has it. Any shape."""
    return images.float().sub_(127.5).div_(128)


@dataclass(frozen=True)
class ZCA:
    """Whitening that stays as close to the image as it can: x ↦ (x − m) U (S + r)^−½ Uᵀ."""

    mean: Tensor  #: m, (D,)
    eigenvalues: Tensor  #: S of the covariance, ascending, (D,)
    eigenvectors: Tensor  #: U, in columns, (D, D)
    regularization: float  #: r, in the units of the eigenvalues

    @classmethod
    def fit(cls, x: Tensor, regularization: float = 1e-5) -> "ZCA":
        """From float images (N, …), N ≥ 2; in fp64, since fp32 has the least variances 2 % off."""
        sums = [part.flatten(1).sum(0, dtype=torch.float64) for part in x.split(PART)]
        mean = torch.stack(sums).sum(0) / len(x)
        covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=x.device)
        for part in x.split(PART):
            centered = part.flatten(1) - mean
            covariance.addmm_(centered.T, centered)
        values, vectors = torch.linalg.eigh(covariance / len(x))
        spectrum = mean.to(x.dtype), values.clamp_min(0).to(x.dtype), vectors.to(x.dtype)
        return cls(*spectrum, regularization)

    @classmethod
    @lru_cache(maxsize=1)
    def of(cls, data: Cifar10) -> "ZCA":
        """That of a data set's training images, scaled by `symmetric`; the last is remembered.

        r is 1e-5, as in the paper's released code, or 1e-2 where fewer than 3,072 images leave out
        directions: in those the sample's test images would be five times too large.
        """
        few = len(data.train_images) < 3072
        return cls.fit(symmetric(data.train_images), 1e-2 if few else 1e-5)

    @cached_property
    def matrix(self) -> Tensor:
        """U (S + r)^−½ Uᵀ, (D, D)."""
        scale = (self.eigenvalues + self.regularization) ** -0.5
        return (self.eigenvectors * scale) @ self.eigenvectors.T

    def whiten(self, images: Tensor) -> Tensor:
        """(N, …) to the same shape."""
        return ((images.flatten(1) - self.mean) @ self.matrix).view(images.shape)


def prepare(data: Cifar10, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Training and test images as the network sees them, fp32 (N, 3, 32, 32), channels last."""
    zca = ZCA.of(data) if inputs == "zca" else None

    def seen(images: Tensor) -> Tensor:
        x = unit(images) if inputs == "unit" else symmetric(images)
        return (zca.whiten(x) if zca else x).contiguous(memory_format=torch.channels_last)

    train, test = data.train_images.split(PART), data.test_images.split(PART)
    return torch.cat([seen(part) for part in train]), torch.cat([seen(part) for part in test])
