"""Our layers beside torch's, or beside their formula, under every transform that torch has."""

import sys

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.nn import functional as F

from wnlib import ConvPoolCNNC, MeanOnlyBatchNorm, Norm, weight_norm
from wnlib.model import Dropout, GaussianNoise, UniformNoise

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*jit.script:FutureWarning"),  # torch's own, on its way
]
compiles = pytest.mark.skipif(
    sys.version_info[:3] == (3, 13, 0), reason="torch.compile fails Python 3.13.0"
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(1)


def compiled(f, *args):
    torch.compiler.reset()
    return torch.compile(f, backend="aot_eager", fullgraph=True)(*args)


def total(f):
    return lambda *args: f(*args).float().pow(3).sum()


def every(args):
    return tuple(range(len(args)))


TRANSFORMS = {
    "vmap": lambda f, *a: vmap(f)(*(torch.stack([x, x + 1, x - 2]) for x in a)),
    "jvp": lambda f, *a: jvp(f, a, tuple(map(torch.ones_like, a))),
    "jacrev": lambda f, *a: jacrev(f, every(a))(*a),
    "jacfwd": lambda f, *a: jacfwd(f, every(a))(*a),
    "grad": lambda f, *a: grad(total(f), every(a))(*a),
    "hessian": lambda f, *a: hessian(total(f), every(a))(*a),
    "per example": lambda f, *a: vmap(grad(total(f), every(a)))(*(torch.stack([x, x]) for x in a)),
    "compile": compiled,
}
every_transform = pytest.mark.parametrize(
    "transform",
    [
        pytest.param(t, id=name, marks=[compiles] if name == "compile" else [])
        for name, t in TRANSFORMS.items()
    ],
)


@every_transform
@pytest.mark.parametrize("scale", ["linear", "exp"])
@pytest.mark.parametrize(
    ("make", "call", "x"),
    [
        (lambda: nn.Linear(4, 3), F.linear, torch.randn(2, 4)),
        (lambda: nn.Conv2d(2, 3, 2), F.conv2d, torch.randn(2, 2, 3, 3)),
        (lambda: nn.ConvTranspose1d(2, 3, 2), F.conv_transpose1d, torch.randn(2, 2, 3)),
    ],
    ids=["linear", "conv", "transposed"],
)
def test_weight_norm_is_its_formula_under(transform, scale, make, call, x):
    """torch's own parametrization fails in forward mode."""
    layer = weight_norm(make(), scale=scale)
    names = ["parametrizations.weight.original0", "parametrizations.weight.original1", "bias"]
    args = [layer.get_parameter(name).detach() for name in names]
    unit = 1 if isinstance(layer, nn.ConvTranspose1d) else 0

    def ours(g, v, bias, x):
        return functional_call(layer, dict(zip(names, (g, v, bias), strict=True)), (x,))

    def formula(g, v, bias, x):
        length = (v * v).sum([d for d in range(v.ndim) if d != unit], keepdim=True).sqrt()
        return call(x, (g.exp() if scale == "exp" else g) * v / length, bias)

    torch.testing.assert_close(
        transform(ours, *args, x), transform(formula, *args, x), rtol=1e-4, atol=1e-4
    )


@every_transform
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 2, 2)])
def test_mean_only_bn_is_its_formula_under(transform, training, shape):
    layer = MeanOnlyBatchNorm(3).train(training)
    dims, ones = [0, *range(2, len(shape))], [1] * (len(shape) - 2)

    def formula(bias, running, t):
        mean = t.mean(dims) if training else running
        return t + (bias - mean).view(-1, *ones)

    def ours(bias, running, t):
        return functional_call(layer, {"bias": bias, "running_mean": running.clone()}, (t,))

    args = torch.randn(3), torch.randn(3), torch.randn(shape)
    torch.testing.assert_close(transform(ours, *args), transform(formula, *args))


@pytest.mark.parametrize("name", ["vmap", "jvp", "jacfwd", "grad"])
def test_mean_only_bn_in_bf16_answers_where_batch_norm_does(name):
    layer, batch_norm = MeanOnlyBatchNorm(3), nn.BatchNorm2d(3, track_running_stats=False)
    t = torch.randn(2, 3, 2, 2).bfloat16()

    def ours(t):
        running = torch.zeros_like(t[0, :, 0, 0], dtype=torch.float32)
        return functional_call(layer, {"running_mean": running}, (t,))

    def formula(t):
        wide = t.float()
        return (wide - wide.mean((0, 2, 3), keepdim=True)).to(t.dtype)

    transform = TRANSFORMS[name]
    transform(batch_norm, t)
    torch.testing.assert_close(transform(ours, t), transform(formula, t), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("part", [Dropout(0.5), GaussianNoise(1.0), UniformNoise(1.0)])
@pytest.mark.parametrize("randomness", ["different", "same"])
def test_random_parts_draw_under_vmap(part, randomness):
    x = torch.ones(2, 50, 7)
    out = vmap(part, randomness=randomness)(x)
    assert out.shape == x.shape
    assert (out != 1).any()
    assert torch.equal(out[0], out[1]) == (randomness == "same")
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(part)(x)


@compiles
@pytest.mark.parametrize("norm", list(Norm))
def test_the_network_compiles_whole_in_training(norm):
    """As one graph, in bf16, with noise and dropout: the gradients that it has uncompiled."""
    model = ConvPoolCNNC(norm, 2)
    x, y = torch.randn(4, 3, 32, 32), torch.arange(4)
    gradients = []
    for call in (model, lambda x: compiled(model, x)):
        model.zero_grad()
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16):
            logits = call(x)
        F.cross_entropy(logits.float(), y).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-2, atol=1e-3)
