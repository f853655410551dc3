"""A convolutional variational autoencoder: the paper's Section 5.2, small.

Residual blocks of 8, 16 and 16 channels at 14 × 14, 7 × 7 and 4 × 4, ELU,
a layer of 256 units, 32 latents, and back by transposed convolutions, as
Kingma et al. (2016) had it for MNIST at twice the width and more depth.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyond.mnist import Mnist, pixels
from wnlib import data_dependent_init_, weight_norm
from wnlib.data import Cifar10

CHANNELS, HIDDEN, LATENTS = (8, 16, 16), 256, 32
RATES = (0.002, 0.006, 0.02)
OPTIMIZER = torch.optim.Adamax

STARTS = {
    "plain": "plain, PyTorch's default",
    "plain-init": "plain, data-dependent init",
    "wn-init": "weight norm, data-dependent init",
}
INIT_IMAGES = 500


class Block(nn.Module):
    """x + f(x), f two 3 × 3 convolutions; halves or doubles the sides.

    Where sides or channels change, x goes through one convolution.
    """

    def __init__(self, inputs, outputs, resize="", odd=False):
        super().__init__()
        down = 2 if resize == "down" else 1
        if resize == "up":
            up = {"stride": 2, "padding": 1, "output_padding": int(not odd)}
            self.first = nn.ConvTranspose2d(inputs, outputs, 3, **up)
            self.skip = nn.ConvTranspose2d(inputs, outputs, 3, **up)
        else:
            self.first = nn.Conv2d(inputs, outputs, 3, down, 1)
            self.skip = (
                nn.Conv2d(inputs, outputs, 3, down, 1)
                if resize or inputs != outputs
                else nn.Identity()
            )
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x):  # (N, inputs, H, W) to (N, outputs, H', W')
        return self.skip(x) + self.second(F.elu(self.first(F.elu(x))))


class Vae(nn.Module):
    """Images (N, 28, 28) of zeros and ones, one layer of latents.

    With `colors`, images (N, 3, 32, 32) of 256 levels in [0, 1].
    """

    def __init__(
        self,
        channels=CHANNELS,
        hidden=HIDDEN,
        latents=LATENTS,
        colors=False,
    ):
        super().__init__()
        a, b, c = channels
        planes = 3 if colors else 1
        self.channels, self.latents = channels, latents
        self.log_scale = (
            nn.Parameter(torch.full((3, 1, 1), -2.3)) if colors else None
        )
        self.encoder = nn.Sequential(
            Block(planes, a, "down"),  # (N, a, 14, 14)
            Block(a, a),
            Block(a, b, "down"),  # (N, b, 7, 7)
            Block(b, b),
            Block(b, c, "down"),  # (N, c, 4, 4)
            Block(c, c),
            nn.Flatten(),
            nn.ELU(),
            nn.Linear(16 * c, hidden),
            nn.ELU(),
        )
        self.posterior = nn.Linear(hidden, 2 * latents)
        self.decoder = nn.Sequential(
            nn.Linear(latents, hidden),
            nn.ELU(),
            nn.Linear(hidden, 16 * c),
            nn.Unflatten(1, (c, 4, 4)),
            Block(c, c),
            Block(c, b, "up", odd=not colors),  # (N, b, 7, 7)
            Block(b, b),
            Block(b, a, "up"),  # (N, a, 14, 14)
            Block(a, a),
            Block(a, a, "up"),  # (N, a, 28, 28)
            nn.ELU(),
            nn.Conv2d(a, planes, 3, padding=1),
        )

    def forward(self, x, generator=None):  # (N, 28, 28)
        """Logits of the pixels, (N, 28, 28), and KL divergence, (N,)."""
        planes = x if x.ndim == 4 else x[:, None]
        mean, log_std = self.posterior(self.encoder(planes)).chunk(2, 1)
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        z = mean + log_std.exp() * noise  # (N, latents)
        divergence = 0.5 * (mean**2 + (2 * log_std).exp() - 1) - log_std
        return self.decoder(z).view(x.shape), divergence.sum(1)

    def bound(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Upper bound of -log p(x) in nats, (N, 28, 28) to (N,)."""
        logits, divergence = self(x, generator)
        if self.log_scale is None:
            missing = F.binary_cross_entropy_with_logits(
                logits, x, reduction="none"
            )
        else:
            missing = -log_level(logits.sigmoid(), self.log_scale, x)
        return missing.flatten(1).sum(1) + divergence

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Digits of its own, (n, 28, 28)."""
        z = torch.randn(n, self.latents, generator=generator)
        return self.decoder(z)[:, 0].sigmoid()


def log_level(mean: Tensor, log_scale: Tensor, x: Tensor) -> Tensor:
    """Log probability of levels x = k/255, k = 0 … 255: a logistic
    distribution's mass between k/256 and (k + 1)/256, the ends open."""
    k = (255 * x).round()
    low = (k / 256 - mean) / log_scale.exp()
    high = ((k + 1) / 256 - mean) / log_scale.exp()
    low = low.masked_fill(k == 0, -torch.inf)
    high = high.masked_fill(k == 255, torch.inf)
    return (high.sigmoid() - low.sigmoid()).clamp_min(1e-7).log()


def colored(data: Cifar10) -> Mnist:
    """CIFAR-10 where MNIST is expected."""
    train, test = data.train_images, data.test_images
    labels = data.train_labels, data.test_labels
    return Mnist(data.name, train, labels[0], test, labels[1], data.digest)


def layers(model: nn.Module) -> list[nn.Module]:
    """All that have a weight, in order."""
    kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    return [m for m in model.modules() if isinstance(m, kinds)]


def build(start: str, seed: int, data: Mnist, **sizes: Any) -> Vae:
    """A network at its start. Both with data-dependent initialization are
    the same function: they differ in what is learned."""
    torch.manual_seed(seed)
    model = Vae(**sizes)
    if start == "wn-init":
        for layer in layers(model):
            weight_norm(layer)
    if start != "plain":
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(data.train), generator=generator)
        images = data.train[chosen[:INIT_IMAGES]]
        torch.manual_seed(seed)
        data_dependent_init_(model, pixels(images, generator))
    return model
