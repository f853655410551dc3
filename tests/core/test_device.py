"""Whether a device computes right: beside the CPU, beside the formulas, and in a whole training.

On the CPU by default; with `--device cuda` (or mps) on that, under autocast as training has it.
"""

import copy
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from training import small, timeless

from wnlib import ConvPoolCNNC, MeanOnlyBatchNorm, Norm, Training, data_dependent_init_
from wnlib.inputs import prepare
from wnlib.training import autocast_type, build, evaluate, forward, layout

every_norm = pytest.mark.parametrize("norm", list(Norm))


@pytest.fixture
def exact(monkeypatch):
    """In fp32 without TF32, where the device's answers are the CPU's to rounding."""
    monkeypatch.setattr("wnlib.training.autocast_type", lambda _: torch.float32)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def pair(norm, tiny, device):
    """The same network, initialized, on the CPU and on the device; images and labels."""
    torch.manual_seed(0)
    x = prepare(tiny, "symmetric")[0]
    model = ConvPoolCNNC(norm, 8, noise=torch.nn.Identity(), dropout=0.0)
    data_dependent_init_(model, x)
    there = copy.deepcopy(model).to(device).to(memory_format=layout(device))
    there_x = x.to(device, memory_format=layout(device))
    return (model, x, tiny.train_labels), (there, there_x, tiny.train_labels.to(device))


def relative(ours, theirs):
    ours, theirs = ours.detach().cpu().double(), theirs.detach().cpu().double()
    return ((ours - theirs).norm() / theirs.norm().clamp_min(1e-6)).item()


@every_norm
def test_gradients_are_the_cpus_in_fp64(norm, tiny, device, exact):
    (wide, x, y), (there, there_x, there_y) = pair(norm, tiny, device)
    wide = wide.double()
    F.cross_entropy(wide(x.double()), y).backward()
    loss, _ = forward(there, there_x, there_y)
    loss.backward()
    for (name, p), q in zip(there.named_parameters(), wide.parameters(), strict=True):
        assert relative(p.grad, q.grad) < 5e-3, name
    for (name, p), q in zip(there.named_buffers(), wide.buffers(), strict=True):
        assert p.dtype is torch.int64 or relative(p, q) < 1e-3, name


@every_norm
def test_autocast_is_near_fp32(norm, tiny, device):
    (model, x, y), (there, there_x, there_y) = pair(norm, tiny, device)
    expected = F.cross_entropy(model(x), y)
    loss, logits = forward(there, there_x, there_y)
    assert loss.item() == pytest.approx(expected.item(), rel=0.05)
    assert logits.isfinite().all()
    print(f"{autocast_type(device)} on {device}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pixels", [1, 6, 32])
def test_mean_only_bn_is_eq_7_and_8(dtype, pixels, device):
    torch.manual_seed(0)
    layer = MeanOnlyBatchNorm(5, momentum=1.0).to(device)
    t = (3 * torch.randn(50, 5, pixels, pixels) + 8).to(dtype)
    grad = (torch.randn(t.shape) + 3).to(dtype)
    there = t.to(device).to(memory_format=layout(device)).requires_grad_()
    out = layer(there)
    out.backward(grad.to(device))

    def centered(a):
        a = a.double().numpy()
        return a - a.mean((0, 2, 3), keepdims=True)

    close = {"rtol": 0, "atol": max(1e-4, 30 * torch.finfo(dtype).eps)}
    for ours, theirs in ((out, centered(t)), (there.grad, centered(grad))):
        np.testing.assert_allclose(ours.detach().cpu().double().numpy(), theirs, **close)
    mean = t.double().mean((0, 2, 3))
    torch.testing.assert_close(layer.running_mean.cpu().double(), mean, rtol=1e-4, atol=0)


@every_norm
def test_a_training_runs_repeats_and_learns(norm, tiny, device):
    recipe = small(norm, epochs=3, width=8, late_beta1=0.9)
    rows = [list(Training(recipe, tiny, device.type).epochs()) for _ in range(2)]
    assert all(math.isfinite(row.train_loss) for row in rows[0])
    if device.type == "cpu":
        assert timeless(rows[0]) == timeless(rows[1])
    losses = [[row.train_loss for row in each] for each in rows]
    np.testing.assert_allclose(*losses, rtol=0.2)
    # Full of its own data it is better than guessing.
    training = Training(recipe.replace(epochs=20, dropout=0.0, sigma=0.0), tiny, device.type)
    assert list(training.epochs())[-1].train_loss < math.log(10)


def test_evaluation_is_the_cpus(tiny, device, exact):
    (_, _, _), (there, there_x, there_y) = pair("wn_mobn", tiny, device)
    loss, error = evaluate(there, there_x, there_y, 7)
    cpu = copy.deepcopy(there).cpu()
    expected = evaluate(cpu, there_x.cpu(), there_y.cpu())
    assert (loss, error) == pytest.approx(expected, rel=1e-3)
    assert build(small()).norm is Norm.WN
