"""ConvPool-CNN-C: its parts and its counts, compiled and exported."""

import sys

import pytest
import torch
from torch.func import vmap

from wnlib import ConvPoolCNNC, Norm
from wnlib.model import Dropout, GaussianNoise


def test_noise_is_gaussian_and_dropout_doubles_half_of_the_units():
    n = 100_003  # no multiple of the eight bytes of a word
    noise, kept = GaussianNoise(2.0)(torch.zeros(n)) / 2, Dropout(0.5)(torch.ones(n)) / 2
    inside = (noise.abs()[:, None] < torch.tensor([1.0, 2.0, 3.0])).float().mean(0)
    torch.testing.assert_close(inside, torch.tensor([0.6827, 0.9545, 0.9973]), rtol=0, atol=0.006)
    assert set(kept.tolist()) == {0.0, 1.0}
    assert abs(kept.mean() - 0.5) < 2.5 / n**0.5
    for lag in (1, 4, 8):  # the bytes of a word are independent
        assert abs((kept[lag:] == kept[:-lag]).float().mean() - 0.5) < 2.5 / n**0.5


ones = torch.ones(4, 5, 6, 7)
last = ones.to(memory_format=torch.channels_last)
LAYOUTS = [ones[0, 0, 0], last, ones[:, :, ::2], ones[:1].expand(4, 5, 6, 7), ones.transpose(1, 3)]


@pytest.mark.parametrize("x", LAYOUTS)
@pytest.mark.parametrize("kind", [GaussianNoise, Dropout])
def test_random_parts_take_any_layout_and_vmap(kind, x):
    out = kind(0.5)(x)
    assert (out.shape, out.stride()) == (x.shape, torch.empty_like(x).stride())
    assert out.unique().numel() == (2 if kind is Dropout else x.numel())
    assert vmap(kind(0.5), randomness="different")(x).shape == x.shape
    for still in (kind(0.0), kind(0.5).eval()):
        assert torch.equal(still(x), x)


@pytest.mark.parametrize("w", [1, 7])
def test_counts_are_the_papers(norm, w):
    model = ConvPoolCNNC(norm, w)
    weights = 27 * w + 18 * w**2 + 18 * w**2 + 2 * 36 * w**2 + 36 * w**2 + 8 * w**2 + 20 * w
    units, per_unit = 3 * w + 6 * 2 * w + 10, 1 if norm in (Norm.NONE, Norm.MOBN) else 2
    learned = weights + per_unit * units
    assert sum(p.numel() for p in model.parameters()) == learned
    kept = {Norm.NONE: 0, Norm.WN: 0, Norm.BN: 2 * units + 10}.get(norm, units + 10)
    assert sum(t.numel() for t in model.state_dict().values()) == learned + kept


def test_the_network_starts_as_the_papers():
    model = ConvPoolCNNC()
    w = model.conv5.layer.weight
    assert (model.norm, w.shape) == (Norm.WN, (192, 192, 3, 3))
    assert abs(w.mean()) < 5 * 0.05 / w.numel() ** 0.5
    assert abs(w.std() / 0.05 - 1) < 5 / (2 * w.numel()) ** 0.5
    assert [*dict(model[:3].named_children())] == ["noise", "conv1", "conv2"]
    assert (model.noise.sigma, model.drop1.p, model.drop2.p) == (0.15, 0.5, 0.5)


@pytest.mark.skipif(sys.version_info[:3] == (3, 13, 0), reason="torch.compile fails 3.13.0")
def test_the_network_compiles_whole_and_is_exported(norm):
    """As one graph, in bf16, with noise and dropout: the gradients that it has uncompiled."""
    torch.compiler.reset()
    model, images, gradients = ConvPoolCNNC(norm, 2), torch.randn(4, 3, 32, 32), []
    for call in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16):
            logits = call(images)
        logits.float().square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-2, atol=1e-3)
    exported = torch.export.export(model.eval(), (images,)).module()
    torch.testing.assert_close(exported(images), model(images))
