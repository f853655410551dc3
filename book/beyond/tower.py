"""A small residual tower with two heads, in the five configurations.

As in AlphaGo Zero, a move's probabilities and the position's value come
from one tower of residual blocks. Convolutions are normalized; of the
linear layers, weight norm takes all and batch norm none.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyond.connect4 import Positions
from wnlib import MeanOnlyBatchNorm, Norm, data_dependent_init_, weight_norm

SMALL = 0.1  # standard deviation of branches and heads at the start


class Tower(nn.Module):
    """Boards (N, 2, 6, 7) to logits (N, 7) and values (N,) in (-1, 1)."""

    def __init__(
        self, norm: Norm, width: int = 16, blocks: int = 2
    ) -> None:
        super().__init__()
        self.norm = Norm(norm)
        self.stem = self._conv(2, width)
        self.first = nn.ModuleList(
            self._conv(width, width) for _ in range(blocks)
        )
        self.second = nn.ModuleList(
            self._conv(width, width) for _ in range(blocks)
        )
        self.narrow = self._conv(width, 4, kernel=1)
        self.policy = self._linear(4 * 42, 7)
        self.hidden = self._linear(4 * 42, 32)
        self.value = self._linear(32, 1)

    def forward(self, boards: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.stem(boards))  # (N, width, 6, 7)
        for first, second in zip(self.first, self.second, strict=True):
            x = F.relu(x + second(F.relu(first(x))))
        x = F.relu(self.narrow(x)).flatten(1)  # (N, 168)
        value = self.value(F.relu(self.hidden(x))).tanh()
        return self.policy(x), value[:, 0]

    def _conv(self, fan_in: int, units: int, kernel: int = 3) -> nn.Module:
        bias = self.norm in (Norm.NONE, Norm.WN)
        layer = nn.Conv2d(
            fan_in, units, kernel, padding=kernel // 2, bias=bias
        )
        parts: list[nn.Module] = [self._started(layer)]
        if self.norm.mean_only:
            parts.append(MeanOnlyBatchNorm(units))
        elif self.norm is Norm.BN:
            parts.append(nn.BatchNorm2d(units))
        return nn.Sequential(*parts)

    def _linear(self, fan_in: int, units: int) -> nn.Module:
        return self._started(nn.Linear(fan_in, units))

    def _started(self, layer: nn.Conv2d | nn.Linear) -> nn.Module:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
        return weight_norm(layer) if self.norm.weight_normalized else layer


def start(model: Tower, boards: Tensor, small: float = 1.0) -> None:
    """Data-dependent initialization, with less on the branches and heads.

    Pre-activations get mean 0 and standard deviation 1, or `small` in what
    is added to the residual stream and in what the heads put out.
    """
    branches = [f"second.{i}.0" for i in range(len(model.second))]
    scales = dict.fromkeys([*branches, "policy", "value"], small)
    data_dependent_init_(model, boards, scales)


def fresh(norm: Norm | str, begin: str, seed: int, boards: Tensor) -> Tower:
    """A tower before training; `begin` is "he", "unit" or "small"."""
    torch.manual_seed(seed)
    model = Tower(Norm(norm))
    if begin != "he":
        start(model, boards, SMALL if begin == "small" else 1.0)
    return model


def folded(model: Tower) -> np.ndarray:
    """All numbers of a tower with weight norm or none, 16-bit, in a row:
    of each layer its weight, norm taken, and its bias; the policy's layer
    before the value's."""
    pairs = zip(model.first, model.second, strict=True)
    branches = [conv for pair in pairs for conv in pair]
    convolutions = [m[0] for m in (model.stem, *branches, model.narrow)]
    layers = [*convolutions, model.policy, model.hidden, model.value]
    parts = [
        p.detach().flatten() for m in layers for p in (m.weight, m.bias)
    ]
    return torch.cat(parts).numpy().astype(np.float16)


def loss(model: Tower, batch: Positions) -> tuple[Tensor, Tensor]:
    """Cross-entropy with the good moves, and the value's squared error."""
    logits, value = model(batch.boards)
    target = batch.good / batch.good.sum(1, keepdim=True)  # (N, 7)
    return F.cross_entropy(logits, target), F.mse_loss(value, batch.value)


@torch.no_grad()
def measure(model: Tower, test: Positions) -> tuple[float, float]:
    """How often the best legal move is a good one; the value's mse."""
    model.eval()
    logits, value = model(test.boards)
    model.train()
    move = logits.masked_fill(~test.legal, -torch.inf).argmax(1)
    hit = test.good[torch.arange(len(move)), move].float().mean()
    return hit.item(), F.mse_loss(value, test.value).item()


def learn(
    model: Tower, train: Positions, rate: float, updates: int, seed: int
) -> Iterator[tuple[int, float]]:
    """Adam, 64 positions an update, the rate falling to 0; every 50
    their number and the mean loss.
    """
    adam = torch.optim.Adam(model.parameters(), rate)
    draw = torch.Generator().manual_seed(seed)
    total = 0.0
    for update in range(updates):
        for group in adam.param_groups:
            group["lr"] = rate * (1 - update / updates)
        chosen = torch.randint(len(train.value), (64,), generator=draw)
        move, value = loss(model, train.part(chosen))
        adam.zero_grad()
        (move + value).backward()
        adam.step()
        total += (move + value).item()
        if (update + 1) % 50 == 0:
            yield update + 1, total / 50
            total = 0.0
