"""Data-dependent initialization against the released code's arithmetic, and at its edges."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from wnlib import ConvPoolCNNC, MeanOnlyBatchNorm, Norm, data_dependent_init_, weight_norm


def by_unit(t):
    """From (N, units, ...) to all values of each unit, (units, -1), in fp64."""
    return t.detach().double().transpose(0, 1).flatten(1)


def assert_normal(t, atol=1e-5, sigma=1.0):
    """Mean 0 and this deviation of each unit."""
    std, mean = torch.std_mean(by_unit(t), 1, correction=0)
    assert (std - sigma).abs().max() < atol
    assert mean.abs().max() < atol


def settings(model):
    """What an initialization leaves as it was."""
    return [(m.training, getattr(m, "momentum", 0), *m._forward_hooks) for m in model.modules()]


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Linear(5, 3), (40, 5)),
        (lambda: nn.Conv1d(4, 6, 3, groups=2), (6, 4, 9)),
        (lambda: nn.ConvTranspose2d(3, 4, 3), (6, 3, 5, 5)),
    ],
)
def test_g_and_b_are_eq_6_as_the_released_code_has_it(make, shape, scale):
    layer, x = weight_norm(make().double(), scale=scale), torch.randn(shape).double() + 0.5
    nn.init.zeros_(layer.bias)
    g = layer.parametrizations.weight.original0
    old, t = g.detach().clone(), by_unit(layer(x))
    m = t.mean(1)
    inv_stdv = 1 / (t - m[:, None]).square().mean(1).sqrt()
    data_dependent_init_(layer, x)
    grown = (g - old).exp() if scale == "exp" else g / old
    torch.testing.assert_close(grown.detach().flatten(), inv_stdv)
    torch.testing.assert_close(layer.bias.detach(), -m * inv_stdv)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{}, {"scale": "exp"}, {"plain": "frozen"}], ids=str)
def test_the_network_starts_normal(norm, dtype, options):
    """As if a caller's modes were off; what else a layer and a model have is left alone."""
    x = (torch.randn(16, 3, 32, 32) * 2 + 0.3).to(dtype)
    quiet = {"noise": nn.Identity(), "dropout": 0.0, "bn_eps": 1e-10}
    model = ConvPoolCNNC(norm, 8, **options, **quiet).to(dtype).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            nn.init.normal_(parameter)
    before = copy.deepcopy(model)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        data_dependent_init_(model, x)
    assert settings(model) == settings(before)
    frozen = "frozen" in options.values() and not norm.weight_normalized
    assert frozen == any(name.endswith("weight.0.g") for name in model.state_dict())
    for name, value in model.state_dict().items():  # v, and what batch norm follows
        if name.endswith(("original", "original1")) or (norm is Norm.BN and "layer" in name):
            assert torch.equal(value, before.state_dict()[name])
    logits = model.train()(x)
    logits.sum().backward()
    assert_normal(logits, 1e-3 if dtype is torch.float32 else 0.2)


MODELS = {
    "plain": [nn.Linear(6, 8), nn.Tanh(), weight_norm(nn.Linear(8, 4))],
    "torch's": [parametrizations.weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3)],
    "norms first": [nn.BatchNorm1d(6), MeanOnlyBatchNorm(6), nn.Linear(6, 3)],
    "mean-only BN": [weight_norm(nn.Linear(6, 3)), MeanOnlyBatchNorm(3)],
    "sequences": [nn.Unflatten(1, (2, 3)), nn.Linear(3, 4), nn.Flatten(0, 1)],
}


@pytest.mark.parametrize("kind", MODELS)
def test_any_model_starts_normal_and_the_caller_draws_as_after_one_pass(kind):
    model, x, drawn = nn.Sequential(nn.Dropout(0.3), *MODELS[kind]), torch.rand(30, 6) * 4, []
    for run in (data_dependent_init_, nn.Sequential.__call__):
        torch.manual_seed(5)
        out = run(model, x)
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)
    assert_normal(out)


def test_init_scale_is_the_deviation_of_all_or_of_the_named():
    x, model = torch.randn(50, 4), nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    data_dependent_init_(model, x, 0.1)
    assert_normal(model(x), sigma=0.1)
    data_dependent_init_(model, x, {"2": 0.3})
    assert_normal(model[0](x))
    assert_normal(model(x), sigma=0.3)
    with pytest.raises(ValueError, match=r"^the model has no layer head$"):
        data_dependent_init_(model, x, {"2": 0.3, "head": 0.1})
    with pytest.raises(ValueError, match=r"^init_scale is a number above 0, not nan"):
        data_dependent_init_(model, x, float("nan"))


def test_layers_that_the_images_do_not_reach_are_named():
    model = nn.Sequential(nn.Linear(4, 8))
    model[0].spare = nn.Linear(8, 8)
    with pytest.warns(UserWarning, match=r"do not reach them: 0.spare$"):
        data_dependent_init_(model, torch.randn(20, 4))


def sharing(name):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    setattr(model[2], name, getattr(model[0], name))
    return lambda: model


form = "^the model: its weight is computed, but not from a parametrization's g per unit"
REFUSED = [
    (lambda: nn.Sequential(*[nn.Linear(4, 4)] * 2), (30, 4), "^0 is used twice, and one scale can"),
    (sharing("weight"), (30, 4), "^0 puts out a mean or deviation .* off; is its weight shared"),
    (sharing("bias"), (30, 4), "^0 puts out a mean or deviation .* off; is its weight shared"),
    (lambda: nn.Sequential(nn.Hardtanh(0.0, 5e-7), nn.Linear(4, 4)), (30, 4), "^1: a channel is"),
    (lambda: nn.Linear(4, 4), (1, 4), "^the model: a channel is constant on these images, or not"),
    (lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(5, 4)), (30, 4), "cannot be multiplied"),
    (lambda: parametrizations.spectral_norm(nn.Linear(4, 4)), (30, 4), form),
    (lambda: parametrizations.weight_norm(nn.Linear(4, 4), dim=1), (30, 4), form),
    (lambda: nn.ConvTranspose1d(4, 4, 3, groups=2), (9, 4, 5), "^a transposed convolution in gr"),
]


@pytest.mark.parametrize(("make", "shape", "message"), REFUSED)
def test_what_will_not_do_is_named_and_left_as_it_was(make, shape, message):
    model = make().eval()
    before = copy.deepcopy(model.state_dict()), settings(model)
    with pytest.raises((ValueError, TypeError, RuntimeError), match=message):
        data_dependent_init_(model, torch.randn(shape))
    assert settings(model) == before[1]
    assert all(torch.equal(value, before[0][name]) for name, value in model.state_dict().items())
