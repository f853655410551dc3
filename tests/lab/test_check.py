"""The checks pass on whatever device is there, and each fault that they are for makes one fail."""

import dataclasses
import json
import re

import pytest
import torch

import wnlib.lab
from wnlib import Norm, Recipe
from wnlib.lab import checks, checkup, forecast
from wnlib.lab.checks import CHECKS, Failed, NotHere, Place
from wnlib.lab.cli import main
from wnlib.training import build, find_device, training_step

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
    "frozen dropout": ("noise in a step", lambda: frozen, "variance off by"),
    "no noise": ("noise in a step", lambda: quiet, "variance off by"),
    "all drawn once": ("noise in a step", lambda: captured, "variance off by 1"),
    "stuck rate": ("update, wn_mobn", lambda: Stuck("lr"), "another rate and β₁: weights apart by"),
    "stuck β₁": ("update, bn", lambda: Stuck("betas"), "another rate and β₁: weights apart by"),
    "late minibatch": ("update, bn", Late, "second step: "),
    "buffers that stay": ("update, bn", lambda: unmoved, "second step: "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_check_bites(place, fault):
    name, make, said = FAULTS[fault]
    with pytest.raises(Failed, match=re.escape(said)):
        CHECKS[name](dataclasses.replace(place, step=make()))


def test_wrong_gradients_bite(monkeypatch):
    """In one layer, in one memory format: as batch norm's were on some devices."""

    def doubled(_module, _inputs, t):
        wrong = t.is_contiguous(memory_format=torch.channels_last)
        return t + (t - t.detach()) if wrong else t

    def crooked(recipe):
        model = build(recipe)
        model.conv2.register_forward_hook(doubled)
        return model

    monkeypatch.setattr(checks, "build", crooked)
    with pytest.raises(Failed, match=r"^float32: gradient of conv\d\.[\w.]+ off by"):
        CHECKS["step, bn"](Place(torch.device("cpu"), width=4))


@pytest.mark.parametrize(("name", "value"), [("p", 0.4), ("sigma", 0.2)])
def test_wrong_noise_bites(place, monkeypatch, name, value):
    def other(recipe):
        model = build(recipe)
        setattr(model.drop1 if name == "p" else model.noise, name, value)
        return model

    monkeypatch.setattr(checks, "build", other)
    with pytest.raises(Failed, match=r"double what it keeps|deviation off by"):
        CHECKS["noise, dropout"](place)


# --- the report, and the command


@pytest.fixture
def some(monkeypatch):
    """One check that passes, one that is not for here; a test adds its own."""

    def absent(at):
        raise NotHere("elsewhere")

    chosen = {"fine": lambda at: "as it should", "other": absent}
    monkeypatch.setattr(checkup, "CHECKS", chosen)
    return chosen


def failing(at):
    raise Failed("weights apart by 0.4; at most 0.05 is allowed")


def broken(at):
    raise RuntimeError("CUDA error: an illegal memory access\nCUDA kernel errors might be")


def hungry(at):
    torch.empty(2**60)


def test_notebook_s_call_says_it_in_a_table(some):
    report = wnlib.lab.check("cpu")
    head, *rows, end = repr(report).splitlines()
    assert head.startswith(f"cpu, torch {torch.__version__}, ")
    assert rows == [
        "passed    fine             as it should",
        "not here  other            elsewhere",
    ]
    assert end == "Training works here."
    assert report.passed
    assert wnlib.lab.check is checkup.check


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (failing, "weights apart by 0.4; at most 0.05 is allowed"),
        (broken, "RuntimeError: CUDA error: an illegal memory access"),
        (hungry, "there is not enough memory"),
    ],
)
def test_each_failure_is_one_line_and_the_status_is_1(some, capsys, function, said):
    some["mine"] = function
    assert main(["check", "--device", "cpu"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [f"failed    mine             {said}", "1 of 3 checks failed."]


def test_json_and_the_status_is_0(some, capsys):
    assert main(["check", "--device", "cpu", "--json", "--compiled", "--width", "4"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["passed"] is True
    assert told["compiled"] is True
    assert [each["outcome"] for each in told["results"]] == ["passed", "not here"]
    assert set(told) == {"card", "torch", "precision", "compiled", "results", "passed"}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--device", "tpu"], "device is auto, cpu, cuda or mps, not 'tpu'"),
        (["--width", "0"], "width is from 1 to 100,000, not 0"),
        (["--full"], "unrecognized arguments: --full"),
    ],
)
def test_bad_use_is_2(capsys, argv, said):
    try:
        status = main(["check", *argv])
    except SystemExit as stopped:
        status = stopped.code
    captured = capsys.readouterr()
    assert (status, captured.err.count("\n"), captured.out) == (2, 1, "")
    assert said in captured.err


def test_generators_are_left_alone(some):
    some["draws"] = lambda at: str(torch.manual_seed(1))
    state = torch.get_rng_state()
    wnlib.lab.check("cpu")
    assert torch.equal(torch.get_rng_state(), state)


# --- the estimate


def test_estimate_counts_steps_and_epochs():
    recipe = Recipe.paper("wn").replace(width=2, epochs=10)
    state = torch.get_rng_state()
    found = wnlib.lab.estimate(recipe, (Norm.WN, Norm.BN), "cpu")
    assert torch.equal(torch.get_rng_state(), state)
    # 500 steps an epoch, and evaluation, which takes less.
    steps = found.ms_per_step / 1e3 * 500 * 10 * 2 / 3600
    assert steps < found.hours < 3 * steps
    assert found.images_per_second == pytest.approx(100 / (found.ms_per_step / 1e3))
    assert found.card == "cpu"
    assert found.precision in ("bfloat16", "float32")
    said = repr(found)
    assert "2 runs of 10 epochs, width 2, on 50,000 images: about" in said
    assert "an estimate" in said
    assert "\n" not in said


def test_estimate_for_the_sample_is_shorter(sample):
    recipe = Recipe.paper("none").replace(width=2, epochs=1000)
    found = wnlib.lab.estimate(recipe, (Norm.NONE,), "cpu", data=sample)
    steps = found.ms_per_step / 1e3 * 20 * 1000 / 3600
    assert steps < found.hours < 3 * steps
    assert "1 run of 1000 epochs, width 2, on 2,000 images" in repr(found)


@pytest.mark.parametrize(
    ("hours", "said"), [(0.001, "1 minute,"), (0.5, "30 minutes"), (3, "3.0 hours")]
)
def test_hours_are_told_as_people_do(hours, said):
    found = forecast.Estimate("cpu", "float32", 1.0, 1.0, hours, None, "1 run")
    assert f"about {said}" in repr(found)
