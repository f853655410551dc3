"""Data-dependent initialization against the released code's arithmetic, and at its edges."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from wnlib import ConvPoolCNNC, MeanOnlyBatchNorm, Norm, data_dependent_init_, weight_norm

pytestmark = pytest.mark.usefixtures("one_thread")
every_norm = pytest.mark.parametrize("norm", list(Norm))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(3)


@pytest.fixture
def images():
    """16 images, off-center and of unequal channels."""
    return torch.randn(16, 3, 32, 32) * torch.tensor([0.5, 1, 2]).view(3, 1, 1) + 0.3


def released(t, g):
    """The arithmetic of the paper's released code on pre-activations t (N, units, ...) and g."""
    axes = tuple(a for a in range(t.ndim) if a != 1)
    m = t.mean(axes)
    inv_stdv = 1 / np.sqrt(((t - m.reshape(-1, *[1] * (t.ndim - 2))) ** 2).mean(axes))
    return g * inv_stdv, -m * inv_stdv


def numpy(tensor):
    return tensor.detach().double().numpy()


def outputs(model, x, *kinds):
    """What the modules of these kinds put out, by name, in one pass in training mode."""
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, kinds):
            module.register_forward_hook(
                lambda _m, _i, out, name=name: seen.update({name: numpy(out).copy()})
            )
    model.train()(x)
    return seen


def assert_normal(t, atol=1e-9):
    """Mean 0 and variance 1 of each unit, (N, units, ...)."""
    t = numpy(t) if isinstance(t, torch.Tensor) else t
    axes = tuple(a for a in range(t.ndim) if a != 1)
    np.testing.assert_allclose((t.mean(axes), t.var(axes) - 1), 0, atol=atol)


def snapshot(model):
    """Everything that an initialization touches, bit for bit."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    modules = [(m.training, getattr(m, "momentum", 0)) for m in model.modules()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    return [(name, numpy(t).tobytes()) for name, t in tensors], modules, hooks


def refused(model, x, message, error=ValueError):
    before = snapshot(model)
    with pytest.raises(error, match=message):
        data_dependent_init_(model, x)
    assert snapshot(model) == before


# --- eq. 6


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.Linear(5, 3), (40, 5)),
        (lambda: nn.Conv2d(3, 4, 3), (6, 3, 8, 8)),
        (lambda: nn.Conv1d(4, 6, 3, groups=2), (6, 4, 9)),
        (lambda: nn.ConvTranspose2d(3, 4, 3), (6, 3, 5, 5)),
        (lambda: nn.ConvTranspose1d(4, 6, 3, groups=2), (6, 4, 9)),
    ],
    ids=["linear", "conv2d", "conv1d-grouped", "transposed2d", "transposed1d-grouped"],
)
@pytest.mark.parametrize("scale", ["linear", "exp", None])
def test_g_and_b_are_the_released_codes(layer, shape, scale):
    layer = layer().double()
    nn.init.zeros_(layer.bias)  # as the released code has it
    if scale:
        weight_norm(layer, scale=scale)
    x = torch.randn(shape, dtype=torch.float64) + 0.5
    weight = layer.weight.detach().clone()
    ratio, b = released(numpy(layer(x)), np.ones(len(layer.bias)))  # g_new / g
    chain = [p.detach().clone() for p in layer.parametrizations.weight.parameters()] if scale else 0
    data_dependent_init_(layer, x)
    np.testing.assert_allclose(numpy(layer.bias), b, rtol=1e-9, atol=1e-12)
    if scale:
        g, v = layer.parametrizations.weight.parameters()
        assert torch.equal(v, chain[1])
        old, new = numpy(chain[0]).ravel(), numpy(g).ravel()
        new_g = old * ratio if scale == "linear" else old + np.log(ratio)
        np.testing.assert_allclose(new, new_g, rtol=1e-9)
    assert_normal(layer(x))
    assert np.unique(numpy(layer.weight / weight).round(9)).size == len(layer.bias)


@every_norm
@pytest.mark.parametrize("scale", ["linear", "exp"])
def test_every_preactivation_starts_normal(norm, scale, images):
    # With an epsilon that cannot be seen beside small variances.
    model = ConvPoolCNNC(norm, 4, scale=scale, bn_eps=1e-10)
    v = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    data_dependent_init_(model, images)
    for name, value in model.state_dict().items():  # v, and what batch norm follows, is left alone
        if name.endswith("original1") or (norm is Norm.BN and "layer" in name):
            assert torch.equal(value, v[name])
    torch.set_rng_state(state)  # the same noise and dropout again
    last = (nn.Conv2d, nn.Linear) if norm in (Norm.NONE, Norm.WN) else (nn.BatchNorm1d,)
    seen = outputs(model, images, *last, nn.BatchNorm2d, MeanOnlyBatchNorm)
    assert len(seen) == 10
    for t in seen.values():
        assert_normal(t, 1e-3)


@every_norm
def test_evaluation_agrees_on_that_minibatch_and_twice_is_once(norm, images):
    """Without noise and dropout, running statistics are the minibatch's from the start."""
    model = ConvPoolCNNC(norm, 4, noise=nn.Identity(), dropout=0.0)
    data_dependent_init_(model, images)
    first = copy.deepcopy(model.state_dict())
    data_dependent_init_(model, images)
    torch.testing.assert_close(dict(model.state_dict()), dict(first), rtol=1e-3, atol=1e-4)
    evaluated, expected = model.eval()(images), model.train()(images)
    atol = 0.1 if norm is Norm.BN else 1e-3  # torch's running variance is the unbiased one
    torch.testing.assert_close(evaluated, expected, rtol=atol, atol=atol)


def test_settings_survive(images):
    model = ConvPoolCNNC("bn", 2)
    model.conv1.norm.momentum, model.conv2.norm.momentum = None, 0.3
    model.eval().conv3.train()
    _, settings, hooks = snapshot(model)
    data_dependent_init_(model, images)
    assert snapshot(model)[1:] == (settings, hooks)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert model.conv1.norm.num_batches_tracked == 1


def test_a_frozen_scale_starts_as_a_divided_weight_does():
    x, outputs = torch.randn(50, 3, 32, 32), {}
    for plain in ("divided", "frozen"):
        torch.manual_seed(0)
        model = ConvPoolCNNC(Norm.NONE, 4, plain=plain)
        data_dependent_init_(model, x)
        outputs[plain] = model.eval()(x)
    torch.testing.assert_close(outputs["frozen"], outputs["divided"])
    weight = model.conv2.layer.parametrizations.weight
    assert weight.original.std().item() == pytest.approx(0.05, rel=0.3)
    assert "parametrizations.weight.0.g" in dict(model.conv2.layer.named_buffers())


# --- any model


def stages(*modules):
    return nn.Sequential(*modules).double()


MODELS = {
    "tanh": lambda: (nn.Linear(6, 8), nn.Tanh(), weight_norm(nn.Linear(8, 4))),
    "torch's": lambda: (parametrizations.weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3)),
    "norms first": lambda: (nn.BatchNorm1d(6), MeanOnlyBatchNorm(6), nn.Linear(6, 3)),
    "norm after ReLU": lambda: (nn.Linear(6, 3), nn.ReLU(True), nn.BatchNorm1d(3)),
    "no bias": lambda: (nn.Linear(6, 3, bias=False), MeanOnlyBatchNorm(3)),
    "bias and mean-only BN": lambda: (weight_norm(nn.Linear(6, 3)), MeanOnlyBatchNorm(3)),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_any_model_starts_normal(make):
    model = stages(*make())
    x = torch.rand(30, 6, dtype=torch.float64) * 4
    data_dependent_init_(model, x)
    mean_only = isinstance(model[0], nn.Linear) and isinstance(model[1], MeanOnlyBatchNorm)
    for t in outputs(model, x, *(MeanOnlyBatchNorm,) if mean_only else (nn.Linear,)).values():
        assert_normal(t, 1e-8)
    if mean_only:
        running = model[1].running_mean
        assert not model[1].bias.any()
        torch.testing.assert_close(running, model[0](x).mean(0))
        assert_normal(model[0](x) - running)


@pytest.mark.parametrize("norm", [None, nn.BatchNorm1d(5), MeanOnlyBatchNorm(5)])
def test_linear_takes_sequences(norm):
    """A norm over another dimension leaves the layer to us."""
    model = stages(weight_norm(nn.Linear(4, 5)), norm or nn.Identity())
    x = torch.rand(8, 5, 4, dtype=torch.float64)
    data_dependent_init_(model, x)
    assert_normal(model[0](x).flatten(0, 1))


def test_init_scale_is_the_deviation_of_all_or_of_the_named():
    x = torch.randn(50, 4)
    for norm in (lambda layer: layer, weight_norm):
        model = nn.Sequential(norm(nn.Linear(4, 5)), nn.ReLU(), norm(nn.Linear(5, 3)))
        data_dependent_init_(model, x, 0.1)
        torch.testing.assert_close(model(x).std(0, correction=0), torch.full((3,), 0.1))
        data_dependent_init_(model, x, {"2": 0.3})
        torch.testing.assert_close(model[0](x).std(0, correction=0), torch.ones(5))
        torch.testing.assert_close(model(x).std(0, correction=0), torch.full((3,), 0.3))
    with pytest.raises(ValueError, match=r"^the model has no layer 1, head$"):
        data_dependent_init_(model, x, {"2": 0.3, "head": 0.1, "1": 1.0})
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"^init_scale is a number above 0, not "):
            data_dependent_init_(model, x, bad)


def test_the_callers_generator_goes_on_as_after_one_pass():
    model, x, drawn = nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 5)), torch.randn(50, 4), []
    for f in (lambda: nn.Dropout(0.3)(x), lambda: data_dependent_init_(model, x)):
        torch.manual_seed(1)
        f()
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


@every_norm
@pytest.mark.parametrize("around", [torch.inference_mode, lambda: torch.autocast("cpu", bf16)])
def test_autocast_and_inference_mode_change_nothing(norm, around, images):
    models = [ConvPoolCNNC(norm, 4, noise=nn.Identity(), dropout=0.0)]
    models.append(copy.deepcopy(models[0]))
    data_dependent_init_(models[0], images)
    with around():
        data_dependent_init_(models[1], images)
    assert snapshot(models[0]) == snapshot(models[1])
    models[1](images).sum().backward()


bf16 = torch.bfloat16


@every_norm
@pytest.mark.parametrize("dtype", [torch.float16, bf16])
def test_half_precision_is_initialized_as_well_as_it_can_be(norm, dtype, images):
    model = ConvPoolCNNC(norm, 8, noise=nn.Identity(), dropout=0.0).to(dtype)
    data_dependent_init_(model, images.to(dtype))
    kinds = (nn.Conv2d,) if norm in (Norm.NONE, Norm.WN) else (MeanOnlyBatchNorm, nn.BatchNorm2d)
    for t in outputs(model, images.to(dtype), *kinds).values():
        assert_normal(t, 0.2)


@pytest.mark.filterwarnings("error")
def test_a_model_that_was_run_before_is_initialized():
    """What it remembers, with its graph, is no obstacle; nor is a normalized LSTM."""

    class Remembers(nn.Linear):
        def forward(self, x):
            self.last = super().forward(x)
            return self.last

    class Recurrent(nn.LSTM):
        def forward(self, x):
            return super().forward(x)[0][:, -1]

    lstm = weight_norm(
        weight_norm(Recurrent(4, 4, batch_first=True), "weight_ih_l0"), "weight_hh_l0"
    )
    model, x = nn.Sequential(lstm, Remembers(4, 3)), torch.randn(30, 5, 4)
    model(x)
    data_dependent_init_(model, x)
    torch.testing.assert_close(model(x).std(0, correction=0), torch.ones(3))


def test_layers_that_the_images_do_not_reach_are_named():
    class Attention(nn.MultiheadAttention):
        def forward(self, x):
            return super().forward(x, x, x)[0]

    model = nn.Sequential(nn.Linear(4, 8), Attention(8, 2), nn.Linear(8, 3))
    before = model[1].out_proj.weight.clone()
    with pytest.warns(UserWarning, match=r"do not reach them: 1.out_proj$"):
        data_dependent_init_(model, torch.randn(20, 4))
    assert torch.equal(model[1].out_proj.weight, before)
    torch.testing.assert_close(model(torch.randn(2000, 4)).std(0), torch.ones(3), rtol=1, atol=1)


# --- refusals; the model stays as it was


@every_norm
def test_minibatches_that_will_not_do_are_named(norm, images):
    model = ConvPoolCNNC(norm, 2)
    model.conv4.register_forward_hook(lambda *_: None)
    refused(model, images[:1], r"^data-dependent initialization takes 2 images or more, not 1$")
    images[5, 1, 2, 3] = float("nan")
    refused(model, images, r"^image 5 of the minibatch has NaN or infinite values$")
    name = "parametrizations.weight.original0" if norm.weight_normalized else "weight"
    with torch.no_grad():
        model.conv5.layer.get_parameter(name)[1] = 0
    refused(model, images.nan_to_num(), r"^conv5.layer: output channel 1 is constant on this mini")


def shared():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    return model


def twice():
    layer = weight_norm(nn.Linear(4, 4))
    return nn.Sequential(nn.Linear(4, 4), layer, nn.ReLU(), layer)


def stacked():
    layer = weight_norm(nn.Linear(4, 4))
    return parametrize.register_parametrization(layer, "weight", nn.Identity())


def elsewhere():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

        def forward(self, x):
            return self.norm(self.layer(x).relu())

    return Block()


form = "its weight is neither plain nor weight-normalized with one g per output unit; wnlib.weight_"
transposed = parametrizations.weight_norm(nn.ConvTranspose1d(4, 4, 3))  # one g per input unit
REFUSED = {
    "used twice": (twice, (30, 4), "^1 is used twice, and"),
    "shared": (shared, (30, 4), "^0: mean and deviation .* off after .* weight shared"),
    "infinite": (lambda: nn.Linear(4, 4), (30, 4), "^the model puts out NaN or infinite values"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(3)), (30, 4), "^0.weight has no shape yet; run"),
    "norm elsewhere": (elsewhere, (30, 4), "^layer: the norm beside it does not take what it puts"),
    "spectral": (lambda: parametrizations.spectral_norm(nn.Linear(4, 4)), (30, 4), form),
    "stacked": (stacked, (30, 4), form),
    "older hook": (lambda: torch.nn.utils.weight_norm(nn.Linear(4, 4)), (30, 4), form),
    "g per input unit": (lambda: transposed, (30, 4, 5), form),
    "shape": (lambda: nn.Linear(4, 4), (30, 5), "shapes cannot be multiplied"),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize("kind", REFUSED)
def test_models_that_will_not_do_are_named(kind):
    make, shape, message = REFUSED[kind]
    model, x = make(), torch.randn(shape)
    error = TypeError if message is form else RuntimeError if kind == "shape" else ValueError
    if kind == "lazy":
        with pytest.raises(error, match=message):
            data_dependent_init_(model, x)
        return
    refused(model, x.clamp(-1, 1) * 3e38 if kind == "infinite" else x, message, error)
