"""DRAW without attention (Gregor et al. 2015): a canvas, painted in steps.

At each of T steps an encoder sees the image and what is still missing,
a latent is drawn, and a decoder adds a layer of paint to the canvas. The
canvas holds logits of the pixels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from wnlib import weight_norm

PIXELS, STEPS, UNITS, LATENTS = 28 * 28, 8, 128, 32
RATES = (0.001, 0.003, 0.01)
OPTIMIZER = torch.optim.Adam

# Parameterization and initialization, in the order used everywhere.
STARTS = {
    "small": "plain, N(0, 0.01²)",
    "default": "plain, PyTorch's default",
    "unit": "plain, rows of length 1",
    "wn-small": "weight norm, g = ‖v‖",
    "wn-unit": "weight norm, g = 1",
}


class Draw(nn.Module):
    """Images (N, 28, 28) of zeros and ones, T steps."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTMCell(2 * PIXELS + UNITS, UNITS)
        self.posterior = nn.Linear(UNITS, 2 * LATENTS)
        self.decoder = nn.LSTMCell(LATENTS, UNITS)
        self.write = nn.Linear(UNITS, PIXELS)

    def bound(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Upper bound of -log p(x) in nats, (N, 28, 28) to (N,)."""
        with parametrize.cached():  # one w for all T steps
            canvases, divergence = self._paint(x.flatten(1), generator)
        logits = canvases[-1]
        missing = F.binary_cross_entropy_with_logits(
            logits, x.flatten(1), reduction="none"
        ).sum(1)
        return missing + divergence

    def _paint(self, x, generator):  # x: (N, 784)
        n = len(x)
        h, c, h_dec, c_dec = x.new_zeros(4, n, UNITS).unbind()
        canvas, divergence = torch.zeros_like(x), x.new_zeros(n)
        canvases = []
        for _ in range(STEPS):
            error = x - canvas.sigmoid()
            h, c = self.encoder(torch.cat([x, error, h_dec], 1), (h, c))
            mean, log_std = self.posterior(h).chunk(2, 1)  # (N, latents)
            noise = torch.randn(mean.shape, generator=generator).to(mean)
            z = mean + log_std.exp() * noise
            divergence = divergence + _divergence(mean, log_std)
            h_dec, c_dec = self.decoder(z, (h_dec, c_dec))
            canvas = canvas + self.write(h_dec)
            canvases.append(canvas)
        return canvases, divergence

    @torch.no_grad()
    def reconstruct(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """An image painted step by step: (N, 28, 28) to (N, T, 28, 28)."""
        canvases, _ = self._paint(x.flatten(1), generator)
        return torch.stack(canvases, 1).sigmoid().unflatten(2, (28, 28))

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Digits of its own, step by step: (n, T, 28, 28)."""
        h, c = torch.zeros(2, n, UNITS).unbind()
        canvas, canvases = 0, []
        for _ in range(STEPS):
            z = torch.randn(n, LATENTS, generator=generator)
            h, c = self.decoder(z, (h, c))
            canvas = canvas + self.write(h)
            canvases.append(canvas)
        return torch.stack(canvases, 1).sigmoid().unflatten(2, (28, 28))


def _divergence(mean, log_std):
    """KL from N(mean, std²) to N(0, 1), (N, latents) to (N,)."""
    return (0.5 * (mean**2 + (2 * log_std).exp() - 1) - log_std).sum(1)


def matrices(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Every weight matrix: its module and its name."""
    found = []
    for module in model.modules():
        if isinstance(module, nn.LSTMCell):
            found += [(module, "weight_ih"), (module, "weight_hh")]
        elif isinstance(module, nn.Linear):
            found.append((module, "weight"))
    return found


@torch.no_grad()
def initialize(model: nn.Module, start: str) -> None:
    """One of STARTS. "small" and "wn-small" are the same function at the
    start, and so are "unit" and "wn-unit": they differ in what is learned.
    """
    if start == "default":
        return
    for module, name in matrices(model):
        w = getattr(module, name)  # (units, inputs)
        w.normal_(0, 0.01)
        if start == "unit":
            w.div_(w.norm(dim=1, keepdim=True))
        if start.startswith("wn"):
            weight_norm(module, name)
        if start == "wn-unit":
            getattr(module.parametrizations, name).original0.fill_(1)
    for name, p in model.named_parameters():
        if "bias" in name:
            p.zero_()


def build(start: str, seed: int, data: object = None) -> Draw:
    """A network at its start; the data has no say in it."""
    torch.manual_seed(seed)
    model = Draw()
    torch.manual_seed(seed)  # the same draw, whatever the default took
    initialize(model, start)
    return model
