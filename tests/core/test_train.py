"""One training loop: what it computes, and when it ends."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from training import small, timeless

import wnlib.training as module
from wnlib import ConvPoolCNNC, Norm, Training, epochs, train
from wnlib.inputs import prepare
from wnlib.training import (
    Row,
    State,
    autocast_type,
    build,
    evaluate,
    find_device,
    state_after,
)

pytestmark = pytest.mark.usefixtures("on_the_cpu", "one_thread")
every_norm = pytest.mark.parametrize("norm", list(Norm))


@pytest.fixture
def fp32(monkeypatch):
    monkeypatch.setattr(module, "autocast_type", lambda _: torch.float32)


# --- rows


def test_one_row_per_epoch(tiny, whole):
    rows = whole
    assert [row.epoch for row in rows] == [1, 2, 3, 4]
    assert [row.lr for row in rows] == [small().lr_at(e) for e in range(4)]
    assert all(row.seconds > 0 for row in rows)
    for row in rows:
        assert (row.train_error * 40).is_integer()
        assert (row.test_error * 20).is_integer()
    assert timeless(epochs(small(), tiny)) == timeless(rows)


def test_seed_decides_and_nothing_else(tiny, whole):
    torch.manual_seed(99)
    assert timeless(train(small(), tiny)) == timeless(whole)
    assert timeless(train(small(seed=1), tiny)) != timeless(whole)


def test_callers_generator_is_left_alone(tiny):
    torch.manual_seed(5)
    expected = torch.rand(10)
    torch.manual_seed(5)
    drawn = [torch.rand(2)]
    for _ in epochs(small(), tiny):
        drawn.append(torch.rand(2))  # and taking from it changes nothing
    assert torch.equal(torch.cat(drawn), expected)


def test_a_training_goes_on_where_it_was_left(tiny, whole):
    training = Training(small(), tiny)
    ticks = []
    first = training.epochs(lambda: ticks.append(1))
    next(first)
    first.close()
    assert (len(training.rows), training.state) == (1, State.INTERRUPTED)
    assert len(ticks) == 4
    assert timeless([*training.rows, *training.epochs()]) == timeless(whole)
    assert training.state is State.FINISHED
    assert list(training.epochs()) == []


@pytest.mark.parametrize("changes", [{"batch_size": 41}, {"init_images": 41}])
def test_too_few_images_are_refused(tiny, changes):
    message = r"^the recipe takes 41 images at once, Cifar10\(tiny: 40 \+ 20 images\) has 40$"
    with pytest.raises(ValueError, match=message):
        train(small(**changes), tiny)


def test_rows_ignore_the_callers_autocast(tiny, whole):
    with torch.autocast("cpu", torch.bfloat16):
        assert timeless(train(small(), tiny)) == timeless(whole)


# --- divergence


@pytest.mark.parametrize(
    ("epoch", "train_loss", "test_loss", "state"),
    [
        (2, 23.02, 1e30, State.INTERRUPTED),  # running statistics may lag behind for an epoch
        (3, 23.02, 2.3, State.FINISHED),
        (2, 23.03, 2.3, State.DIVERGED),  # ten times ln 10
        (3, math.nan, 2.3, State.DIVERGED),
        (2, 2.3, math.nan, State.DIVERGED),
        (2, 2.3, math.inf, State.DIVERGED),
    ],
)
def test_how_a_run_stands(epoch, train_loss, test_loss, state):
    row = Row(epoch, 0.003, train_loss, 0.9, test_loss, 0.9, 1.0)
    assert state_after(small(epochs=3), row) is state


def test_divergence_ends_the_run(tiny):
    training = Training(small("none", lr=1e20), tiny)
    (row,) = training.epochs()
    assert not row.train_loss < 23.02585
    assert training.state is State.DIVERGED


@pytest.mark.parametrize("overflow", [True, False])
def test_fp16_that_always_overflows_is_divergence(tiny, monkeypatch, overflow):
    """Its losses stay finite: 65,536 is halved to below 1e-4 in 30 steps, four an epoch."""
    monkeypatch.setattr(module, "autocast_type", lambda _: torch.float16)
    training = Training(small(epochs=12, width=2), tiny)
    monkeypatch.setattr(module, "autocast_type", lambda _: torch.float32)
    scales = []

    def step(self, x, _y):
        self.scaler.scale(torch.zeros(()))  # as `Training.step` does, which makes the scale
        for p in self.model.parameters():
            p.grad = torch.full_like(p, math.inf if overflow else 0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        scales.append(self.scaler.get_scale())
        return torch.tensor(2.3), torch.zeros(len(x), 10)

    monkeypatch.setattr(Training, "step", step)
    assert len(list(training.epochs())) == (8 if overflow else 12)
    assert training.state is (State.DIVERGED if overflow else State.FINISHED)
    assert scales[29] == (65536 / 2**30 if overflow else 65536)


# --- what is computed


def test_schedules_reach_the_optimizer_and_epochs_are_permutations(tiny, monkeypatch):
    seen, figures, usual = [], [], Training.step

    def step(self, x, y):
        (group,) = self.optimizer.param_groups
        seen.append((group["lr"], group["betas"], group["eps"], x.clone(), self.model.training))
        loss, logits = usual(self, x, y)
        figures.append((loss.item(), (logits.argmax(1) != y).float().mean().item()))
        return loss, logits

    recipe = small(batch_size=15, epochs=6, width=2, switch_rate=0.4)
    monkeypatch.setattr(Training, "step", step)
    rows = train(recipe, tiny)
    assert len(seen) == 6 * 2  # the rest of 40 images is left out
    for i, (lr, betas, eps, _, mode) in enumerate(seen):
        assert lr == recipe.lr_at(i // 2)
        assert betas == ((0.9 if i < 6 else 0.5), 0.999)
        assert (eps, mode) == (1e-4, True)
    orders = []
    images, _ = prepare(tiny, "symmetric")
    for epoch, row in enumerate(rows):
        drawn = torch.cat([seen[2 * epoch][3], seen[2 * epoch + 1][3]])
        index = [int((images == x).flatten(1).all(1).nonzero()) for x in drawn]
        assert len(set(index)) == 30
        orders.append(index)
        means = tuple(np.mean(figures[2 * epoch : 2 * epoch + 2], axis=0))
        assert (row.train_loss, row.train_error) == pytest.approx(means)
    assert len(set(map(tuple, orders))) == 6


@pytest.mark.parametrize("scale", ["linear", "exp"])
def test_network_is_the_recipes(scale):
    model = build(small(width=3, scale=scale, sigma=0.3, dropout=0.25))
    assert (model.noise.sigma, model.drop1.p, model.norm) == (0.3, 0.25, Norm.WN)
    assert model.conv1.layer.parametrizations.weight[0].exp == (scale == "exp")
    assert model.conv1.layer.out_channels == 3
    assert build(small("bn", bn_eps=1e-3)).conv1.norm.eps == 1e-3


class Plain:
    """The network, its initialization and Adam, typed again: full batches, no noise, fp64."""

    def __init__(self, recipe):
        self.recipe, self.norm = recipe, recipe.norm
        torch.manual_seed(recipe.seed)
        self.p, self.running = {}, {}
        for name, child in build(recipe).named_children():
            layer = getattr(child, "layer", None)
            if layer is None:
                continue
            w = layer.weight.detach().double()
            units = torch.zeros(len(w), dtype=torch.float64)
            if recipe.norm.weight_normalized:
                length = w.flatten(1).norm(dim=1)
                self.p[name, "v"] = w
                self.p[name, "g"] = length.log() if recipe.scale == "exp" else length
            else:
                self.p[name, "w"] = w
            self.p[name, "b"] = units.clone()
            if recipe.norm is Norm.BN:
                self.p[name, "gamma"] = units + 1
            self.running[name] = (units.clone(), units + 1)
        self.moments = dict.fromkeys(self.p, (0, 0))
        self.t = 0

    def layer(self, name, x, padding, mode):
        def along(a):
            return a.view(-1, *[1] * (x.ndim - 2))

        p = {key: value for (owner, key), value in self.p.items() if owner == name}
        w = p.get("w")
        if w is None:
            g = p["g"].exp() if self.recipe.scale == "exp" else p["g"]
            w = p["v"] * (g / p["v"].flatten(1).norm(dim=1)).view(-1, *[1] * (p["v"].ndim - 1))
        t = F.conv2d(x, w, padding=padding) if w.ndim == 4 else x @ w.T
        dims = [0, *range(2, t.ndim)]
        mean, var = t.mean(dims), t.var(dims, correction=0)
        old_mean, old_var = self.running[name]
        if mode == "init" and self.norm is not Norm.BN:
            std = var.sqrt()
            if "w" in p:
                p["w"] /= std.view(-1, *[1] * (w.ndim - 1))
            elif self.recipe.scale == "exp":
                p["g"] -= std.log()
            else:
                p["g"] /= std
            t, mean = t / along(std), mean / std
            if self.norm.mean_only:
                self.running[name] = (mean, None)
            else:
                p["b"] -= mean
        elif mode == "init":
            n = t.numel() // t.shape[1]
            self.running[name] = (mean, var * n / (n - 1))
        elif mode == "train" and self.norm not in (Norm.NONE, Norm.WN):
            n = t.numel() // t.shape[1]
            with torch.no_grad():
                new_var = None if old_var is None else 0.9 * old_var + 0.1 * var * n / (n - 1)
                self.running[name] = (0.9 * old_mean + 0.1 * mean, new_var)
        if self.norm in (Norm.NONE, Norm.WN):
            return t + along(p["b"])
        if mode == "eval":
            mean, var = old_mean, old_var
        if self.norm is Norm.BN:
            t, mean = (
                t / along(var + self.recipe.bn_eps).sqrt(),
                mean / (var + self.recipe.bn_eps).sqrt(),
            )
            return along(p["gamma"]) * (t - along(mean)) + along(p["b"])
        return t - along(mean) + along(p["b"])

    def logits(self, x, mode):
        for i in range(1, 10):
            x = F.leaky_relu(self.layer(f"conv{i}", x, int(i < 7), mode), 0.1)
            if i in (3, 6):
                x = F.max_pool2d(x, 2)
        return self.layer("dense", x.mean((2, 3)), 0, mode)

    def step(self, x, y, lr, beta1):
        for value in self.p.values():
            value.requires_grad_()
        logits = self.logits(x, "train")
        loss = -logits.float().log_softmax(1)[torch.arange(len(y)), y].mean()
        grads = dict(zip(self.p, torch.autograd.grad(loss, list(self.p.values())), strict=True))
        self.t += 1
        for key, grad in grads.items():
            m, v = self.moments[key]
            m, v = beta1 * m + (1 - beta1) * grad, 0.999 * v + 0.001 * grad**2
            self.moments[key] = m, v
            hat = m / (1 - beta1**self.t), v / (1 - 0.999**self.t)
            step = lr * hat[0] / (hat[1].sqrt() + self.recipe.adam_eps)
            self.p[key] = (self.p[key] - step).detach()
        return loss.item(), (logits.argmax(1) != y).double().mean().item()


ALIKE = {"batch_size": 40, "sigma": 0, "dropout": 0, "lr": 0.003, "width": 3}
every_variant = pytest.mark.parametrize(
    ("norm", "scale"), [*((n, "linear") for n in Norm), (Norm.WN, "exp"), (Norm.WN_MOBN, "exp")]
)


@every_variant
@pytest.mark.parametrize("init", [40, 0])
@pytest.mark.usefixtures("fp32")
def test_training_is_the_plain_training(tiny, monkeypatch, norm, scale, init):
    # In fp64: where two pixels all but tie, rounding decides which of them a pooling passes on.
    x, test_x = ((i.double() - 127.5) / 128 for i in (tiny.train_images, tiny.test_images))
    monkeypatch.setattr(module, "prepare", lambda *_: (x, test_x))
    recipe = small(norm, scale=scale, init_images=init, plain="divided", **ALIKE)
    training = Training(recipe, tiny)
    training.model.double()
    plain = Plain(recipe)
    if init:
        plain.logits(x, "init")
    rates, betas = [0.003, 0.003, 0.003, 0.0015], [0.9, 0.9, 0.5, 0.5]
    for row, lr, beta1 in zip(training.epochs(), rates, betas, strict=True):
        loss, error = plain.step(x, tiny.train_labels, lr, beta1)
        assert row.lr == lr
        assert row.train_loss == pytest.approx(loss, rel=1e-6)
        assert row.train_error == pytest.approx(error)
        logits = plain.logits(test_x, "eval")
        expected = F.cross_entropy(logits, tiny.test_labels).item()
        assert row.test_loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("fp32")
@pytest.mark.parametrize("batch", [7, 20, 500])
def test_evaluation_is_the_plain_one(tiny, batch):
    torch.manual_seed(4)
    model = ConvPoolCNNC("bn", 4).train()
    x = (tiny.test_images.float() - 127.5) / 128
    loss, error = evaluate(model, x, tiny.test_labels, batch)
    assert not model.training
    with torch.no_grad():
        logits = model(x).double().numpy()
    y = tiny.test_labels.numpy()
    odds = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    assert loss == pytest.approx((odds - logits[np.arange(20), y]).mean(), rel=1e-5)
    assert error == (logits.argmax(1) != y).mean()


# --- devices that are not here


def available(monkeypatch, cuda=False, mps=False):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


def test_auto_is_the_best_device(monkeypatch):
    for cuda, mps, expected in (
        (True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu"),
    ):  # fmt: skip
        available(monkeypatch, cuda, mps)
        assert find_device() == find_device("auto") == torch.device(expected)
        assert find_device("cpu") == torch.device("cpu")
    available(monkeypatch, True, True)
    assert find_device("mps") == torch.device("mps")
    assert find_device("cuda") == torch.device("cuda")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuda", "^there is no cuda device here; use cpu, or auto$"),
        ("tpu", "^device is auto, cpu, cuda or mps, not 'tpu'$"),
    ],
)
def test_absent_and_unknown_devices_are_refused(tiny, name, message):
    with pytest.raises(ValueError, match=message):
        train(small(), tiny, name)


def test_autocast_follows_the_hardware(monkeypatch):
    for native, dtype in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, n=native: n
        )
        assert autocast_type(torch.device("cuda")) is dtype
    assert autocast_type(torch.device("mps")) is torch.float32
    for found, dtype in (
        ({"avx512_bf16": True}, torch.float32),  # where bf16 takes 1.5 times as long
        ({"avx512_bf16": True, "amx_bf16": True}, torch.bfloat16),
        ({"avx2": True}, torch.float32),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda f=found: f, raising=False)
        assert autocast_type(torch.device("cpu")) is dtype
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)  # before torch 2.8
    assert autocast_type(torch.device("cpu")) is torch.float32
