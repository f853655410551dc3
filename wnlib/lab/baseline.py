"""The same training as people usually write it in PyTorch: what to measure wnlib beside."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import DataLoader, Dataset

from wnlib.data import Cifar10


class Images(Dataset):
    """What torchvision's CIFAR10 hands out: a PIL image, transformed, and its label."""

    def __init__(self, data: Cifar10) -> None:
        from torchvision import transforms  # slow to import

        self.images = data.train_images.permute(0, 2, 3, 1).numpy()  # (N, 32, 32, 3)
        self.labels = data.train_labels.tolist()
        half = (0.5, 0.5, 0.5)
        self.transform: Callable[[Any], Tensor] = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize(half, half)]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


class _Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.15 * torch.randn_like(x) if self.training else x


def network(width: int) -> nn.Sequential:
    """ConvPool-CNN-C with weight normalization out of torch's own parts."""

    def conv(fan_in: int, fan_out: int, kernel: int, padding: int = 0) -> list[nn.Module]:
        layer = nn.Conv2d(fan_in, fan_out, kernel, padding=padding)
        return [weight_norm(layer), nn.LeakyReLU(0.1)]

    w = width
    return nn.Sequential(
        _Noise(),
        *conv(3, w, 3, 1), *conv(w, w, 3, 1), *conv(w, w, 3, 1),
        nn.MaxPool2d(2), nn.Dropout(0.5),
        *conv(w, 2 * w, 3, 1), *conv(2 * w, 2 * w, 3, 1), *conv(2 * w, 2 * w, 3, 1),
        nn.MaxPool2d(2), nn.Dropout(0.5),
        *conv(2 * w, 2 * w, 3), *conv(2 * w, 2 * w, 1), *conv(2 * w, 2 * w, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        weight_norm(nn.Linear(2 * w, 10)),
    )  # fmt: skip


def loader(data: Cifar10, batch: int, workers: int) -> DataLoader:
    """Minibatches in a new order every epoch, made by worker processes that stay."""
    return DataLoader(
        Images(data), batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )


def steps(
    width: int, data: Cifar10, device: torch.device, batch: int = 100, workers: int = 2
) -> Iterator[None]:
    """Training steps of the usual script: DataLoader, transforms, fp32, eager. One a `next`."""
    model = network(width).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    batches = loader(data, batch, workers)
    while True:
        for x, y in batches:
            x, y = x.to(device), y.to(device)
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield
