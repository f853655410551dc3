"""How fast a full training step is, beside the same step as people usually write it in PyTorch."""

import statistics
import time
from collections.abc import Callable, Iterator

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import DataLoader, Dataset

from wnlib.data import Cifar10
from wnlib.inputs import prepare
from wnlib.layers import Norm
from wnlib.recipe import Recipe
from wnlib.step import build, build_optimizer, training_step

BATCH = 100


class _Images(Dataset):
    """What torchvision's CIFAR10 hands out: a PIL image, transformed, and its label."""

    def __init__(self, data: Cifar10) -> None:
        from torchvision import transforms  # slow to import

        self.images = data.train_images.permute(0, 2, 3, 1).numpy()  # (N, 32, 32, 3)
        self.labels = data.train_labels.tolist()
        half = (0.5, 0.5, 0.5)
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize(half, half)]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


class _Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.15 * torch.randn_like(x) if self.training else x


def _plain_network(width: int) -> nn.Sequential:
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


def plain_steps(
    width: int, data: Cifar10, device: torch.device, workers: int = 2
) -> Iterator[None]:
    """Training steps of the usual script: DataLoader, transforms, fp32, eager. One a `next`."""
    model = _plain_network(width).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    loader = DataLoader(
        _Images(data), BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    while True:
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield


def wnlib_steps(width: int, data: Cifar10, device: torch.device) -> Iterator[None]:
    """Training steps of `wnlib.train`, for the same configuration. One a `next`."""
    recipe = Recipe.paper(Norm.WN).scaled(width=width)
    images, labels = prepare(data, recipe.inputs)[0].to(device), data.train_labels.to(device)
    model = build(recipe).to(device, memory_format=torch.channels_last).train()
    optimizer = build_optimizer(recipe, model)
    scaler = torch.amp.GradScaler(device.type, enabled=False)
    while True:
        for chosen in torch.randperm(len(images), device=device).split(BATCH):
            training_step(model, optimizer, scaler, images[chosen], labels[chosen])
            yield


def compare_steps(
    width: int,
    data: Cifar10,
    device: torch.device,
    *,
    rounds: int = 5,
    block: int = 4,
    workers: int = 2,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, float]:
    """Both, in turns of `block` steps, so that a slow spell of the machine hits both.

    Returns:
        Images a second of each (medians over the rounds) and the median of the rounds' ratios.
    """
    ways = {
        "plain": plain_steps(width, data, device, workers),
        "wnlib": wnlib_steps(width, data, device),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):  # the first warms up
        for name, steps in ways.items():
            next(steps)  # lets loader workers, if any, fill their queues before the clock starts
            _wait(device)
            start = time.perf_counter()
            for _ in range(block):
                next(steps)
            _wait(device)
            if turn:
                speeds[name].append(BATCH * block / (time.perf_counter() - start))
        say(f"width {width}: round {turn} of {rounds}")
    ratios = [b / a for a, b in zip(speeds["plain"], speeds["wnlib"], strict=True)]
    return {
        "width": width,
        "plain": statistics.median(speeds["plain"]),
        "wnlib": statistics.median(speeds["wnlib"]),
        "ratio": statistics.median(ratios),
    }


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
