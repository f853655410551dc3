"""Where a unit's w lies in the noise of its gradient.

What the reference chapter on gradient noise measures: for each unit of a
layer the covariance C of w's gradient over the examples, how much of it
points along w, and how round it is with w projected away.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from figures.plots import COLORS
from wnlib import ConvPoolCNNC, Norm, data_dependent_init_, weight_norm


def train(model, inputs, labels, epochs):
    """By Adam at 0.003, in minibatches of 100."""
    adam = torch.optim.Adam(model.parameters(), 0.003)
    order = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        chosen = torch.randperm(len(inputs), generator=order)
        for batch in chosen.split(100):
            adam.zero_grad()
            F.cross_entropy(model(inputs[batch]), labels[batch]).backward()
            adam.step()
    return model


def dense(wn=True):
    """The network of chapter 2, for images of 8 by 8 pixels."""
    torch.manual_seed(0)
    sizes = (192, 64), (64, 64), (64, 10)
    layers = [nn.Linear(*size, dtype=torch.double) for size in sizes]
    if wn:
        for layer in layers:
            weight_norm(layer)
    first, second, last = layers
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)


def convolutional(images):
    """ConvPool-CNN-C with weight norm, an eighth of the paper's width."""
    torch.manual_seed(0)
    net = ConvPoolCNNC("wn", 12).double()
    for part in net.modules():
        if isinstance(part, nn.LeakyReLU):
            part.inplace = False  # or the gradient before it would be lost
    data_dependent_init_(net, images)
    return net


def signals(model, layers, inputs, labels):
    """Each layer, its inputs (N, n, P), the loss's gradients (N, units, P).

    P are the places at which a layer sees an input: one, or the pixels.
    """
    kept = {}

    def keep(layer, inputs, t):
        t.retain_grad()
        kept[layer] = inputs[0].detach(), t

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    F.cross_entropy(model(inputs), labels, reduction="sum").backward()
    for hook, (layer, (h, t)) in zip(hooks, kept.items(), strict=True):
        hook.remove()
        if isinstance(layer, nn.Conv2d):
            padding: Any = layer.padding  # numbers here, not a name
            h = F.unfold(h, layer.kernel_size, padding=padding)
        yield layer, *(a.reshape(*a.shape[:2], -1) for a in (h, t.grad))


def units(layer, h, delta):
    """Of each unit that is not dead: w, and C (n, n) of its gradient."""
    weights = layer.weight.detach().flatten(1)
    for w, unit in zip(weights, delta.transpose(0, 1), strict=True):
        if unit.abs().sum() > 0:
            each = torch.einsum("np,nip->in", unit, h)
            yield w, torch.cov(each, correction=0)


def look_at(w, C):
    """Cosine to the noisiest direction, noise along w, largest noise."""
    values, vectors = torch.linalg.eigh(C)  # ascending
    u = w / w.norm()
    cosine = (vectors[:, -1] @ u).abs()
    noise = torch.stack([u @ C @ u, values[-1]])
    return torch.cat([cosine[None], noise / values.mean()])


def survey(model, layers, inputs, labels):
    """Of each layer, the medians over its units of what look_at gives."""
    found = [
        torch.stack([look_at(w, C) for w, C in units(*signal)])
        for signal in signals(model, layers, inputs, labels)
    ]
    return torch.stack([seen.median(0).values for seen in found])


def roundness(C, n):
    """One if n directions are equally noisy, 1/n if one has all noise."""
    return C.trace() ** 2 / (n * C.square().sum())


def without(C, u):
    """Roundness of M C M, u projected away, in the n - 1 directions."""
    M = torch.eye(len(u), dtype=u.dtype) - torch.outer(u, u) / (u @ u)
    return roundness(M @ C @ M, len(u) - 1)


def gains(w, C):
    """Roundness, and its change without w, a random direction, the top."""
    top = torch.linalg.eigh(C)[1][:, -1]
    r = roundness(C, len(C))
    gone = (w, torch.randn_like(w), top)
    return torch.stack([r, *(100 * (without(C, u) / r - 1) for u in gone)])


def drawing(middle):
    """Draws the survey of networks with three layers each: a row a layer.

    Args:
        middle: by the name of a layer, what `survey` gives of it.
    """
    blue, orange = COLORS[Norm.WN], COLORS[Norm.BN]

    def draw(axes):
        rows = [-i - 0.7 * (i // 3) for i in range(len(middle))]
        for row, (_, along, top) in zip(rows, middle.values(), strict=True):
            axes.plot([along, top], [row, row], color=blue, alpha=0.3)
            axes.plot(along, row, "o", ms=7, color=blue)
            axes.plot(top, row, "^", ms=7, color=orange)
        axes.plot([], [], "o", color=blue, label="along w")
        axes.plot([], [], "^", color=orange, label="along the noisiest")
        axes.axvline(1, color="gray", ls="--", label="mean of all")
        axes.set(xscale="log", xlabel="noise / mean over all directions")
        axes.set_xticks([1, 10, 100], ["1", "10", "100"])
        axes.set_yticks(rows, list(middle))
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.25, -0.14),
            ncols=2,
            columnspacing=1,
            frameon=False,
        )

    return draw
