"""From bytes to what the network sees: [0, 1], (x − 127.5)/128, and ZCA whitening."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from secrets import token_hex
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from wnlib.data import Cifar10, cache_dir

Inputs = Literal["unit", "symmetric", "zca"]

PART = 5000  # images that are worked on at once


def unit(images: Tensor) -> Tensor:
    """uint8 to fp32 in [0, 1], as the report has it. Any shape."""
    return images.float() / 255


def symmetric(images: Tensor) -> Tensor:
    """uint8 to fp32 in (−1, 1), as the paper's released code has it. Any shape."""
    return (images.float() - 127.5) / 128


@dataclass(frozen=True)
class ZCA:
    """Whitening that stays as close to the image as it can: x ↦ (x − m) U (S + r)^−½ Uᵀ.

    With the regularization r → 0 the covariance of the fitted images becomes the identity.

    Attributes:
        mean: m, (D,).
        eigenvalues: S of the covariance, ascending, (D,).
        eigenvectors: U, in columns, (D, D).
        regularization: r, in the units of the eigenvalues.
    """

    mean: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor
    regularization: float

    @classmethod
    def fit(cls, x: Tensor, regularization: float = 1e-5) -> "ZCA":
        """From images (N, …), N ≥ 2, flattened to (N, D).

        Covariance and spectrum are taken in fp64: in fp32 the covariance has the smallest variances
        of CIFAR-10 off by up to 2 %, differently on each machine.
        """
        # In parts: flattened or in fp64, the whole set would be another gigabyte.
        mean = sum(part.flatten(1).sum(0, dtype=torch.float64) for part in x.split(PART)) / len(x)
        covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
        for part in x.split(PART):
            centred = part.flatten(1) - mean
            covariance.addmm_(centred.T, centred)
        values, vectors = torch.linalg.eigh(covariance / len(x))
        return cls(
            mean.to(x.dtype), values.clamp_min(0).to(x.dtype), vectors.to(x.dtype), regularization
        )

    def _matrix(self, power: float) -> Tensor:
        """U (S + r)^power Uᵀ, (D, D)."""
        scale = (self.eigenvalues + self.regularization) ** power
        return (self.eigenvectors * scale) @ self.eigenvectors.T

    @cached_property
    def _whitening(self) -> Tensor:
        return self._matrix(-0.5)

    def whiten(self, images: Tensor) -> Tensor:
        """(N, …) to the same shape."""
        return ((images.flatten(1) - self.mean) @ self._whitening).view(images.shape)

    def unwhiten(self, images: Tensor) -> Tensor:
        """The inverse of `whiten`; (N, …) to the same shape."""
        return (images.flatten(1) @ self._matrix(0.5) + self.mean).view(images.shape)

    @classmethod
    def of(cls, data: Cifar10, regularization: float | None = None) -> "ZCA":
        """The whitening of a data set's training images, scaled by `symmetric`; cached on disk.

        The regularization is 1e-5 by default, as in the paper's released code. The sample is the
        exception, with 1e-2: 2,000 images do not span 3,072 dimensions, and at 1e-5 the directions
        that they leave out would blow its test images up to five times their due size.
        """
        if regularization is None:
            regularization = 1e-2 if len(data.train_images) < 3072 else 1e-5
        path = cache_dir() / f"whitening-{data.digest}.npz"
        try:
            with path.open("rb") as opened, np.load(opened) as file:  # no pickle
                parts = [torch.from_numpy(file[name]) for name in ("mean", "values", "vectors")]
            if [part.shape for part in parts] == [(3072,), (3072,), (3072, 3072)]:
                return cls(*parts, regularization)
        except Exception:  # missing or damaged, in any of the ways a file can be: fit again
            pass
        zca = cls.fit(_in_parts(data.train_images, symmetric), regularization)
        arrays = {"mean": zca.mean, "values": zca.eigenvalues, "vectors": zca.eigenvectors}
        partial = path.with_name(f"{token_hex(4)}.partial.npz")  # never half a file by that name
        with suppress(OSError):  # a cache that cannot be written is done without
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                np.savez(partial, **{name: array.numpy() for name, array in arrays.items()})
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        return zca


def prepare(data: Cifar10, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Training and test images as the network sees them, fp32 (N, 3, 32, 32), channels last."""
    how = {"unit": unit, "symmetric": symmetric}.get(inputs)
    if how is None:
        zca = ZCA.of(data)

        def how(images: Tensor) -> Tensor:
            return zca.whiten(symmetric(images))

    return _in_parts(data.train_images, how), _in_parts(data.test_images, how)


def _in_parts(images: Tensor, how: Callable[[Tensor], Tensor]) -> Tensor:
    """Every step on the way needs another copy of what it works on: better of a part."""
    done = torch.empty(images.shape, memory_format=torch.channels_last)
    for part, there in zip(images.split(PART), done.split(PART), strict=True):
        there.copy_(how(part))
    return done
