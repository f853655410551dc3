"""Whether a device computes right: beside the CPU, beside the formulas, and in a whole training.

On the CPU by default; with `--device cuda` (or mps) on that, under autocast as training has it.
"""

import copy
import math

import pytest
import torch
from torch.nn import functional as F
from training import small

from wnlib import ConvPoolCNNC, data_dependent_init_, train
from wnlib.inputs import prepare
from wnlib.training import evaluate, forward, layout

pytestmark = pytest.mark.device


def relative(ours, theirs):
    ours, theirs = ours.detach().cpu().double(), theirs.detach().cpu().double()
    return ((ours - theirs).norm() / theirs.norm().clamp_min(1e-6)).item()


def test_loss_gradients_and_evaluation_are_the_cpus_in_fp64(norm, tiny, device, monkeypatch):
    torch.manual_seed(0)  # with others a pooling has a tie, which rounding decides
    x, y = prepare(tiny, "symmetric")[0], tiny.train_labels
    model = ConvPoolCNNC(norm, 8, noise=torch.nn.Identity(), dropout=0.0)
    data_dependent_init_(model, x)
    there = copy.deepcopy(model).to(device).to(memory_format=layout(device))
    batch = x.to(device, memory_format=layout(device)), y.to(device)
    wide, x = model.double(), x.double()
    loss = F.cross_entropy(wide(x), y)
    loss.backward()
    assert forward(copy.deepcopy(there), *batch)[0].item() == pytest.approx(loss.item(), rel=0.05)
    monkeypatch.setattr("wnlib.training.autocast_type", lambda _: torch.float32)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    forward(there, *batch)[0].backward()
    for (name, p), q in zip(there.named_parameters(), wide.parameters(), strict=True):
        assert relative(p.grad, q.grad) < 5e-3, name
    assert evaluate(there, *batch, 7) == pytest.approx(evaluate(wide, x, y), rel=1e-3)


def test_a_training_repeats_and_learns(norm, tiny, device):
    recipe = small(norm, epochs=3, width=8, late_beta1=0.9)
    first, again = ([r.train_loss for r in train(recipe, tiny, device.type)] for _ in range(2))
    assert again == pytest.approx(first, rel=0.2)
    # Full of its own data it is better than guessing.
    recipe = recipe.replace(epochs=20, dropout=0.0, sigma=0.0)
    assert train(recipe, tiny, device.type)[-1].train_loss < math.log(10)
