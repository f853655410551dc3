"""A convolutional variational autoencoder: the paper's Section 5.2, small.

Residual blocks of 8, 16 and 16 channels at 14 × 14, 7 × 7 and 4 × 4, ELU,
a layer of 256 units, 32 latents, and back by transposed convolutions, as
Kingma et al. (2016) had it for MNIST at twice the width and more depth.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyond.mnist import Mnist, binarized
from wnlib import data_dependent_init_, weight_norm

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
    """Images (N, 28, 28) of zeros and ones, one layer of latents."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c = CHANNELS
        self.encoder = nn.Sequential(
            Block(1, a, "down"),  # (N, a, 14, 14)
            Block(a, a),
            Block(a, b, "down"),  # (N, b, 7, 7)
            Block(b, b),
            Block(b, c, "down"),  # (N, c, 4, 4)
            Block(c, c),
            nn.Flatten(),
            nn.ELU(),
            nn.Linear(16 * c, HIDDEN),
            nn.ELU(),
        )
        self.posterior = nn.Linear(HIDDEN, 2 * LATENTS)
        self.decoder = nn.Sequential(
            nn.Linear(LATENTS, HIDDEN),
            nn.ELU(),
            nn.Linear(HIDDEN, 16 * c),
            nn.Unflatten(1, (c, 4, 4)),
            Block(c, c),
            Block(c, b, "up", odd=True),  # (N, b, 7, 7)
            Block(b, b),
            Block(b, a, "up"),  # (N, a, 14, 14)
            Block(a, a),
            Block(a, a, "up"),  # (N, a, 28, 28)
            nn.ELU(),
            nn.Conv2d(a, 1, 3, padding=1),
        )

    def forward(self, x, generator=None):  # (N, 28, 28)
        """Logits of the pixels, (N, 28, 28), and KL divergence, (N,)."""
        mean, log_std = self.posterior(self.encoder(x[:, None])).chunk(2, 1)
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        z = mean + log_std.exp() * noise  # (N, latents)
        divergence = 0.5 * (mean**2 + (2 * log_std).exp() - 1) - log_std
        return self.decoder(z).view(x.shape), divergence.sum(1)

    def bound(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Upper bound of -log p(x) in nats, (N, 28, 28) to (N,)."""
        logits, divergence = self(x, generator)
        missing = F.binary_cross_entropy_with_logits(
            logits, x, reduction="none"
        )
        return missing.flatten(1).sum(1) + divergence

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Digits of its own, (n, 28, 28)."""
        z = torch.randn(n, LATENTS, generator=generator)
        return self.decoder(z)[:, 0].sigmoid()


def layers(model: nn.Module) -> list[nn.Module]:
    """All that have a weight, in order."""
    kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    return [m for m in model.modules() if isinstance(m, kinds)]


def build(start: str, seed: int, data: Mnist) -> Vae:
    """A network at its start. Both with data-dependent initialization are
    the same function: they differ in what is learned."""
    torch.manual_seed(seed)
    model = Vae()
    if start == "wn-init":
        for layer in layers(model):
            weight_norm(layer)
    if start != "plain":
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(data.train), generator=generator)
        images = data.train[chosen[:INIT_IMAGES]]
        torch.manual_seed(seed)
        data_dependent_init_(model, binarized(images, generator))
    return model
