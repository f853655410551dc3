"""Convolution arithmetic: sizes, sums and unseen pixels against torch."""

import pytest
import torch
from figures import ConvolutionArithmetic
from torch.nn import functional as F


def correlation(x, kernel, padding, stride):
    return F.conv2d(x[None, None], kernel[None, None], padding=padding, stride=stride)[0, 0]


@pytest.mark.parametrize("w", [1, 5, 8])
@pytest.mark.parametrize("f", [1, 2, 3, 6])
def test_sizes_outputs_and_unseen_pixels(javascript, w, f):
    cases = [(p, s) for p in range(4) for s in range(1, 5)]
    found = javascript(
        "convolution",
        "cases.map(([p, s]) => { const o = m.outputs(w, f, p, s); return [o, Array.from("
        "{length: o.size}, (_, i) => Array.from({length: o.size}, (_, j) => m.output(w, f, p, s, "
        "i, j)))]; })",
        **{"w": w, "f": f, "cases": cases},
    )
    pixels, weights = javascript(
        "convolution",
        "[0, 1].map((k) => { const n = k ? f : w; return Array.from({length: n}, (_, i) => "
        "Array.from({length: n}, (_, j) => k ? m.weight(f, i, j) : m.pixel(i, j))); })",
        **{"w": w, "f": f},
    )
    image = torch.tensor(pixels, dtype=torch.float64, requires_grad=True)
    kernel = torch.tensor(weights, dtype=torch.float64)
    for (p, s), (said, sums) in zip(cases, found, strict=True):
        if f > w + 2 * p:
            assert said["size"] == 0
            assert said["unseen"] == list(range(w))
            with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
                correlation(image, kernel, p, s)
            continue
        out = correlation(image, kernel, p, s)
        assert out.shape == (said["size"], said["size"])
        assert said["size"] == said["exact"] // 1
        assert sums == out.tolist()
        seen = correlation(image, torch.ones_like(kernel), p, s).sum()
        (grad,) = torch.autograd.grad(seen, image)
        assert said["unseen"] == (grad.sum(0) == 0).nonzero().flatten().tolist()


@pytest.mark.parametrize("f", [1, 2, 3, 6])
def test_picture_has_the_kernels_numbers(javascript, f):
    cells = [(m, n) for m in range(f) for n in range(f)]
    said = "cells.map(([i, j]) => m.weight(f, i, j))"
    weights = javascript("convolution", said, cells=cells, f=f)
    texts = ConvolutionArithmetic(kernel=f).picture().figure().axes[0].texts
    assert [int(t.get_text().replace("−", "-")) for t in texts[3:]] == weights
