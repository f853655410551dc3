"""weight_norm and MeanOnlyBatchNorm against the paper's formulas, typed apart, and PyTorch."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.utils import parametrizations, parametrize

from wnlib import MeanOnlyBatchNorm, Norm, weight_norm

shapes = st.lists(st.integers(1, 4), min_size=2, max_size=5)
every_dtype = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])


def normalized(shape, transposed=False, scale="linear"):
    """A layer with a weight of that shape, its g or s, of either sign, and its v, in fp64."""
    layer = nn.Module()
    layer.weight = nn.Parameter(torch.randn(shape, dtype=torch.float64))
    layer.transposed, layer.groups = transposed, 1
    g, v = weight_norm(layer, scale=scale).parameters()
    nn.init.normal_(g)
    return layer, g, v


@given(shapes, st.booleans(), st.sampled_from(["linear", "exp"]))
def test_weight_and_gradients_are_eq_2_and_3(shape, transposed, scale):
    layer, g, v = normalized(shape, transposed, scale)
    dw = torch.randn_like(v)
    (layer.weight * dw).sum().backward()

    def rows(a):  # the vectors of the output units, (units, fan in)
        return np.moveaxis(a.detach().numpy(), int(transposed), 0).reshape(g.numel(), -1)

    w, dw, dg, dv, g_, v = map(rows, (layer.weight, dw, g.grad, v.grad, g, v))
    if scale == "exp":
        g_ = np.exp(g_)
        dg = dg / g_  # ∇_s L = g ∇_g L
    norm = np.linalg.norm(v, axis=1, keepdims=True)
    np.testing.assert_allclose(w, g_ * v / norm)
    np.testing.assert_allclose(dg, (dw * v).sum(1, keepdims=True) / norm, atol=1e-9)
    np.testing.assert_allclose(dv, g_ / norm * dw - g_ * dg / norm**2 * v, atol=1e-9)
    for k, w_k in enumerate(w):
        m = np.eye(len(w_k)) - np.outer(w_k, w_k) / (w_k @ w_k)
        np.testing.assert_allclose(dv[k], g_[k] / norm[k] * m @ dw[k], atol=1e-9)


@given(st.integers(2, 6), st.floats(1e-3, 10))
def test_a_step_of_sgd_lengthens_v_as_eq_4(n, lr):
    layer, _, v = normalized((3, n))
    before = v.detach().norm(dim=1)
    (layer.weight * torch.randn_like(v)).sum().backward()
    torch.optim.SGD([v], lr).step()
    c = lr * v.grad.norm(dim=1) / before
    torch.testing.assert_close(v.detach().norm(dim=1), (1 + c**2).sqrt() * before)


def test_noise_covariance_of_v_is_eq_5():
    layer, g, v = normalized((1, 4))
    x, w = torch.randn(50, 4, dtype=torch.float64), layer.weight.detach().numpy()[0]
    grads_w = [2 * (w @ x_n) * x_n for x_n in x.numpy()]  # of the loss (w·x)²
    grads_v = [torch.autograd.grad((layer.weight @ x_n) ** 2, v)[0][0].numpy() for x_n in x]
    m = np.eye(4) - np.outer(w, w) / (w @ w)
    expected = (g.item() / v.norm().item()) ** 2 * m @ np.cov(np.array(grads_w).T) @ m
    np.testing.assert_allclose(np.cov(np.array(grads_v).T), expected)


def test_first_and_second_derivatives(scale):
    layer, *args = normalized((3, 2, 2), True, scale)
    assert gradcheck(layer.parametrizations.weight[0], args)
    assert gradgradcheck(layer.parametrizations.weight[0], args)


@given(shapes, st.booleans())
def test_any_shape_agrees_with_torch(shape, transposed):
    layer, *_ = normalized(shape, transposed)
    other = nn.Module()
    other.weight = nn.Parameter(torch.ones(shape, dtype=torch.float64))
    parametrizations.weight_norm(other, dim=int(transposed))
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer.weight, other.weight)


@every_dtype
def test_the_norm_is_fp32_the_type_and_the_format_are_kept(dtype, scale):
    layer = nn.Conv2d(300, 4, 3, dtype=dtype).to(memory_format=torch.channels_last)
    weight_norm(layer, scale=scale)
    wide, c = copy.deepcopy(layer).double(), torch.randn(4, 300, 3, 3).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.weight.dtype == dtype
        assert layer.weight.is_contiguous(memory_format=torch.channels_last)
        (layer.weight * c).sum().backward()
    (wide.weight * c.double()).sum().backward()
    ours, theirs = (each.parametrizations.weight.parameters() for each in (layer, wide))
    for p, q in zip(ours, theirs, strict=True):
        atol = 2 * torch.finfo(dtype).eps * q.grad.abs().max().item()
        torch.testing.assert_close(p.grad.double(), q.grad, rtol=0, atol=atol)


def test_a_layer_computes_what_it_did_until_it_is_set_and_where_v_is_zero(scale):
    layer, x = nn.Linear(4, 3), torch.randn(2, 4)
    nn.init.zeros_(layer.weight[1])
    before = layer(x)
    torch.testing.assert_close(weight_norm(layer, scale=scale)(x), before)
    layer(x).sum().backward()
    assert (layer.weight[1] == 0).all()
    assert all(p.isfinite().all() and p.grad.isfinite().all() for p in layer.parameters())
    layer.weight = torch.ones(3, 4)
    torch.testing.assert_close(layer.weight, torch.ones(3, 4))


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: nn.Linear(4, 4), torch.randn(2, 4)),
        (lambda: nn.Conv1d(4, 6, 3, groups=2), torch.randn(2, 4, 5)),
        (lambda: nn.ConvTranspose1d(4, 3, 3), torch.randn(2, 4, 5)),
    ],
)
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("theirs", [torch.nn.utils.weight_norm, parametrizations.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_checkpoints_of_torchs_weight_norms_load(make, x, theirs, dim):
    theirs, ours = theirs(make(), dim=dim), nn.Sequential(weight_norm(make()))
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours.load_state_dict(nn.Sequential(theirs).state_dict())
    torch.testing.assert_close(ours[0](x), theirs(x))


@pytest.mark.parametrize("shape", [(3,), (2, 1), (), (3, 1, 1), (3, 4), None], ids=str)
def test_a_g_that_does_not_fit_is_torchs_error(shape):
    g = {} if shape is None else {"weight_g": torch.ones(shape)}
    with pytest.raises(RuntimeError, match=r"(Missing key|size mismatch).*weight.original0"):
        weight_norm(nn.Linear(4, 3)).load_state_dict({"weight_v": torch.ones(3, 4), **g})


def test_g_and_s_are_told_apart():
    g, s = weight_norm(nn.Linear(4, 3)), weight_norm(nn.Linear(4, 3), scale="exp")
    s.load_state_dict(copy.deepcopy(s).state_dict())
    with pytest.raises(RuntimeError, match=r"layer learns s = log g, which .*original0 is not"):
        s.load_state_dict(g.state_dict(), strict=False)
    with pytest.raises(RuntimeError, match=r"layer learns g, which .*original0 is not"):
        g.load_state_dict(s.state_dict(), strict=False)


def test_once_removed_it_leaves_a_layer_as_any_other(scale):
    layer, x = weight_norm(nn.Linear(4, 3), scale=scale), torch.randn(2, 4)
    expected = layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), expected)
    parametrize.remove_parametrizations(layer, "weight")
    layer = pickle.loads(pickle.dumps(layer))
    assert torch.equal(layer(x), expected)
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"weight_g"'):
        layer.load_state_dict(layer.state_dict() | {"weight_g": x, "weight_v": x})
    parametrizations.weight_norm(layer).load_state_dict(layer.state_dict())


@pytest.mark.parametrize(
    ("layer", "scale", "error", "message"),
    [
        (nn.Linear(2, 2), "log", ValueError, r'^scale is "linear" or "exp", not \'log\'$'),
        (weight_norm(nn.Linear(2, 2)), "exp", ValueError, r"Linear.weight is parametrized already"),
        (nn.BatchNorm2d(4), "exp", TypeError, "^BatchNorm2d has no weight in floating point and"),
        (nn.ReLU(), "exp", TypeError, "^ReLU has no weight in floating point and two or more dim"),
        (
            nn.ConvTranspose2d(4, 4, 3, groups=2),
            "exp",
            TypeError,
            "^a transposed convolution in gr",
        ),
    ],
)
def test_what_cannot_be_normalized_is_named_and_left(layer, scale, error, message):
    before = list(layer.state_dict())
    with pytest.raises(error, match=message):
        weight_norm(layer, scale=scale)
    assert list(layer.state_dict()) == before


@every_dtype
@pytest.mark.parametrize("shape", [(6, 3), (1, 3, 4), (4, 3, 2, 5), (2, 3, 2, 2, 3)], ids=len)
def test_mean_only_bn_is_eq_7_and_8(shape, dtype):
    layer, dims = MeanOnlyBatchNorm(3).to(dtype), [0, *range(2, len(shape))]
    b = nn.init.normal_(layer.bias).detach().view(3, *[1] * (len(shape) - 2))
    t, c = (torch.randn(shape, dtype=dtype) + 3).requires_grad_(), torch.randn(shape, dtype=dtype)
    out, mean = layer(t), t.double().mean(dims, keepdim=True)
    out.backward(c)  # c is ∇_t̃ L
    for ours, expected in (
        (out, t - mean + b),
        (t.grad, c - c.double().mean(dims, keepdim=True)),
        (layer.bias.grad, c.double().sum(dims)),
        (layer.eval()(t), t - 0.1 * mean + b),  # a decay of 0.9
    ):
        assert ours.dtype == dtype
        close = 8 * torch.finfo(dtype).eps
        torch.testing.assert_close(ours.double(), expected.double(), rtol=close, atol=close)


def test_mean_only_bn_loads_old_states_and_can_be_synchronized():
    layer, t = MeanOnlyBatchNorm(3), torch.randn(4, 3, 2, 2)
    layer.load_state_dict({"bias": torch.ones(3), "running_mean": torch.ones(3)})
    assert layer.state_dict().keys() == {"bias", "running_mean", "num_batches_tracked"}
    sync = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(layer))
    assert type(sync) is nn.SyncBatchNorm
    torch.testing.assert_close(sync(t), layer(t))
    torch.testing.assert_close(sync.eval()(t), layer.eval()(t))


def test_norms_have_their_order_and_their_labels():
    assert list(map(str, Norm)) == ["none", "wn", "mobn", "bn", "wn_mobn"]
    assert len({norm.label for norm in Norm}) == 5
    assert [str(n) for n in Norm if n.weight_normalized] == ["wn", "wn_mobn"]
    assert [str(n) for n in Norm if n.mean_only] == ["mobn", "wn_mobn"]
