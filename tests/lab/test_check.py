"""The checks pass on whatever device is there, and each fault that they are for makes one fail."""

import dataclasses
import re

import pytest
import torch

from wnlib.lab.checks import CHECKS, Failed, NotHere, Place
from wnlib.train import find_device, training_step

pytestmark = pytest.mark.device


@pytest.fixture(scope="module")
def place() -> Place:
    """This machine's device; narrow networks, which take a second a check."""
    return Place(find_device(), width=8)


@pytest.mark.parametrize("name", CHECKS)
def test_check_passes_here(place, name):
    try:
        assert CHECKS[name](place)
    except NotHere:
        assert place.device.type != "cuda"


# --- the checks bite: steps with a fault


def frozen(model, optimizer, scaler, x, y):
    """Dropout is the same in each step; the noise is not."""
    kept = []

    def before(*_):
        kept.append((torch.get_rng_state(), torch.random.initial_seed()))
        torch.manual_seed(5)

    def after(*_):
        torch.set_rng_state(kept.pop()[0])

    hooks = [model.drop1.register_forward_pre_hook(before)]
    hooks += [model.drop1.register_forward_hook(after)]
    hooks += [model.drop2.register_forward_pre_hook(before)]
    hooks += [model.drop2.register_forward_hook(after)]
    try:
        return training_step(model, optimizer, scaler, x, y)
    finally:
        for hook in hooks:
            hook.remove()


def quiet(model, optimizer, scaler, x, y):
    """Without the noise on the images; with dropout."""
    sigma, model.noise.sigma = model.noise.sigma, 0.0
    try:
        return training_step(model, optimizer, scaler, x, y)
    finally:
        model.noise.sigma = sigma


def captured(model, optimizer, scaler, x, y):
    """Everything that is drawn was drawn once."""
    torch.manual_seed(7)
    return training_step(model, optimizer, scaler, x, y)


class Stuck:
    """The rate, or β₁, is that of the first step."""

    def __init__(self, what):
        self.what, self.value = what, None

    def __call__(self, model, optimizer, scaler, x, y):
        (group,) = optimizer.param_groups
        now = group[self.what]
        self.value = self.value or now
        group[self.what] = self.value
        try:
            return training_step(model, optimizer, scaler, x, y)
        finally:
            group[self.what] = now


class Late:
    """Each minibatch comes a step late."""

    def __init__(self):
        self.last = None

    def __call__(self, model, optimizer, scaler, x, y):
        (x, y), self.last = self.last or (x, y), (x, y)
        return training_step(model, optimizer, scaler, x, y)


def unmoved(model, optimizer, scaler, x, y):
    """The buffers stay as they were."""
    before = [buffer.clone() for buffer in model.buffers()]
    result = training_step(model, optimizer, scaler, x, y)
    for buffer, value in zip(model.buffers(), before, strict=True):
        buffer.copy_(value)
    return result


FAULTS = {
    "frozen dropout": ("noise in a step", lambda: frozen, "variance of the logits off by"),
    "no noise": ("noise in a step", lambda: quiet, "variance of the logits off by"),
    "all drawn once": ("noise in a step", lambda: captured, "variance of the logits off by 1"),
    "stuck rate": ("update, wn_mobn", lambda: Stuck("lr"), "another rate and β₁: weights apart by"),
    "stuck β₁": ("update, bn", lambda: Stuck("betas"), "another rate and β₁: weights apart by"),
    "late minibatch": ("update, bn", Late, "second step: "),
    "buffers that stay": ("update, bn", lambda: unmoved, "second step: "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_check_bites(place, fault):
    name, make, said = FAULTS[fault]
    with pytest.raises(Failed, match=re.escape(said)) as e:
        CHECKS[name](dataclasses.replace(place, step=make()))
    print(fault, e.value)
