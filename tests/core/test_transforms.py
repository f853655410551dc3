"""Our layers beside torch's, or beside their formula, under every transform that torch has."""

import copy
import io
import sys
from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from wnlib import ConvPoolCNNC, MeanOnlyBatchNorm, Norm, weight_norm
from wnlib.model import Dropout, GaussianNoise

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


# --- mean-only BN beside torch's batch norm


class Formula(nn.BatchNorm2d):
    """Eq. 7, typed; its buffers, its modes and its momentum are those of torch's layer."""

    def forward(self, t):
        mean = self.running_mean
        if self.training:
            mean = t.float().mean((0, 2, 3)).to(mean.dtype)
            self.num_batches_tracked.add_(1)
            m = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
            with torch.no_grad():
                self.running_mean.copy_((1 - m) * self.running_mean + m * mean)
        return (t + (self.bias - mean).view(-1, 1, 1)).to(t.dtype)


def ready(make, training=True, dtype=torch.float32):
    """A layer of three channels with a b and a running mean, as training would leave it."""
    layer = make()
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([0.5, -1.0, 2.0]))
        layer.running_mean.copy_(torch.tensor([1.0, 0.0, -3.0]))
    return layer.train(training).to(dtype)


def x(*shape, dtype=torch.float32):
    return torch.randn(shape or (4, 3, 2, 2)).to(dtype)


def ensemble(make, training, dtype):
    layers = [ready(make, training, dtype) for _ in range(2)]
    state = torch.func.stack_module_state(layers)
    call = vmap(lambda s, t: functional_call(layers[0], s, (t,)), in_dims=(0, None))
    return call(state, x(dtype=dtype))


def averaged(make):
    model = nn.Sequential(ready(make))
    model[0].momentum = 0.3
    update_bn([x() + 1, x() - 2, x() * 3], model)
    assert model[0].momentum == 0.3
    return model[0].running_mean


def twice(make, momentum):
    layer = ready(make)
    layer.momentum = momentum
    layer(x() + 1), layer(x() * 3)
    return torch.stack([layer.running_mean, layer(x()).mean((0, 2, 3))])


def emptied(make):
    with torch.device("meta"):
        layer = make()
    layer(x().to("meta"))
    layer.to_empty(device="cpu").reset_parameters()
    return torch.cat([layer(x()), layer.eval()(x())])


def pickled(make):
    buffer = io.BytesIO()
    torch.save(ready(make, False), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)(x())


def loaded(make):
    layer = make().eval()
    layer.load_state_dict(copy.deepcopy(ready(make).state_dict()))
    return layer(x())


def exported(make, training):
    return torch.export.export(nn.Sequential(ready(make, training)), (x(),)).module()(x())


def under(transform, training, dtype):
    """Of t and b, the buffers going along as arguments."""

    def row(make):
        layer = ready(make, training, dtype)

        def f(bias, t):
            buffers = {name: value.clone() for name, value in layer.named_buffers()}
            return functional_call(layer, {"bias": bias, **buffers}, (t,))

        with torch.no_grad():
            bias = layer.bias.clone()
        return TRANSFORMS[transform](f, bias, x(dtype=dtype))

    return row


half, bf16, fp64 = torch.float16, torch.bfloat16, torch.float64
AS_TORCH = {
    "in training": lambda make: ready(make)(x()),
    "in evaluation": lambda make: ready(make, False)(x()),
    "channels last": lambda make: ready(make)(x().to(memory_format=torch.channels_last)),
    "far from zero": lambda make: ready(make)(1000 * x() + 1000),
    "one value per channel": lambda make: ready(make)(x(1, 3, 1, 1)),
    "one image in evaluation": lambda make: ready(make, False)(x(1, 3, 1, 1)),
    "no image": lambda make: ready(make)(x(0, 3, 2, 2)),
    "another number of channels": lambda make: ready(make)(x(4, 5, 2, 2)),
    "momentum": lambda make: twice(make, 0.25),
    "momentum 0": lambda make: twice(make, 0.0),
    "momentum None": lambda make: twice(make, None),
    "update_bn": averaged,
    "half": lambda make: ready(make, dtype=half)(x(dtype=half)),
    "half in evaluation": lambda make: ready(make, False, half)(x(dtype=half)),
    "half input": lambda make: ready(make)(x(dtype=half)),
    "bf16": lambda make: ready(make, dtype=bf16)(x(dtype=bf16)),
    "bf16 input": lambda make: ready(make)(x(dtype=bf16)),
    "fp64": lambda make: ready(make, dtype=fp64)(x(dtype=fp64)),
    "fp64 input": lambda make: ready(make)(x(dtype=fp64)),
    "to half and back": lambda make: ready(make).half().float()(1000 * x()),
    "meta and to_empty": emptied,
    "saved whole": pickled,
    "saved and loaded": loaded,
    "deepcopy": lambda make: copy.deepcopy(ready(make))(x()),
    "vmap over dimension 1": lambda make: vmap(ready(make, False), in_dims=1)(x(4, 5, 3, 2, 2)),
    "fx": lambda make: torch.fx.symbolic_trace(nn.Sequential(ready(make)))(x()),
    "script": lambda make: torch.jit.script(ready(make))(x()),
    "script in evaluation": lambda make: torch.jit.script(ready(make, False))(x()),
    **{
        f"ensemble {training} {dtype}": partial(ensemble, training=training, dtype=dtype)
        for training in (True, False)
        for dtype in (torch.float32, bf16)
    },
    **{
        f"{name} {training} {dtype}": under(name, training, dtype)
        for name in TRANSFORMS
        for training in (True, False)
        for dtype in (torch.float32, bf16)
    },
    "export": lambda make: exported(make, True),
    "export in evaluation": lambda make: exported(make, False),
}


def leaves(out):
    return (
        [out] if isinstance(out, torch.Tensor) else [leaf for each in out for leaf in leaves(each)]
    )


def outcome(row, make):
    torch.manual_seed(1)
    try:
        return row(make)
    except Exception as error:
        return error


@pytest.mark.parametrize("row", AS_TORCH)
def test_mean_only_bn_answers_as_torchs_batch_norm(row):
    """It fails where that fails, and gives eq. 7 where that gives its formula."""
    theirs, expected, ours = (
        outcome(AS_TORCH[row], make)
        for make in (lambda: nn.BatchNorm2d(3), lambda: Formula(3), lambda: MeanOnlyBatchNorm(3))
    )
    if isinstance(theirs, Exception):
        assert type(ours) is type(theirs), ours
        return
    if isinstance(ours, Exception):
        raise ours
    low = any(t.dtype in (half, bf16) for t in leaves(ours)) or "bf" in row
    for our, their, value in zip(leaves(ours), leaves(theirs), leaves(expected), strict=True):
        assert (our.shape, our.dtype) == (their.shape, their.dtype)
        atol = (0.02 if low else 1e-6) * max(1, value.abs().max().item()) if len(value) else 0
        torch.testing.assert_close(our, value, rtol=0, atol=atol)


parts = pytest.mark.parametrize("part", [Dropout(0.5), GaussianNoise(1.0)])


@parts
@pytest.mark.parametrize("randomness", ["different", "same"])
@pytest.mark.parametrize("dim", [0, 1])
def test_random_parts_draw_under_vmap(part, randomness, dim):
    x = torch.ones(2, 2, 50, 7)
    out = vmap(part, in_dims=dim, randomness=randomness)(x)
    assert out.shape == x.shape
    assert (out != 1).any()
    assert torch.equal(out[0], out[1]) == (randomness == "same")
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(part)(x)


@parts
def test_random_parts_draw_in_a_script(part):
    x, drawn = torch.ones(4, 3, 5, 5).to(memory_format=torch.channels_last), []
    for each in (nn.Dropout(0.5) if isinstance(part, Dropout) else part, torch.jit.script(part)):
        torch.manual_seed(1)
        drawn.append(each(x))
    assert torch.equal(*drawn)


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
