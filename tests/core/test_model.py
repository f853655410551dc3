"""ConvPool-CNN-C: its parts, its shapes, its counts, and its gradients."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from wnlib import ConvPoolCNNC, Norm
from wnlib.model import Dropout, GaussianNoise, block

pytestmark = pytest.mark.usefixtures("one_thread")
every_norm = pytest.mark.parametrize("norm", list(Norm))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(2)


def layers_of(model):
    return [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


# --- input noise and dropout


def test_gaussian_noise_is_gaussian():
    noise = GaussianNoise(1.0)(torch.zeros(100_000))
    inside = (noise.abs()[:, None] < torch.tensor([1.0, 2.0, 3.0])).float().mean(0)
    torch.testing.assert_close(inside, torch.tensor([0.6827, 0.9545, 0.9973]), rtol=0, atol=0.006)
    assert abs(noise.mean()) < 5 / 100_000**0.5
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(GaussianNoise(0.5).eval()(x), x)
    assert torch.equal(GaussianNoise(0.0)(x), x)


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "slice": lambda x: x[:, :, ::2],
    "expanded": lambda x: x[:1].expand(4, -1, -1, -1),
    "transposed": lambda x: x.transpose(1, 3),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("part", [GaussianNoise, Dropout])
def test_random_parts_take_any_layout(part, layout):
    x = LAYOUTS[layout](torch.ones(4, 5, 6, 7))
    out = part(0.5)(x)
    assert out.shape == x.shape
    assert out.stride() == torch.empty_like(x).stride()
    if part is Dropout:
        assert set(out.unique().tolist()) == {0.0, 2.0}
    else:
        assert out.unique().numel() == x.numel()


def test_dropout_doubles_half_of_the_units():
    n = 1_000_003  # no multiple of the eight bytes of a word
    x = torch.randn(n)
    out = Dropout(0.5)(x)
    kept = out != 0
    assert torch.equal(out[kept], 2 * x[kept])
    assert abs(kept.sum() - n / 2) < 5 * (n / 4) ** 0.5
    # The bytes of a word are independent: equal neighbors are as frequent as unequal ones.
    for lag in (1, 4, 8):
        equal = (kept[lag:] == kept[:-lag]).sum()
        assert abs(equal - (n - lag) / 2) < 5 * (n / 4) ** 0.5


@pytest.mark.parametrize("p", [0.0, 0.2])
def test_other_dropouts_are_torchs(p):
    x = torch.randn(1000)
    state = torch.get_rng_state()
    expected = F.dropout(x, p)
    torch.set_rng_state(state)
    assert torch.equal(Dropout(p)(x), expected)
    assert torch.equal(Dropout(0.5).eval()(x), x)


# --- one block


def test_block_starts_small_and_unbiased():
    layer = block(nn.Conv2d(64, 64, 3), Norm.NONE).layer
    n = layer.weight.numel()
    assert abs(layer.weight.mean()) < 5 * 0.05 / n**0.5
    assert abs(layer.weight.std() / 0.05 - 1) < 5 / (2 * n) ** 0.5
    assert (layer.bias == 0).all()


# --- the network


def shapes(w):
    """Output shapes of the layers, from the paper's Section 5.1 and the report's Section J."""
    one, two = [(w, 32, 32)] * 3, [(2 * w, 16, 16)] * 3
    return one + two + [(2 * w, 6, 6)] * 3 + [(10,)]


@every_norm
@pytest.mark.parametrize("width", [1, 4, 7])
def test_shapes_are_the_papers(norm, width):
    model = ConvPoolCNNC(norm, width).eval()
    seen = []
    for layer in layers_of(model):
        layer.register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape[1:])))
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert seen == shapes(width)


def test_defaults_are_the_papers():
    model = ConvPoolCNNC()
    assert model.norm is Norm.WN
    convs, dense = layers_of(model)[:-1], layers_of(model)[-1]
    assert [c.out_channels for c in convs] == [96] * 3 + [192] * 6
    assert [c.kernel_size[0] for c in convs] == [3] * 7 + [1] * 2
    assert [c.padding[0] for c in convs] == [1] * 6 + [0] * 3
    assert (dense.in_features, dense.out_features) == (192, 10)
    three = ["Sequential"] * 3
    assert [type(m).__name__ for m in model] == [
        *("GaussianNoise", *three, "MaxPool2d", "Dropout", *three, "MaxPool2d", "Dropout"),
        *(*three, "GlobalAvgPool", "Sequential"),
    ]
    assert (model.noise.sigma, model.drop1.p, model.drop2.p, model.pool1.kernel_size) == (
        0.15, 0.5, 0.5, 2,
    )  # fmt: skip


@every_norm
@pytest.mark.parametrize("width", [1, 8, 24, 96])
def test_parameters_are_counted_in_closed_form(norm, width):
    w = width
    weights = 27 * w + 18 * w**2 + 18 * w**2 + 2 * 36 * w**2 + 36 * w**2 + 8 * w**2 + 20 * w
    units = 3 * w + 6 * 2 * w + 10
    per_unit = {Norm.NONE: 1, Norm.WN: 2, Norm.MOBN: 1, Norm.BN: 2, Norm.WN_MOBN: 2}[norm]
    model = ConvPoolCNNC(norm, width)
    assert sum(p.numel() for p in model.parameters()) == weights + per_unit * units
    running = {Norm.MOBN: 1, Norm.WN_MOBN: 1, Norm.BN: 2}.get(norm, 0)
    counters = 10 if running else 0
    saved = sum(t.numel() for t in model.state_dict().values())
    assert saved == weights + per_unit * units + running * units + counters
