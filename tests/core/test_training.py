"""Recipes, and the loop that trains by them: what it computes, when it ends, and where it runs."""

import math
from itertools import islice, pairwise, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from training import small, timeless

import wnlib.training as module
from wnlib import Norm, Recipe, Training, train
from wnlib.inputs import symmetric
from wnlib.training import Row, State, autocast_type, find_device, state_after


def test_paper_and_report_are_their_sources(norm):
    paper = Recipe(
        norm, "paper", width=96, scale="linear", plain="frozen" if norm == "none" else "divided",
        inputs="zca", sigma=0.15, dropout=0.5, bn_eps=1e-6, init_images=500, epochs=200, seed=0,
        batch_size=100, lr=0.0003 if norm == "none" else 0.003, decay_from=0.5, beta1=0.9,
        late_beta1=0.5, switch_rate=1.0, adam_eps=1e-4,
    )  # fmt: skip
    report = paper.replace(
        name="report", inputs="unit", lr=0.001, decay_from=1.0, adam_eps=1e-8, bn_eps=1e-3,
        init_images=500 if norm in ("wn", "wn_mobn") else 0, plain="divided",
    )  # fmt: skip
    assert Recipe.paper(str(norm)) == paper
    assert Recipe.report(str(norm)) == report


def test_schedule_is_the_released_codes():
    recipe = Recipe.paper("wn")
    rates = [recipe.lr_at(e) for e in range(200)]
    assert rates == pytest.approx([0.003 * min(2 - e / 100, 1) for e in range(200)], rel=1e-12)
    assert [recipe.beta1_at(e) for e in range(200)] == [0.9] * 100 + [0.5] * 100


@given(st.integers(1, 300), st.floats(0, 1), st.floats(1e-8, 1e3))
def test_learning_rate_only_falls_and_stays_positive(epochs, decay_from, lr):
    recipe = Recipe("wn", epochs=epochs, decay_from=decay_from, lr=lr)
    rates = [recipe.lr_at(e) for e in range(epochs)]
    assert rates[0] == lr
    assert all(0 < later <= earlier for earlier, later in pairwise(rates))


@pytest.mark.parametrize(
    ("norm", "fields", "values", "what"),
    [
        ("wn", "width epochs batch_size", [0, -1, 100_001], "a whole number from 1 to 100,000"),
        ("wn", "width epochs batch_size", [1.0, 1.5, "9"], "a whole number from 1 to 100,000"),
        ("wn", "inputs", ["ZCA", None], "unit or symmetric or zca"),
        ("wn", "beta1 late_beta1", [-0.1, 1, math.nan], "from 0 to below 1"),
        ("wn", "init_images", [-1, 0.5, None], "a whole number from 0 to 100,000"),
        ("wn", "decay_from", [-0.1, 1.1, math.nan], "from 0 to 1"),
        ("wn", "seed", [-1, 2**64, 0.5], "a whole number from 0 to 2⁶⁴ − 1"),
        ("wn", "lr", [0, -1e-3, math.nan, math.inf], "a number above 0"),
        ("wn_mobn", "scale", ["log", None], r"linear or exp with WN \+ mean-only BN"),
        ("mobn", "scale", ["exp"], "linear with mean-only BN"),
        ("none", "plain", ["other"], "divided or frozen with plain"),
        ("bn", "plain", ["frozen"], "divided with batch norm"),
    ],
)
def test_impossible_values_are_refused(norm, fields, values, what):
    for field, value in product(fields.split(), values):
        with pytest.raises(ValueError, match=f"^{field} is {what}, not {value!r}$"):
            Recipe(norm, **{field: value})


def test_rows_are_the_recipes_whatever_the_caller_draws_and_wherever_a_run_stops(tiny, whole):
    assert [row.epoch for row in whole] == [1, 2, 3, 4]
    assert all(row.seconds > 0 for row in whole)
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    training, ticks = Training(small(), tiny), []
    drawn = [torch.rand(1) for _ in islice(training.epochs(lambda: ticks.append(1)), 2)]
    assert (len(training.rows), len(ticks), training.state) == (2, 8, State.INTERRUPTED)
    drawn += [torch.rand(1) for _ in training.epochs()]
    assert torch.equal(torch.cat(drawn), expected)
    assert timeless(training.rows) == timeless(whole)
    assert (training.state, list(training.epochs())) == (State.FINISHED, [])
    assert timeless(train(small(seed=1), tiny)) != timeless(whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_ignore_the_callers_autocast(tiny, monkeypatch, dtype):
    monkeypatch.setattr(module, "autocast_type", lambda _: dtype)
    rows = timeless(train(small(), tiny))
    with torch.autocast("cpu", torch.bfloat16):
        assert timeless(train(small(), tiny)) == rows


def test_too_few_images_are_refused(tiny):
    message = r"^the recipe takes 41 images at once, Cifar10\(tiny: 40 \+ 20 images\) has 40$"
    for changes in ({"batch_size": 41}, {"init_images": 41}):
        with pytest.raises(ValueError, match=message):
            train(small(**changes), tiny)


def test_how_a_run_stands(tiny):
    def after(epoch, train_loss, test_loss):
        return state_after(small(epochs=3), Row(epoch, 0.1, train_loss, 0.9, test_loss, 0.9, 1.0))

    assert after(2, 23.02, 1e30) is State.INTERRUPTED  # running statistics may lag behind
    assert after(3, 23.02, 2.3) is State.FINISHED
    for losses in ((23.03, 2.3), (math.nan, 2.3), (2.3, math.nan), (2.3, math.inf)):
        assert after(3, *losses) is after(1, *losses) is State.DIVERGED  # 23.026 is ten times ln 10
    lost = Training(small("none", lr=1e20), tiny)
    assert (len(list(lost.epochs())), lost.state) == (1, State.DIVERGED)


class Again:
    """The network and its initialization, typed again in fp64, without noise."""

    def __init__(self, recipe, model):
        self.norm, self.exp, self.eps = recipe.norm, recipe.scale == "exp", recipe.bn_eps
        self.layers, self.running = {}, {}
        for name, block in model.named_children():
            if hasattr(block, "layer"):
                w = block.layer.weight.detach().clone()
                w = w if w.ndim == 4 else w[:, :, None, None]  # dense: a convolution of 1×1
                mean, var, b, gamma = torch.zeros(4, len(w), 1, 1, dtype=torch.float64)
                self.running[name] = mean, var + 1
                g = w.square().sum((1, 2, 3), keepdim=True).sqrt()
                g = g.log() if self.exp else g
                self.layers[name] = {"w": w, "b": b, "g": g, "gamma": gamma + 1}

    def layer(self, name, x, mode, padding=0):
        p = self.layers[name]
        w = p["w"]
        if self.norm.weight_normalized:
            length = w.square().sum((1, 2, 3), keepdim=True).sqrt()
            w = w / length * (p["g"].exp() if self.exp else p["g"])
        x = F.conv2d(x, w, padding=padding)
        over = {"dim": (0, 2, 3), "keepdim": True}
        mean, var, unbiased = x.mean(**over)[0], x.var(correction=0, **over)[0], x.var(**over)[0]
        if mode == "init" and self.norm is not Norm.BN:
            std = var.sqrt()
            if self.exp:
                p["g"] -= std.log()[..., None]
            else:
                p["g" if self.norm.weight_normalized else "w"] /= std[..., None]
            x, mean = x / std, mean / std
            if not self.norm.mean_only:
                p["b"] -= mean
        if mode == "eval":
            mean, var = self.running[name]
        else:
            for old, new in zip(self.running[name], (mean, unbiased), strict=True):
                old.lerp_(new.detach(), 1.0 if mode == "init" else 0.1)
        if self.norm is Norm.BN:
            return p["gamma"] * (x - mean) / (var + self.eps).sqrt() + p["b"]
        return x + p["b"] - (mean if self.norm.mean_only else 0)

    def figures(self, x, labels, mode):
        """Loss and error."""
        for i in range(1, 10):
            x = F.leaky_relu(self.layer(f"conv{i}", x, mode, padding=int(i < 7)), 0.1)
            if i in (3, 6):
                x = F.max_pool2d(x, 2)
        logits = self.layer("dense", x.mean((2, 3), keepdim=True), mode).flatten(1)
        loss = -logits.float().log_softmax(1)[torch.arange(len(labels)), labels].mean()
        return loss, (logits.argmax(1) != labels).double().mean()


@pytest.mark.parametrize(("init", "dtype"), [(20, torch.float32), (0, torch.float16)])
def test_training_is_the_one_typed_again(tiny, monkeypatch, norm, init, dtype):
    # In fp64: where two pixels all but tie, rounding decides which of them a pooling passes on.
    x, test_x = (symmetric(images).double() for images in (tiny.train_images, tiny.test_images))
    monkeypatch.setattr(module, "prepare", lambda *_: (x, test_x))
    monkeypatch.setattr(module, "autocast_type", lambda _: dtype)
    settings = {"batch_size": 15, "sigma": 0, "dropout": 0, "width": 3, "switch_rate": 0.8}
    settings |= {"lr": 0.003, "init_images": init, "plain": "divided", "bn_eps": 0.01}
    recipe = small(norm, scale="exp" if norm is Norm.WN_MOBN else "linear", **settings)
    training, taken, orders = Training(recipe, tiny), [], set()
    monkeypatch.setattr(module, "autocast_type", lambda _: torch.float32)
    assert training.scaler.is_enabled() == (dtype is torch.float16)  # it changes nothing
    again = Again(recipe, training.model.double())
    learned = [value.requires_grad_() for p in again.layers.values() for value in p.values()]
    adam = torch.optim.Adam(learned, eps=1e-4)

    def look(model, inputs):
        if model.training:
            taken.append([int((x == image).flatten(1).all(1).nonzero()) for image in inputs[0]])

    training.model.register_forward_pre_hook(look)
    rates, betas = [0.003, 0.003, 0.0024, 0.0012], [0.9, 0.9, 0.5, 0.5]
    for row, lr, beta1 in zip(training.epochs(), rates, betas, strict=True):
        *first, one, two = taken  # at first the two passes of the initialization
        taken.clear()
        if first:
            with torch.no_grad():
                again.figures(x[first[0]], tiny.train_labels[first[0]], "init")
        adam.param_groups[0].update(lr=lr, betas=(beta1, 0.999))
        trained = []
        for chosen in (one, two):
            trained.append(again.figures(x[chosen], tiny.train_labels[chosen], "train"))
            adam.zero_grad()
            trained[-1][0].backward()
            adam.step()
        loss, error = (sum(each).item() / 2 for each in zip(*trained, strict=True))
        tested = [each.item() for each in again.figures(test_x, tiny.test_labels, "eval")]
        assert row[1:6] == pytest.approx([lr, loss, error, *tested], rel=1e-5)
        assert len({*one, *two}) == 30  # the rest of the 40 is left out
        orders.add((*one, *two))
    assert len(orders) == 4


@pytest.mark.parametrize("here", [["cuda", "mps", "cpu"], ["mps", "cpu"], ["cpu"]])
def test_auto_is_the_best_device_and_absent_ones_are_refused(monkeypatch, here):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in here)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in here)
    assert find_device() == torch.device(here[0])
    assert [find_device(name).type for name in here] == here
    for name in {"cuda", "mps", "tpu"}.difference(here):
        message = f"^there is no device '{name}' here; use auto or {' or '.join(here)}$"
        with pytest.raises(ValueError, match=message):
            find_device(name)


def test_autocast_follows_the_hardware(monkeypatch):
    cpu, mps, cuda = map(torch.device, ("cpu", "mps", "cuda"))
    for native, dtype in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda n=native, **_: n)
        assert autocast_type(cuda) is dtype
    intel, amd = "Intel(R) Xeon(R) Processor", "AMD EPYC"
    for name, avx512, amx, dtype in (
        (intel, True, True, torch.bfloat16),
        (intel, True, False, torch.float32),
        (amd, True, False, torch.bfloat16),
        (amd, False, False, torch.float32),
    ):
        found = {"cpu_name": name, "avx512_bf16": avx512, "amx_bf16": amx}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda f=found: f, raising=False)
        assert (autocast_type(cpu), autocast_type(mps)) == (dtype, torch.float32)
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # before torch 2.8
    assert autocast_type(cpu) is torch.float32
