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


def is_norm(module):
    return isinstance(module, MeanOnlyBatchNorm | nn.BatchNorm2d | nn.BatchNorm1d)


def is_layer(module):
    return isinstance(module, nn.Conv2d | nn.Linear)


def outputs(model, images, kind):
    """What the modules of one kind put out, by name, in one pass in training mode."""
    seen, handles = {}, []
    for name, module in model.named_modules():
        if kind(module):
            handles.append(
                module.register_forward_hook(
                    lambda _m, _i, out, name=name: seen.update({name: numpy(out).copy()})
                )
            )
    with torch.no_grad():
        model.train()(images)
    for handle in handles:
        handle.remove()
    return seen


def moments(t):
    axes = tuple(a for a in range(t.ndim) if a != 1)
    return t.mean(axes), t.var(axes)


def snapshot(model):
    """Everything that an initialization touches, bit for bit."""
    tensors = {n: t.clone() for n, t in [*model.named_parameters(), *model.named_buffers()]}
    settings = {
        name: (m.training, getattr(m, "momentum", None), getattr(m, "decay", None))
        for name, m in model.named_modules()
    }
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    return tensors, settings, hooks


def assert_unchanged(model, before):
    tensors, settings, hooks = snapshot(model)
    assert settings == before[1]
    assert hooks == before[2]
    assert tensors.keys() == before[0].keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, before[0][name]), name


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
    ones = np.ones(len(layer.bias))
    ratio, b = released(numpy(layer(x)), ones)  # g_new / g
    chain = [p.detach().clone() for p in layer.parametrizations.weight.parameters()] if scale else 0
    data_dependent_init_(layer, x)
    np.testing.assert_allclose(numpy(layer.bias), b, rtol=1e-9, atol=1e-12)
    if scale:
        g, v = layer.parametrizations.weight.parameters()
        assert torch.equal(v, chain[1])
        old, new = numpy(chain[0]).ravel(), numpy(g).ravel()
        new_g = old * ratio if scale == "linear" else old + np.log(ratio)
        np.testing.assert_allclose(new, new_g, rtol=1e-9)
    mean, variance = moments(numpy(layer(x)))
    np.testing.assert_allclose(mean, 0, atol=1e-12)
    np.testing.assert_allclose(variance, 1, rtol=1e-9)
    # Each unit's weights were only stretched.
    stretch = numpy(layer.weight / weight)
    assert np.unique(stretch.round(9)).size == len(layer.bias)


@every_norm
@pytest.mark.parametrize("scale", ["linear", "exp"])
def test_every_preactivation_starts_normal(norm, scale, images):
    # With an epsilon that cannot be seen beside small variances.
    model = ConvPoolCNNC(norm, 4, scale=scale, bn_eps=1e-10)
    state = torch.get_rng_state()
    data_dependent_init_(model, images)
    torch.set_rng_state(state)  # the same noise and dropout again
    layers = is_layer if norm in (Norm.NONE, Norm.WN) else is_norm
    seen = outputs(model, images, layers)
    assert len(seen) == 10
    for name, t in seen.items():
        mean, variance = moments(t)
        np.testing.assert_allclose(mean, 0, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(variance, 1, atol=1e-3, err_msg=name)


@every_norm
def test_evaluation_agrees_on_that_minibatch(norm, images):
    """Without noise and dropout, running statistics are the minibatch's from the start."""
    model = ConvPoolCNNC(norm, 4, noise=nn.Identity(), dropout=0.0)
    data_dependent_init_(model, images)
    with torch.no_grad():
        model.eval()
        evaluated = model(images)
    model.train()
    expected = model(images)
    if norm is Norm.BN:  # torch's running variance is the unbiased one
        torch.testing.assert_close(evaluated, expected, rtol=0.1, atol=0.1)
    else:
        torch.testing.assert_close(evaluated, expected, rtol=1e-3, atol=1e-4)


@every_norm
def test_twice_is_once(norm, images):
    model = ConvPoolCNNC(norm, 4, noise=nn.Identity(), dropout=0.0)
    data_dependent_init_(model, images)
    first = copy.deepcopy(model.state_dict())
    data_dependent_init_(model, images)
    for name, value in model.state_dict().items():
        if "num_batches" not in name:
            torch.testing.assert_close(value, first[name], rtol=1e-3, atol=1e-4)


def test_first_layer_is_the_released_codes(images):
    model = ConvPoolCNNC("wn", 4, noise=nn.Identity())
    layer = model.conv1.layer
    g, b = released(numpy(layer(images)), numpy(layer.parametrizations.weight.original0).ravel())
    data_dependent_init_(model, images)
    got = numpy(layer.parametrizations.weight.original0).ravel()
    np.testing.assert_allclose(got, g, rtol=1e-4)
    np.testing.assert_allclose(numpy(layer.bias), b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("norm", [Norm.WN, Norm.WN_MOBN])
def test_weight_norm_keeps_v(norm, images):
    model = ConvPoolCNNC(norm, 4)
    before = copy.deepcopy(model.state_dict())
    data_dependent_init_(model, images)
    for name, value in model.state_dict().items():
        if name.endswith("original1"):
            assert torch.equal(value, before[name])
        elif name.endswith("original0"):
            assert (value != before[name]).all()


@pytest.mark.parametrize("norm", [Norm.MOBN, Norm.WN_MOBN])
def test_mean_only_bn_takes_the_mean_over(norm, images):
    model = ConvPoolCNNC(norm, 4, noise=nn.Identity())
    with torch.no_grad():
        model.conv1.norm.bias.fill_(3)
    t = numpy(model.conv1.layer(images))
    data_dependent_init_(model, images)
    assert (model.conv1.norm.bias == 0).all()
    mean, variance = moments(t)
    running = numpy(model.conv1.norm.running_mean)
    np.testing.assert_allclose(running, mean / np.sqrt(variance), rtol=1e-3, atol=1e-5)


def test_batch_norm_leaves_its_layers_alone(images):
    model = ConvPoolCNNC("bn", 4)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.conv2.norm.weight.fill_(5)
        model.conv2.norm.bias.fill_(5)
    data_dependent_init_(model, images)
    for name, value in model.state_dict().items():
        if "layer" in name:
            assert torch.equal(value, before[name]), name
    for module in filter(is_norm, model.modules()):
        assert (module.weight == 1).all()
        assert (module.bias == 0).all()
        assert module.num_batches_tracked == 1


@every_norm
def test_settings_survive(norm, images):
    model = ConvPoolCNNC(norm, 2)
    for module in filter(is_norm, model.modules()):
        if norm is Norm.BN:
            module.momentum = None
        else:
            module.momentum = 0.3
    model.eval()
    model.conv3.train()
    _, settings, hooks = snapshot(model)
    data_dependent_init_(model, images)
    assert snapshot(model)[1:] == (settings, hooks)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


# --- any model


def stages(*modules):
    return nn.Sequential(*modules).double()


def test_linear_layers_alone():
    model = stages(nn.Linear(6, 8), nn.Tanh(), weight_norm(nn.Linear(8, 4)), nn.ReLU(True))
    x = torch.rand(30, 6, dtype=torch.float64)
    data_dependent_init_(model, x)
    for t in outputs(model[:3], x, is_layer).values():
        mean, variance = moments(t)
        np.testing.assert_allclose((mean, variance - 1), 0, atol=1e-9)


def test_linear_takes_sequences():
    layer = weight_norm(nn.Linear(6, 8)).double()
    x = torch.rand(5, 7, 6, dtype=torch.float64)
    data_dependent_init_(layer, x)
    t = numpy(layer(x)).reshape(-1, 8)
    np.testing.assert_allclose((t.mean(0), t.var(0) - 1), 0, atol=1e-9)


def test_torchs_weight_norm_is_initialized_too():
    model = stages(parametrizations.weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3))
    v = model[0].parametrizations.weight.original1.clone()
    x = torch.rand(30, 6, dtype=torch.float64)
    data_dependent_init_(model, x)
    assert torch.equal(model[0].parametrizations.weight.original1, v)
    for t in outputs(model, x, is_layer).values():
        np.testing.assert_allclose(moments(t)[1], 1, rtol=1e-9)


def test_batch_norm_after_a_biased_layer():
    model = stages(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    twin = copy.deepcopy(model)
    x = torch.rand(8, 3, 6, 6, dtype=torch.float64)
    data_dependent_init_(model, x)
    for ours, theirs in zip(model[0].parameters(), twin[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)
    twin[1].momentum = 1.0
    twin[:2](x)
    torch.testing.assert_close(model[1].running_mean, twin[1].running_mean)
    torch.testing.assert_close(model[1].running_var, twin[1].running_var)
    mean, variance = moments(outputs(model, x, is_layer)["4"])
    np.testing.assert_allclose((mean, variance - 1), 0, atol=1e-9)


@pytest.mark.parametrize("inplace", [True, False])
def test_batch_norm_after_an_activation_leaves_the_layer_to_us(inplace):
    act = nn.ReLU(inplace)
    model = stages(nn.Conv2d(3, 4, 3), act, nn.BatchNorm2d(4))
    x = torch.rand(8, 3, 6, 6, dtype=torch.float64)
    data_dependent_init_(model, x)
    t = model[0](x)
    mean, variance = moments(numpy(t))
    np.testing.assert_allclose((mean, variance - 1), 0, atol=1e-9)
    torch.testing.assert_close(model[2].running_mean, t.relu().mean((0, 2, 3)))
    out = numpy(model(x))
    np.testing.assert_allclose(moments(out)[0], 0, atol=1e-9)


def test_mean_only_bn_after_a_biased_layer_takes_its_bias():
    model = stages(weight_norm(nn.Conv2d(3, 4, 3)), MeanOnlyBatchNorm(4))
    x = torch.rand(8, 3, 6, 6, dtype=torch.float64)
    t = numpy(model[0](x) - model[0].bias.view(-1, 1, 1))
    data_dependent_init_(model, x)
    assert (model[0].bias == 0).all()
    assert (model[1].bias == 0).all()
    mean, variance = moments(t)
    np.testing.assert_allclose(numpy(model[1].running_mean), mean / np.sqrt(variance), rtol=1e-9)
    mean, variance = moments(numpy(model(x)))
    np.testing.assert_allclose((mean, variance - 1), 0, atol=1e-9)


def test_norms_over_other_dimensions_leave_the_layer_to_us():
    for norm in (nn.BatchNorm1d(5), MeanOnlyBatchNorm(5)):
        model = stages(nn.Linear(4, 5), norm)
        x = torch.rand(8, 5, 4, dtype=torch.float64)
        data_dependent_init_(model, x)
        t = numpy(model[0](x)).reshape(-1, 5)
        np.testing.assert_allclose((t.mean(0), t.var(0) - 1), 0, atol=1e-9)


def test_norms_before_any_layer():
    model = stages(nn.BatchNorm1d(6), MeanOnlyBatchNorm(6), nn.Linear(6, 3))
    x = torch.rand(30, 6, dtype=torch.float64) * 4
    data_dependent_init_(model, x)
    torch.testing.assert_close(model[0].running_mean, x.mean(0))
    mean, variance = moments(numpy(model(x)))
    np.testing.assert_allclose((mean, variance - 1), 0, atol=1e-9)


# --- refusals; the model stays as it was


def fragile(norm="wn_mobn"):
    """A network of modes, hooks and settings that must all survive."""
    model = ConvPoolCNNC(norm, 2)
    model.conv3.eval()
    model.conv4.register_forward_hook(lambda *_: None)
    return model


@every_norm
def test_one_image_is_refused(norm, images):
    model = fragile(norm)
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"^data-dependent initialization takes 2 images or"):
        data_dependent_init_(model, images[:1])
    assert_unchanged(model, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_images_that_are_not_finite_are_named(value, images):
    images[5, 1, 2, 3] = value
    images[9] = value
    model = fragile()
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"^image 5 of the minibatch has NaN or infinite values$"):
        data_dependent_init_(model, images)
    assert_unchanged(model, before)


@every_norm
def test_constant_channels_are_named(norm, images):
    model = fragile(norm)
    layer = model.conv5.layer
    with torch.no_grad():
        name = "weight" if not norm.weight_normalized else "parametrizations.weight.original0"
        layer.get_parameter(name)[3] = 0
    before = snapshot(model)
    message = r"^conv5.layer: output channel 3 is constant on this minibatch, so it has no scale"
    with pytest.raises(ValueError, match=message):
        data_dependent_init_(model, images)
    assert_unchanged(model, before)


def test_equal_images_are_constant(images):
    model = stages(nn.Flatten(), nn.Linear(3072, 2))
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"^1: output channel 0 is constant"):
        data_dependent_init_(model, images[:1].double().expand(4, -1, -1, -1))
    assert_unchanged(model, before)


def test_a_layer_used_twice_is_named():
    layer = weight_norm(nn.Linear(4, 4))
    model = nn.Sequential(nn.Linear(4, 4), layer, nn.ReLU(), layer)
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"^1 is used twice"):
        data_dependent_init_(model, torch.randn(8, 4))
    assert_unchanged(model, before)


def test_other_parametrizations_are_refused():
    model = nn.Sequential(nn.Linear(4, 4), parametrizations.spectral_norm(nn.Linear(4, 4)))
    before = snapshot(model)
    with pytest.raises(TypeError, match=r"^1: its weight is neither plain nor weight-normal"):
        data_dependent_init_(model, torch.randn(8, 4))
    assert_unchanged(model, before)
    stacked = weight_norm(nn.Linear(4, 4))
    parametrize.register_parametrization(stacked, "weight", nn.Identity())
    with pytest.raises(TypeError, match=r"^the model: its weight is neither plain nor"):
        data_dependent_init_(stacked, torch.randn(8, 4))


class Odd(nn.Module):
    """Counts its calls in a buffer that no checkpoint holds, and has a state of its own kind."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()), persistent=False)
        self.notes = ["kept"]

    def forward(self, x):
        self.calls += 1
        return x

    def get_extra_state(self):
        return self.notes

    def set_extra_state(self, state):
        self.notes = state


class Remembers(nn.Linear):
    """Keeps what it put out, with its graph, as the parts of a loss are often kept."""

    def forward(self, x):
        self.last = super().forward(x)
        return self.last


def test_a_model_that_was_run_before_is_initialized():
    model, x = nn.Sequential(Remembers(4, 3)), torch.randn(30, 4)
    model(x)
    data_dependent_init_(model, x)
    torch.testing.assert_close(model(x).std(0, correction=0), torch.ones(3))


def test_odd_modules_survive_success_and_failure():
    model = stages(Odd(), nn.Linear(4, 4))
    data_dependent_init_(model, torch.randn(8, 4).double())
    assert model[0].calls == 2  # setting, checking
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        data_dependent_init_(model, torch.randn(8, 5).double())
    assert_unchanged(model, before)
    assert model[0].notes == ["kept"]


def test_a_frozen_scale_starts_as_a_divided_weight_does_and_is_not_trained():
    images = torch.randn(50, 3, 32, 32)
    outputs = {}
    for plain in ("divided", "frozen"):
        torch.manual_seed(0)
        model = ConvPoolCNNC(Norm.NONE, 4, plain=plain)
        torch.manual_seed(1)
        data_dependent_init_(model, images)
        outputs[plain] = model.eval()(images)
    torch.testing.assert_close(outputs["frozen"], outputs["divided"])
    layer = model.conv2.layer
    drawn = layer.parametrizations.weight.original
    assert drawn.std().item() == pytest.approx(0.05, rel=0.3)
    g = layer.parametrizations.weight[0].g
    assert g.flatten()[0] != 1
    torch.testing.assert_close(layer.weight, g * drawn)
    assert "parametrizations.weight.0.g" in dict(layer.named_buffers())


# --- outside the contract: refused by name, and the model as it was


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_a_weight_that_a_hook_computes_is_named():
    model = nn.Sequential(nn.Linear(4, 4), torch.nn.utils.weight_norm(nn.Linear(4, 4)))
    before = snapshot(model)
    with pytest.raises(TypeError, match=r"^1: its weight is neither plain nor weight-normalized"):
        data_dependent_init_(model, torch.randn(30, 4))
    assert_unchanged(model, before)


def test_layers_that_share_a_weight_are_named():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"^0: mean and deviation .* weight shared"):
        data_dependent_init_(model, torch.randn(30, 4))
    assert_unchanged(model, before)


@pytest.mark.parametrize("units", [4, 6])
def test_a_g_that_is_not_one_an_output_unit_is_named(units):
    transposed = parametrizations.weight_norm(nn.ConvTranspose2d(4, units, 3))  # one an input
    model = nn.Sequential(transposed)
    before = snapshot(model)
    with pytest.raises(TypeError, match=r"^0: its weight is neither plain nor weight-normalized"):
        data_dependent_init_(model, torch.randn(30, 4, 5, 5))
    assert_unchanged(model, before)
    model = nn.Sequential(parametrizations.weight_norm(nn.ConvTranspose2d(4, units, 3), dim=1))
    x = torch.randn(30, 4, 5, 5)
    data_dependent_init_(model, x)
    torch.testing.assert_close(model(x).std((0, 2, 3), correction=0), torch.ones(units))


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


def test_the_callers_generator_goes_on_as_after_one_pass():
    model = nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 5))
    x = torch.randn(50, 4)
    torch.manual_seed(1)
    nn.Dropout(0.3)(x)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    data_dependent_init_(model, x)
    torch.testing.assert_close(torch.rand(3), wanted)
