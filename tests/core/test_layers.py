"""weight_norm and MeanOnlyBatchNorm against NumPy, PyTorch and the paper's laws."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from wnlib import MeanOnlyBatchNorm, Norm, weight_norm
from wnlib.model import block

pytestmark = pytest.mark.usefixtures("one_thread")
laws = settings(max_examples=50, deadline=None, derandomize=True)

LAYERS = {
    "linear": lambda: nn.Linear(5, 3),
    "conv1d": lambda: nn.Conv1d(2, 3, 3),
    "conv1d-grouped": lambda: nn.Conv1d(4, 6, 3, groups=2),
    "conv2d": lambda: nn.Conv2d(3, 4, 3),
    "conv2d-depthwise": lambda: nn.Conv2d(3, 3, 2, groups=3),
    "conv3d": lambda: nn.Conv3d(2, 3, 2),
    "transposed1d": lambda: nn.ConvTranspose1d(4, 3, 3),
    "transposed2d": lambda: nn.ConvTranspose2d(3, 4, 2),
    "transposed3d": lambda: nn.ConvTranspose3d(2, 3, 2),
    "transposed1d-grouped": lambda: nn.ConvTranspose1d(4, 6, 3, groups=2),
    "transposed2d-grouped": lambda: nn.ConvTranspose2d(6, 3, 2, groups=3),
    "bilinear": lambda: nn.Bilinear(3, 4, 5),
    "embedding": lambda: nn.Embedding(7, 4),
}
every_layer = pytest.mark.parametrize("kind", LAYERS)
every_scale = pytest.mark.parametrize("scale", ["linear", "exp"])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(1)


def make(kind, dtype=torch.float64):
    return LAYERS[kind]().to(dtype)


def inputs_of(layer, dtype=torch.float64):
    if isinstance(layer, nn.Embedding):
        return (torch.randint(layer.num_embeddings, (2, 6)),)
    if isinstance(layer, nn.Bilinear):
        return tuple(
            torch.randn(2, n, dtype=dtype) for n in (layer.in1_features, layer.in2_features)
        )
    if isinstance(layer, nn.Linear):
        return (torch.randn(2, layer.in_features, dtype=dtype),)
    return (torch.randn(2, layer.in_channels, *[5] * (layer.weight.ndim - 2), dtype=dtype),)


def originals(layer):
    chain = layer.parametrizations.weight
    return chain.original0, chain.original1


def rows(layer, w):
    """The weight vectors of the output units, (units, fan in): what the paper calls w."""
    w = w.detach().numpy()
    if not getattr(layer, "transposed", False):
        return w.reshape(len(w), -1)
    groups, units = layer.groups, w.shape[1]  # (in, out / groups, ...)
    w = w.reshape(groups, len(w) // groups, units, -1).transpose(0, 2, 1, 3)
    return w.reshape(groups * units, -1)


def shuffle_g(layer):
    """Any g, of either sign, as training would leave it."""
    g, _ = originals(layer)
    with torch.no_grad():
        g.copy_(torch.randn_like(g))


def gradients(kind):
    """One layer's v, g, ∇_w, ∇_g and ∇_v, as rows and columns, from `backward`."""
    layer = weight_norm(make(kind))
    shuffle_g(layer)
    plain = make(kind)
    with torch.no_grad():
        for name in ("weight", "bias"):
            if getattr(plain, name, None) is not None:
                getattr(plain, name).copy_(getattr(layer, name))
    x = inputs_of(plain)
    target = torch.randn_like(plain(*x))
    for model in (layer, plain):
        F.mse_loss(model(*x), target, reduction="sum").backward()
    g, v = originals(layer)
    column = [a.detach().numpy().reshape(-1, 1) for a in (g, g.grad)]
    return rows(plain, v), column[0], rows(plain, plain.weight.grad), column[1], rows(plain, v.grad)


# --- eq. 1 to 4 and g = e^s, typed again


@every_layer
@every_scale
def test_weight_is_g_v_over_norm(kind, scale):
    layer = weight_norm(make(kind), scale=scale)
    shuffle_g(layer)
    g, v = originals(layer)
    g, v = g.detach().numpy().reshape(-1, 1), rows(layer, v)
    if scale == "exp":
        g = np.exp(g)
    norm = np.sqrt((v**2).sum(1, keepdims=True))
    np.testing.assert_allclose(rows(layer, layer.weight), g * v / norm, rtol=1e-12)


@every_layer
@every_scale
def test_wrapping_changes_no_output(kind, scale):
    layer = make(kind)
    x = inputs_of(layer)
    before = layer(*x)
    torch.testing.assert_close(weight_norm(layer, scale=scale)(*x), before)


@every_layer
def test_gradients_are_eq_2(kind):
    v, g, grad_w, grad_g, grad_v = gradients(kind)
    norm = np.linalg.norm(v, axis=1, keepdims=True)
    expected_g = (grad_w * v).sum(1, keepdims=True) / norm
    expected_v = g / norm * grad_w - g * expected_g / norm**2 * v
    np.testing.assert_allclose(grad_g, expected_g, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(grad_v, expected_v, rtol=1e-9, atol=1e-12)


def test_noise_covariance_of_v_is_eq_5():
    layer = weight_norm(nn.Linear(4, 1, bias=False, dtype=torch.float64))
    shuffle_g(layer)
    g, v = originals(layer)
    x = torch.randn(50, 4, dtype=torch.float64)
    w = layer.weight.detach().numpy()[0]
    grads_w = [2 * (w @ x_n) * x_n for x_n in x.numpy()]  # of the loss (w·x)²
    grads_v = [torch.autograd.grad(layer(x_n).square().sum(), v)[0][0].numpy() for x_n in x]
    m = np.eye(4) - np.outer(w, w) / (w @ w)
    factor = (g.item() / v.norm().item()) ** 2
    expected = factor * m @ np.cov(np.array(grads_w).T) @ m
    np.testing.assert_allclose(np.cov(np.array(grads_v).T), expected, rtol=1e-9)


finite = st.floats(-4, 4, width=32)
vectors = st.integers(2, 6).flatmap(lambda n: arrays(np.float64, (3, 2, n), elements=finite))


def wrapped(v, g):
    layer = weight_norm(nn.Linear(v.shape[1], len(v), bias=False, dtype=torch.float64))
    with torch.no_grad():
        originals(layer)[0].copy_(torch.from_numpy(g)[:, None])
        originals(layer)[1].copy_(torch.from_numpy(v))
    return layer


@laws
@given(vectors)
def test_gradient_of_v_is_orthogonal_to_v(values):
    v, c, x = values
    assume((np.linalg.norm(v, axis=1) > 1e-3).all())
    layer = wrapped(v, c[:, 0])
    (layer(torch.from_numpy(x)) * torch.from_numpy(c[:, :1])).sum().backward()
    grad = originals(layer)[1].grad.numpy()
    size = np.linalg.norm(v, axis=1) * np.linalg.norm(grad, axis=1)
    assert (np.abs((v * grad).sum(1)) <= 1e-9 * size + 1e-12).all()


@laws
@given(vectors, st.floats(1e-3, 10))
def test_norm_of_v_never_shrinks_under_sgd(values, lr):
    v, c, x = values
    assume((np.linalg.norm(v, axis=1) > 1e-2).all())
    layer = wrapped(v, c[:, 0])
    weights = originals(layer)
    sgd = torch.optim.SGD([weights[1]], lr)
    for _ in range(3):
        before = weights[1].detach().numpy().copy()
        sgd.zero_grad()
        (layer(torch.from_numpy(x)) - torch.from_numpy(c[:, :1])).square().sum().backward()
        sgd.step()
        after = weights[1].detach().numpy()
        norm, step = np.linalg.norm(before, axis=1), np.linalg.norm(after - before, axis=1)
        grown = np.linalg.norm(after, axis=1)
        assert (grown >= norm * (1 - 1e-12)).all()
        np.testing.assert_allclose(
            grown, np.sqrt(1 + (step / norm) ** 2) * norm, rtol=1e-7
        )  # eq. 4


@laws
@given(vectors, arrays(np.float64, 2, elements=st.floats(1e-6, 1e6)))
def test_weight_ignores_the_length_of_v(values, factors):
    v, c, _ = values
    assume((np.linalg.norm(v, axis=1) > 1e-3).all())
    plain, stretched = wrapped(v, c[:, 0]), wrapped(v * factors[:, None], c[:, 0])
    torch.testing.assert_close(stretched.weight, plain.weight, rtol=1e-12, atol=1e-12)


# --- PyTorch's own weight_norm


@laws
@given(st.data())
def test_any_shape_agrees_with_torch(data):
    size = st.integers(1, 5)
    shape = data.draw(st.tuples(size, size, *[st.integers(1, 3)] * data.draw(st.integers(0, 3))))
    transposed = data.draw(st.booleans()) and len(shape) > 2
    layer = nn.Module()
    layer.weight = nn.Parameter(torch.randn(shape))
    if transposed:
        layer.transposed, layer.groups = True, 1
    other = copy.deepcopy(layer)
    weight_norm(layer)
    parametrizations.weight_norm(other, dim=1 if transposed else 0)
    assert originals(layer)[0].shape == originals(other)[0].shape
    shuffle_g(layer)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer.weight, other.weight)


@every_scale
@pytest.mark.parametrize("kind", ["linear", "conv2d", "transposed2d", "transposed1d-grouped"])
def test_gradcheck(kind, scale):
    layer = weight_norm(make(kind), scale=scale)
    shuffle_g(layer)
    norm = layer.parametrizations.weight[0]
    g, v = (a.detach().requires_grad_() for a in originals(layer))
    assert gradcheck(norm, (g, v))
    assert gradgradcheck(norm, (g, v))


# --- edges of weight_norm


@every_scale
def test_zero_v_gives_zero_weight_and_finite_gradients(scale):
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight[1] = 0
    weight_norm(layer, scale=scale)
    layer(torch.randn(2, 4)).sum().backward()
    assert (layer.weight[1] == 0).all()
    assert layer.weight.isfinite().all()
    for original in originals(layer):
        assert original.isfinite().all()
        assert original.grad.isfinite().all()


@every_scale
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_gradients_of_every_float_type_are_taken_in_fp32(dtype, scale):
    layer = weight_norm(nn.Linear(3000, 4, dtype=dtype), scale=scale)
    wide = copy.deepcopy(layer).double()
    coefficients = torch.randn(4, 3000).to(dtype)
    for each in (layer, wide):
        (each.weight * coefficients.to(each.weight.dtype)).sum().backward()
    for p, q in zip(originals(layer), originals(wide), strict=True):
        assert p.grad.dtype == dtype
        atol = 2 * torch.finfo(dtype).eps * q.grad.abs().max().item()
        torch.testing.assert_close(p.grad.double(), q.grad, rtol=0, atol=atol)


def test_what_is_parametrized_already_is_refused():
    for layer in (weight_norm(nn.Linear(2, 2)), parametrizations.spectral_norm(nn.Linear(2, 2))):
        with pytest.raises(ValueError, match=r"Linear.weight is parametrized already; call torch"):
            weight_norm(layer)


def test_norm_is_fp32_under_autocast():
    layer = weight_norm(nn.Linear(1000, 4))
    plain = layer.weight.detach().clone()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight, plain)
        assert layer(torch.randn(2, 1000)).dtype == torch.bfloat16


@every_scale
def test_channels_last_is_kept(scale):
    layer = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
    weight_norm(layer, scale=scale)
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    moved = weight_norm(nn.Conv2d(4, 6, 3), scale=scale).to(memory_format=torch.channels_last)
    assert moved.weight.is_contiguous(memory_format=torch.channels_last)


integer = nn.Embedding(2, 2, _weight=torch.ones(2, 2, dtype=torch.int64), _freeze=True)
MISFITS = {
    "Linear": (nn.Linear(2, 2), "log", ValueError, r'^scale is "linear" or "exp", not \'log\'$'),
    "LazyConv2d": (nn.LazyConv2d(3, 3), "exp", TypeError, "has no shape yet; run it once on an in"),
    **{
        type(layer).__name__: (layer, "exp", TypeError, "has no weight in floating point and two")
        for layer in (nn.ReLU(), nn.BatchNorm2d(4), nn.LayerNorm(3, bias=False), integer)
    },
}


@pytest.mark.parametrize("kind", MISFITS)
def test_what_cannot_be_normalized_is_named_and_left(kind):
    layer, scale, error, message = MISFITS[kind]
    with pytest.raises(error, match=message):
        weight_norm(layer, scale=scale)
    assert not parametrize.is_parametrized(layer)


# --- weight_norm and the rest of PyTorch


@every_layer
@every_scale
def test_removing_leaves_a_layer_as_any_other(kind, scale):
    layer = weight_norm(make(kind), scale=scale)
    shuffle_g(layer)
    x = inputs_of(layer)
    expected = layer(*x)
    parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is type(make(kind))
    assert isinstance(layer.weight, nn.Parameter)
    assert torch.equal(layer(*x), expected)
    torch.save(layer, buffer := io.BytesIO())
    layer = pickle.loads(
        pickle.dumps(torch.load(io.BytesIO(buffer.getvalue()), weights_only=False))
    )
    layer.load_state_dict(layer.state_dict())
    assert torch.equal(layer(*x), expected)
    # What our hook did is done by nobody; another normalization loads as it does elsewhere.
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"weight_g"'):
        layer.load_state_dict(layer.state_dict() | {"weight_g": x[0], "weight_v": x[0]})
    for other in (parametrizations.weight_norm, lambda m: weight_norm(m, scale="exp")):
        saved = other(make(kind)).state_dict()
        other(layer).load_state_dict(saved)
        assert torch.equal(originals(layer)[0], saved["parametrizations.weight.original0"])
        parametrize.remove_parametrizations(layer, "weight")


@pytest.mark.parametrize("norm", list(Norm))
def test_on_the_meta_device_a_block_costs_no_memory(norm):
    with torch.device("meta"):
        made = block(nn.Conv2d(3, 8, 3), norm, plain="frozen")
    assert made(torch.empty(2, 3, 8, 8, device="meta")).shape == (2, 8, 6, 6)
    real = block(nn.Conv2d(3, 8, 3), norm, plain="frozen")
    made.to_empty(device="cpu")
    for part in made.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    x = torch.randn(2, 3, 8, 8)
    if norm is Norm.NONE:
        assert made.layer.parametrizations.weight[0].g.eq(1).all()
    else:
        assert made.train()(x).isfinite().all()
    made.load_state_dict(real.state_dict())
    assert torch.equal(made.eval()(x), real.eval()(x))


# --- mean-only batch normalization

SHAPES = [(6, 3), (5, 3, 4), (4, 3, 2, 5), (2, 3, 2, 2, 3)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=len)


def mobn(channels=3, **options):
    layer = MeanOnlyBatchNorm(channels, **options)
    with torch.no_grad():
        layer.bias.copy_(torch.randn(channels))
        layer.running_mean.copy_(torch.randn(channels))
    return layer


def over(array):
    """Mean over all but the channels, shaped to broadcast."""
    return array.mean(tuple(a for a in range(array.ndim) if a != 1), keepdims=True)


@every_shape
def test_mobn_centers_as_eq_7(shape):
    layer = mobn().double()
    t = torch.randn(shape, dtype=torch.float64) + 3
    b = layer.bias.detach().double().numpy().reshape(1, 3, *[1] * (len(shape) - 2))
    old = layer.running_mean.double().numpy().copy()
    expected = t.numpy() - over(t.numpy()) + b
    np.testing.assert_allclose(layer(t).detach().numpy(), expected, rtol=1e-6, atol=1e-6)
    running = 0.9 * old + 0.1 * over(t.numpy()).ravel()
    np.testing.assert_allclose(layer.running_mean.numpy(), running, rtol=1e-5)
    layer.eval()
    expected = t.numpy() - layer.running_mean.numpy().reshape(b.shape) + b
    np.testing.assert_allclose(layer(t).detach().numpy(), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(layer.running_mean.numpy(), running, rtol=1e-5)


@pytest.mark.parametrize("shape", [(4, 2), (3, 2, 2), (2, 2, 1, 3), (2, 2, 1, 2, 1)], ids=len)
@pytest.mark.parametrize("training", [True, False])
def test_mobn_gradcheck(shape, training):
    layer = mobn(2, momentum=0.0).double().train(training)  # the same at every call
    t = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    bias = layer.bias.detach().clone().requires_grad_()

    def f(t, bias):
        return functional_call(layer, {"bias": bias}, (t,))

    assert gradcheck(f, (t, bias))
    assert gradgradcheck(f, (t, bias))


# --- checkpoints of the world, and setting a weight


@every_scale
@every_layer
@pytest.mark.parametrize("new_style", [False, True])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_checkpoints_of_torchs_weight_norms_load(kind, scale, new_style):
    """By default they have one g per index of dimension 0; a new one may be taken for an s."""
    theirs = make(kind)
    (parametrizations if new_style else torch.nn.utils).weight_norm(theirs)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(1 + torch.rand_like(parameter))
    ours, x = nn.Sequential(weight_norm(make(kind), scale=scale)), inputs_of(theirs)
    if new_style and scale == "exp":
        with pytest.raises(RuntimeError, match="original0 is g, where this layer learns s = log g"):
            ours.load_state_dict(nn.Sequential(theirs).state_dict(), strict=False)
        return
    ours.load_state_dict(nn.Sequential(theirs).state_dict())
    torch.testing.assert_close(ours[0](*x), theirs(*x))


def test_g_and_s_are_told_apart():
    linear, exp = (weight_norm(nn.Linear(4, 3), scale=scale) for scale in ("linear", "exp"))
    for one, other in ((linear, exp), (exp, linear)):
        with pytest.raises(RuntimeError, match=r"original0 is .*, where this layer learns"):
            other.load_state_dict(one.state_dict(), strict=False)
        one.load_state_dict(copy.deepcopy(one).state_dict())
    with pytest.raises(RuntimeError, match=r"Unexpected key.*exponential"):
        parametrizations.weight_norm(nn.Linear(4, 3)).load_state_dict(exp.state_dict())


@pytest.mark.parametrize("shape", [(3,), (4,), (1, 4), (3, 4), (2, 1), (), (3, 1, 1)], ids=str)
@pytest.mark.parametrize("keys", ["weight_g weight_v", "original0 original1"])
def test_a_g_of_a_wrong_shape_is_one_clear_error(shape, keys):
    layer = weight_norm(nn.Linear(4, 3, bias=False))
    keys = [k if "_" in k else f"parametrizations.weight.{k}" for k in keys.split()]
    state = dict(zip(keys, (torch.ones(shape), torch.ones(3, 4)), strict=True))
    if shape == (1, 4):  # one g per input unit: the same w
        layer.load_state_dict(state)
        return
    with pytest.raises(RuntimeError, match=r"size mismatch for parametrizations.weight.original0"):
        layer.load_state_dict(state)


def test_a_recurrent_layer_takes_two_weight_norms():
    ours, theirs = nn.LSTM(3, 4), nn.LSTM(3, 4)
    theirs.load_state_dict(ours.state_dict())
    for name in ("weight_ih_l0", "weight_hh_l0"):
        weight_norm(ours, name)
        parametrizations.weight_norm(theirs, name)
    x = torch.randn(5, 2, 3)
    for layer in (ours, theirs):
        layer(x)[0].square().sum().backward()
    torch.testing.assert_close(ours(x)[0], theirs(x)[0])
    ours_, theirs_ = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert ours_.keys() == theirs_.keys()
    for name, parameter in ours_.items():
        assert parameter.grad.abs().sum() > 0
        torch.testing.assert_close(parameter.grad, theirs_[name].grad)


@pytest.mark.parametrize("scale", ["linear", "exp"])
def test_reset_parameters_sets_a_normalized_weight(scale):
    layer, plain = weight_norm(nn.Conv2d(3, 4, 3), scale=scale), nn.Conv2d(3, 4, 3)
    for each in (layer, plain):
        torch.manual_seed(5)
        each.reset_parameters()
    torch.testing.assert_close(layer.weight, plain.weight)
    torch.testing.assert_close(layer.bias, plain.bias)
    lstm = nn.LSTM(3, 4)
    for name in ("weight_ih_l0", "weight_hh_l0"):
        weight_norm(lstm, name)
    before = lstm.weight_hh_l0.clone()
    lstm.reset_parameters()
    assert not torch.equal(lstm.weight_hh_l0, before)


def test_mobn_can_be_synchronized():
    """torch's conversion takes γ and ε over, so that it goes on subtracting the mean."""
    layer, t = mobn(momentum=None), torch.randn(4, 3, 2, 2)
    expected = copy.deepcopy(layer)
    sync = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(layer))
    assert type(sync[0]) is nn.SyncBatchNorm
    torch.testing.assert_close(sync(t), expected(t))
    torch.testing.assert_close(sync.eval()(t), expected.eval()(t))
    assert sum(p.requires_grad for p in sync.parameters()) == 1


def test_mobn_loads_the_states_of_earlier_versions():
    layer = mobn()
    layer.load_state_dict({"bias": torch.ones(3), "running_mean": torch.zeros(3)})
    assert layer.state_dict().keys() == {"bias", "running_mean", "num_batches_tracked"}
    assert torch.equal(layer.bias, torch.ones(3))


# --- the five configurations


def test_norms_have_their_order_and_their_labels():
    assert list(map(str, Norm)) == ["none", "wn", "mobn", "bn", "wn_mobn"]
    assert len({norm.label for norm in Norm}) == 5
    assert [str(n) for n in Norm if n.weight_normalized] == ["wn", "wn_mobn"]
    assert [str(n) for n in Norm if n.mean_only] == ["mobn", "wn_mobn"]
    with pytest.raises(ValueError, match="'ln' is not a valid Norm"):
        Norm("ln")
