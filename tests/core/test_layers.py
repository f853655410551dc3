"""The two layers against the paper's formulas, typed apart, PyTorch's own, and its transforms."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jvp, vmap
from torch.nn.utils import parametrizations, parametrize
from torch.optim.swa_utils import update_bn

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
def test_weight_and_gradients_are_eq_2_to_4(shape, transposed, scale):
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


def test_first_and_second_derivatives(scale):
    layer, *args = normalized((3, 2, 2), True, scale)
    assert gradcheck(layer.parametrizations.weight[0], args)
    assert gradgradcheck(layer.parametrizations.weight[0], args)


FORMS = [torch.nn.utils.weight_norm, parametrizations.weight_norm]


@given(shapes, st.booleans(), st.integers(0, 1), st.sampled_from(FORMS))
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_any_shape_agrees_with_torch_and_its_checkpoints_load(shape, transposed, dim, form):
    theirs, (ours, *_) = nn.Module(), normalized(shape, transposed)
    theirs.weight = nn.Parameter(torch.randn(shape, dtype=torch.float64))
    g, v = form(theirs, dim=dim).parameters()
    nn.init.normal_(g)
    both = nn.ModuleDict({"layer": ours})
    both.load_state_dict(nn.ModuleDict({"layer": theirs}).state_dict())
    torch.testing.assert_close(ours.weight, torch._weight_norm(v, g, dim))
    if dim == int(transposed) and form is parametrizations.weight_norm:
        theirs.load_state_dict(ours.state_dict())
        torch.testing.assert_close(theirs.weight, ours.weight)


@every_dtype
def test_norm_is_taken_in_fp32_and_type_and_format_are_kept(dtype):
    layer = nn.Conv2d(300, 4, 3, dtype=dtype).to(memory_format=torch.channels_last)
    expected = copy.deepcopy(weight_norm(layer)).double().weight.to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        weight = layer.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert weight.dtype == dtype
    same = torch.isclose(weight, expected, rtol=5e-7, atol=0)  # rounded norms move half of them
    assert same.float().mean() > 0.99


def test_a_layer_computes_what_it_did_once_normalized_copied_removed_and_pickled(scale):
    layer, x = nn.Linear(4, 3), torch.randn(2, 4)
    nn.init.zeros_(layer.weight[1])
    before = layer(x)
    torch.testing.assert_close(weight_norm(layer, scale=scale)(x), before)
    layer(x).sum().backward()
    assert (layer.weight[1] == 0).all()
    assert all(p.isfinite().all() and p.grad.isfinite().all() for p in layer.parameters())
    layer.weight = w = torch.ones(3, 4)
    torch.testing.assert_close(layer.weight, w)
    assert layer.parametrizations.weight.original1.data_ptr() != w.data_ptr()
    expected = layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), expected)
    parametrize.remove_parametrizations(layer, "weight")
    layer = pickle.loads(pickle.dumps(layer))
    assert torch.equal(layer(x), expected)
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"weight_g"'):
        layer.load_state_dict(layer.state_dict() | {"weight_g": x, "weight_v": x})
    parametrizations.weight_norm(layer).load_state_dict(layer.state_dict())


@pytest.mark.parametrize("shape", [(3,), (2, 1), (), (3, 1, 1), (3, 4), None], ids=str)
def test_a_g_that_does_not_fit_is_torchs_error(shape):
    g = {} if shape is None else {"weight_g": torch.ones(shape)}
    with pytest.raises(RuntimeError, match=r"(Missing key|size mismatch).*weight.original0"):
        weight_norm(nn.Linear(4, 3)).load_state_dict({"weight_v": torch.ones(3, 4), **g})


def test_g_and_s_are_told_apart():
    g, s = weight_norm(nn.Linear(4, 3)), weight_norm(nn.Linear(4, 3), scale="exp")
    s.load_state_dict(copy.deepcopy(s).state_dict())
    for layer, other, learned in ((g, s, "g"), (s, g, "s = log g")):
        with pytest.raises(RuntimeError, match=f"layer learns {learned}, which .*original0 is not"):
            layer.load_state_dict(other.state_dict(), strict=False)


@pytest.mark.parametrize(
    ("layer", "scale", "error", "message"),
    [
        (nn.Linear(2, 2), "log", ValueError, r'^scale is "linear" or "exp", not \'log\'$'),
        (weight_norm(nn.Linear(2, 2)), "exp", ValueError, r"Linear.weight is parametrized already"),
        (nn.BatchNorm2d(4), "exp", TypeError, "^BatchNorm2d has no weight of two or more dim"),
        (nn.ReLU(), "exp", TypeError, "^ReLU has no weight of two or more dimensions"),
        (nn.ConvTranspose2d(4, 4, 3, groups=2), "exp", TypeError, "^a transposed convolution in"),
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
    nn.init.constant_(layer.running_var, torch.nan)  # nobody reads what to_empty may leave there
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


def test_mean_only_bn_is_loaded_averaged_synchronized_and_empty():
    layer, x = MeanOnlyBatchNorm(3), torch.randn(6, 8, 3)
    layer.load_state_dict({"bias": torch.ones(3), "running_mean": torch.ones(3)})  # without a count
    assert layer.state_dict().keys() == {"bias", "running_mean", "num_batches_tracked"}
    update_bn(x, layer)  # with momentum=None
    torch.testing.assert_close(layer.running_mean, x.mean((0, 1)))
    sync = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(layer))
    assert type(sync) is nn.SyncBatchNorm
    torch.testing.assert_close(sync(x[0]), layer(x[0]))
    torch.testing.assert_close(sync.eval()(x[0]), layer.eval()(x[0]))
    assert layer.train()(torch.zeros(0, 3, 2)).shape == (0, 3, 2)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        layer(torch.zeros(1, 3))


def test_norms_have_their_order_and_their_labels():
    assert list(Norm) == ["none", "wn", "mobn", "bn", "wn_mobn"]
    assert len({norm.label for norm in Norm}) == 5


def weight(scale):
    """w as a function of g, or of s, and v; its formula, eq. 2; and arguments."""
    layer, g, v = normalized((3, 2, 2), scale=scale)

    def formula(g, v):
        return (g.exp() if scale == "exp" else g) * v / (v * v).sum((1, 2), keepdim=True).sqrt()

    return layer.parametrizations.weight[0], formula, (g.detach(), v.detach())


def mean_only_bn(training, dtype):
    """t̃ as a function of t, b and the running mean; its formula, eq. 7; and arguments."""
    made = MeanOnlyBatchNorm(3).train(training).to(dtype)

    def layer(t, b, running):
        buffers = {name: value.clone() for name, value in made.named_buffers()}
        return functional_call(made, buffers | {"bias": b, "running_mean": running.clone()}, (t,))

    def formula(t, b, running):
        mean = t.mean((0, 2, 3)) if training else running
        return t + (b - mean).view(3, 1, 1)

    return layer, formula, (torch.randn(4, 3, 2, 2, dtype=dtype), *torch.randn(2, 3, dtype=dtype))


def total(f):
    return lambda *args: f(*args).float().pow(3).sum()


TRANSFORMS = {
    "jvp": lambda f, a, b, *rest: jvp(lambda *ab: f(*ab, *rest), (a, b), (a + 1, b + 1)),
    "hessian": lambda f, *a: hessian(total(f), (0, 1))(*a),
    "vmap": lambda f, *a: vmap(f)(*(torch.stack([x, x + 1, x - 2]) for x in a)),
    "vmap of grad": lambda f, *a: vmap(grad(total(f), (0, 1)))(*(torch.stack([x, x]) for x in a)),
}
CASES = {
    "g": lambda: weight("linear"),
    "s": lambda: weight("exp"),
    "training": lambda: mean_only_bn(True, torch.float32),
    "training in bf16": lambda: mean_only_bn(True, torch.bfloat16),
    "evaluation": lambda: mean_only_bn(False, torch.float32),
    "evaluation in bf16": lambda: mean_only_bn(False, torch.bfloat16),
}


@pytest.mark.filterwarnings("ignore:.*jit.script:FutureWarning")  # torch's own, on its way
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("case", CASES)
def test_a_layer_is_its_formula_under(transform, case):
    ours, formula, args = CASES[case]()
    out, expected = TRANSFORMS[transform](ours, *args), TRANSFORMS[transform](formula, *args)
    close = 0.05 if "bf16" in case else 1e-4
    torch.testing.assert_close(out, expected, rtol=close, atol=close)
