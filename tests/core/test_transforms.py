"""Our layers beside their formula, typed, under every transform that torch has."""

import sys

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jvp, stack_module_state, vmap
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from wnlib import ConvPoolCNNC, MeanOnlyBatchNorm, weight_norm

# torch's own, on its way
pytestmark = pytest.mark.filterwarnings("ignore:.*jit.script:FutureWarning")


def weight(scale):
    """w as a function of g, or of s, and v; its formula, eq. 2; and arguments."""
    form = weight_norm(nn.Conv1d(2, 3, 2), scale=scale).parametrizations.weight[0]

    def formula(g, v):
        return (g.exp() if scale == "exp" else g) * v / (v * v).sum((1, 2), keepdim=True).sqrt()

    return form, formula, (torch.randn(3, 1, 1), torch.randn(3, 2, 2))


def mean_only_bn(training, dtype):
    """t̃ as a function of b and t; its formula, eq. 7; and arguments."""
    made = MeanOnlyBatchNorm(3).train(training).to(dtype)

    def layer(b, t):
        buffers = {name: value.clone() for name, value in made.named_buffers()}
        return functional_call(made, {"bias": b, **buffers}, (t,))

    def formula(b, t):
        mean = t.float().mean((0, 2, 3)) if training else torch.zeros(3)
        return (t + (b - mean).view(-1, 1, 1)).to(t.dtype)

    return layer, formula, (torch.randn(3, dtype=dtype), torch.randn(4, 3, 2, 2, dtype=dtype))


def total(f):
    return lambda *args: f(*args).float().pow(3).sum()


TRANSFORMS = {
    "none": lambda f, *a: f(*a),
    "jvp": lambda f, *a: jvp(f, a, tuple(map(torch.ones_like, a))),
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


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("case", CASES)
def test_a_layer_is_its_formula_under(transform, case):
    ours, formula, args = CASES[case]()
    transformed = TRANSFORMS[transform]
    if "training" in case and "vmap" in transform:  # as with torch's batch norm
        with pytest.raises(RuntimeError, match="got a batched tensor as input while"):
            transformed(ours, *args)
    else:
        close = 0.05 if "bf16" in case else 1e-4
        out, expected = transformed(ours, *args), transformed(formula, *args)
        torch.testing.assert_close(out, expected, rtol=close, atol=close)


def test_mean_only_bn_is_averaged_in_ensembles_and_empty():
    layers, x = [MeanOnlyBatchNorm(3), MeanOnlyBatchNorm(3)], torch.randn(6, 8, 3)
    update_bn(x, layers[0])  # with momentum=None
    torch.testing.assert_close(layers[0].running_mean, x.mean((0, 1)))
    nn.init.ones_(layers[0].bias)
    ensemble = vmap(lambda state: functional_call(layers[0], state, (x[0],)))
    centered = x[0] - x[0].mean(0)
    out = ensemble(stack_module_state(layers))
    torch.testing.assert_close(out, torch.stack([centered + 1, centered]))
    assert layers[0](torch.zeros(0, 3, 2)).shape == (0, 3, 2)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        layers[0](torch.zeros(1, 3))


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
        F.cross_entropy(logits.float(), torch.arange(4)).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-2, atol=1e-3)
    exported = torch.export.export(model.eval(), (images,)).module()
    torch.testing.assert_close(exported(images), model(images))
