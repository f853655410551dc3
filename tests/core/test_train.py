"""One training loop: what it computes, what it records, and when it ends."""

import math
import subprocess
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from training import contents, small, timeless

import wnlib
from wnlib import ConvPoolCNNC, Norm, Recipe, graph, train
from wnlib.lab import Run
from wnlib.train import autocast_type, build, build_optimizer, evaluate, find_device

pytestmark = pytest.mark.usefixtures("on_the_cpu", "one_thread")
module = import_module("wnlib.train")  # the name in the package is the function
ROOT = Path(wnlib.__file__).parents[1]
every_norm = pytest.mark.parametrize("norm", list(Norm))


@pytest.fixture
def fp32(monkeypatch):
    for each in (module, wnlib.train):
        monkeypatch.setattr(each, "autocast_type", lambda _: torch.float32)


# --- rows and records


def test_one_row_an_epoch(tiny, tmp_path, whole):
    rows = list(train(small(), tiny, tmp_path))
    assert [row.epoch for row in rows] == [1, 2, 3, 4]
    assert [row.lr for row in rows] == [small().lr_at(e) for e in range(4)]
    assert all(row.seconds > 0 for row in rows)
    for row in rows:
        assert (row.train_error * 40).is_integer()
        assert (row.test_error * 20).is_integer()
    assert timeless(rows) == timeless(whole)  # whether recorded or not
    run = Run.load(tmp_path)
    assert run.rows == rows
    assert (run.state, run.recipe, run.source) == ("finished", small(), "wnlib")
    assert sorted(contents(tmp_path)) == ["checkpoint.pt", "history.csv", "run.json"]


def test_record_says_where_it_comes_from(tiny, tmp_path):
    rows = list(train(small(epochs=2), tiny, tmp_path))
    found = Run.load(tmp_path).provenance
    assert found.pop("wall_seconds") == pytest.approx(sum(row.seconds for row in rows))
    assert found == {
        "data": {"name": "tiny", "digest": "tiny"},
        "device": "cpu",
        "precision": str(autocast_type(torch.device("cpu"))).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "wnlib": wnlib.__version__,
        "commit": module._commit(),
    }


def test_record_is_valid_before_the_first_epoch(tiny, tmp_path):
    train(small(), tiny, tmp_path)
    run = Run.load(tmp_path)
    assert (run.rows, run.state) == ([], "interrupted")


def test_commit_is_the_last_that_changed_the_package(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
        subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True
        )

    commit = module._commit.__wrapped__
    package = tmp_path / "wnlib"
    package.mkdir()
    monkeypatch.setattr(module, "__file__", str(package / "train.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() is None  # no repository
    git("init", "-q")
    (package / "train.py").write_text("1")
    git("add", ".")
    git("commit", "-qm", "one")
    first = commit()
    assert len(first) >= 7
    (tmp_path / "other").write_text("2")
    git("add", ".")
    git("commit", "-qm", "two")
    assert commit() == first
    (package / "train.py").write_text("3")
    assert commit() == f"{first}-dirty"
    monkeypatch.setenv("PATH", "")
    assert commit() is None  # no git


def test_seed_decides_and_nothing_else(tiny, whole):
    torch.manual_seed(99)
    assert timeless(train(small(), tiny)) == timeless(whole)
    assert timeless(train(small(seed=1), tiny)) != timeless(whole)


def test_callers_generator_is_left_alone(tiny):
    torch.manual_seed(5)
    expected = torch.rand(10)
    torch.manual_seed(5)
    drawn = [torch.rand(2)]
    for _ in train(small(), tiny):
        drawn.append(torch.rand(2))  # and taking from it changes nothing
    assert torch.equal(torch.cat(drawn), expected)


def test_progress_goes_to_standard_error(tiny, capsys):
    list(train(small(epochs=2), tiny, progress=True))
    out, err = capsys.readouterr()
    assert out == ""
    assert "8/8" in err
    assert "test error" in err
    list(train(small(epochs=1), tiny))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("changes", [{"batch_size": 41}, {"init_images": 41}])
def test_too_few_images_are_refused(tiny, tmp_path, changes):
    message = r"^the recipe takes 41 images at once, Cifar10\(tiny: 40 \+ 20 images\) has 40$"
    with pytest.raises(ValueError, match=message):
        train(small(**changes), tiny, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- divergence


def test_divergence_ends_the_run_and_is_recorded(tiny, tmp_path, capsys):
    recipe = small("none", lr=1e20)
    rows = list(train(recipe, tiny, tmp_path, progress=True))
    assert len(rows) == 1
    assert not rows[0].train_loss < 23.02585
    assert Run.load(tmp_path).state == "diverged at epoch 1"
    assert "diverged at epoch 1" in capsys.readouterr().err
    assert timeless(train(recipe, tiny, tmp_path)) == timeless(rows)  # only replayed


@pytest.mark.parametrize(
    ("loss", "state"),
    [(23.02, "finished"), (23.03, "diverged at epoch 2"), (math.nan, "diverged at epoch 2")],
)
def test_divergence_is_ten_times_a_guess(tiny, tmp_path, monkeypatch, loss, state):
    steps = []

    def step(model, _optimizer, _scaler, x, _y):
        steps.append(1)
        return torch.tensor(1.0 if len(steps) <= 4 else loss), torch.zeros(len(x), 10)

    monkeypatch.setattr(graph, "training_step", step)
    rows = list(train(small(epochs=3), tiny, tmp_path))
    run = Run.load(tmp_path)
    assert run.state == state
    assert len(run.rows) == len(rows) == (3 if state == "finished" else 2)


def test_test_loss_that_is_not_finite_is_divergence(tiny, tmp_path, monkeypatch):
    """The training loss is fine, the test loss of the second epoch is not."""
    for loss in (math.nan, math.inf):
        losses = [2.0, loss, 2.0]
        monkeypatch.setattr(module, "evaluate", lambda *_, left=losses: (left.pop(0), 0.9))
        folder = tmp_path / str(loss)
        rows = list(train(small(epochs=3), tiny, folder))
        run = Run.load(folder)
        assert run.state == "diverged at epoch 2"
        assert [row.test_error for row in run.rows] == [0.9, 0.9]
        assert timeless(run.rows) == timeless(rows)
        assert timeless(train(small(epochs=3), tiny, folder)) == timeless(rows)  # only replayed


def test_large_test_losses_are_no_divergence(tiny, monkeypatch):
    """Batch norm's running statistics may lag behind for an epoch."""
    monkeypatch.setattr(module, "evaluate", lambda *_: (1e30, 0.9))
    assert len(list(train(small(epochs=3), tiny))) == 3


@pytest.mark.parametrize("overflow", [True, False])
def test_fp16_that_always_overflows_is_divergence(tiny, tmp_path, monkeypatch, overflow):
    """Its losses stay finite: 65,536 is halved to below 1e-4 in 30 steps, four an epoch."""
    for each in (module, wnlib.train):
        monkeypatch.setattr(each, "autocast_type", lambda _: torch.float16)
    scales = []

    def step(model, optimizer, scaler, x, _y):
        parameters = list(model.parameters())
        scaler.scale(torch.zeros(()))  # as training_step does, which makes the scale
        for p in parameters:
            p.grad = torch.full_like(p, math.inf if overflow else 0)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
        return torch.tensor(2.3), torch.zeros(len(x), 10)

    monkeypatch.setattr(graph, "training_step", step)
    monkeypatch.setattr(module, "evaluate", lambda *_: (2.3, 0.9))
    recipe = small(epochs=12, width=2)
    rows = list(train(recipe, tiny, tmp_path))
    state = Run.load(tmp_path).state
    assert state == ("diverged at epoch 8" if overflow else "finished")
    assert len(rows) == (8 if overflow else 12)
    assert scales[29] == (65536 / 2**30 if overflow else 65536)


# --- what is computed


@every_norm
@pytest.mark.parametrize("noise", ["gaussian", "uniform"])
def test_every_configuration_trains(tiny, norm, noise):
    scale = "exp" if norm.weight_normalized and noise == "uniform" else "linear"
    (row,) = train(small(norm, epochs=1, noise=noise, scale=scale), tiny)
    assert 0 < row.train_loss < 23
    assert 0 < row.test_loss < math.inf


def test_papers_recipe_trains_on_the_whitened_sample(sample):
    recipe = Recipe.paper("wn_mobn").replace(width=2, epochs=1, batch_size=500)
    (row,) = train(recipe, sample)
    assert 1 < row.train_loss < 10
    assert 1 < row.test_loss < 10


def test_schedules_reach_the_optimizer_and_epochs_are_permutations(tiny, monkeypatch):
    real, seen = graph.training_step, []

    def step(model, optimizer, scaler, x, y):
        (group,) = optimizer.param_groups
        seen.append((group["lr"], group["betas"], group["eps"], x.clone(), model.training))
        return real(model, optimizer, scaler, x, y)

    monkeypatch.setattr(graph, "training_step", step)
    recipe = small(batch_size=15, epochs=6, width=2)
    list(train(recipe, tiny))
    assert len(seen) == 6 * 2  # the rest of 40 images is left out
    for i, (lr, betas, eps, _, training) in enumerate(seen):
        assert lr == recipe.lr_at(i // 2)
        assert betas == ((0.9 if i < 6 else 0.5), 0.999)
        assert (eps, training) == (1e-4, True)
    orders = []
    images, _ = module.prepare(tiny, "symmetric")
    for epoch in range(6):
        drawn = torch.cat([seen[2 * epoch][3], seen[2 * epoch + 1][3]])
        index = [int((images == x).flatten(1).all(1).nonzero()) for x in drawn]
        assert len(set(index)) == 30
        orders.append(index)
    assert len(set(map(tuple, orders))) == 6


def test_optimizer_is_the_recipes():
    recipe = small(lr=0.01, adam_eps=1e-5)
    optimizer = build_optimizer(recipe, build(recipe))
    assert (optimizer.defaults["lr"], optimizer.defaults["eps"]) == (0.01, 1e-5)
    assert optimizer.defaults["betas"][1] == 0.999
    assert optimizer.defaults["weight_decay"] == 0
    assert not optimizer.defaults["amsgrad"]


def test_training_figures_are_means_over_the_minibatches(tiny, monkeypatch):
    real, seen = graph.training_step, []

    def step(model, optimizer, scaler, x, y):
        loss, logits = real(model, optimizer, scaler, x, y)
        seen.append((loss.item(), (logits.argmax(1) != y).float().mean().item()))
        return loss, logits

    monkeypatch.setattr(graph, "training_step", step)
    (row,) = train(small(batch_size=15, epochs=1), tiny)  # 10 of the 40 images are left out
    assert (row.train_loss, row.train_error) == pytest.approx(tuple(np.mean(seen, axis=0)))


@pytest.mark.parametrize("scale", ["linear", "exp"])
@pytest.mark.parametrize("noise", ["gaussian", "uniform"])
def test_network_is_the_recipes(scale, noise):
    recipe = small(width=3, scale=scale, noise=noise, sigma=0.3, dropout=0.25, bn_eps=1e-3)
    model = build(recipe)
    assert type(model.noise).__name__.lower() == f"{noise}noise"
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
@pytest.mark.usefixtures("fp32")
def test_first_loss_is_the_plain_one(tiny, norm, scale):
    recipe = small(norm, scale=scale, init_images=40, epochs=1, **ALIKE)
    (row,) = train(recipe, tiny)
    x = (tiny.train_images.double() - 127.5) / 128
    plain = Plain(recipe)
    plain.logits(x, "init")
    loss, error = plain.step(x, tiny.train_labels, 0.003, 0.9)
    assert row.train_loss == pytest.approx(loss, rel=1e-5)
    assert row.train_error == pytest.approx(error)


@every_variant
@pytest.mark.parametrize("init", [40, 0])
@pytest.mark.usefixtures("fp32")
def test_training_is_the_plain_training(tiny, monkeypatch, norm, scale, init):
    # In fp64: where two pixels all but tie, rounding decides which of them a pooling passes on.
    x, test_x = ((i.double() - 127.5) / 128 for i in (tiny.train_images, tiny.test_images))
    monkeypatch.setattr(module, "build", lambda recipe: build(recipe).double())
    monkeypatch.setattr(module, "prepare", lambda *_: (x, test_x))
    recipe = small(norm, scale=scale, init_images=init, **ALIKE)
    rows = list(train(recipe, tiny))
    plain = Plain(recipe)
    if init:
        plain.logits(x, "init")
    rates, betas = [0.003, 0.003, 0.003, 0.0015], [0.9, 0.9, 0.5, 0.5]
    for row, lr, beta1 in zip(rows, rates, betas, strict=True):
        loss, error = plain.step(x, tiny.train_labels, lr, beta1)
        assert row.lr == lr
        assert row.train_loss == pytest.approx(loss, rel=1e-6)
        assert row.train_error == pytest.approx(error)
        logits = plain.logits(test_x, "eval")
        expected = F.cross_entropy(logits, tiny.test_labels).item()
        assert row.test_loss == pytest.approx(expected, rel=1e-5)


def test_bf16_is_near_fp32(tiny, monkeypatch):
    losses = []
    for dtype in (torch.bfloat16, torch.float32):
        for each in (module, wnlib.train):
            monkeypatch.setattr(each, "autocast_type", lambda _, dtype=dtype: dtype)
        (row,) = train(small(epochs=1), tiny)
        losses.append(row.train_loss)
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


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


def test_evaluation_takes_any_model():
    loss, error = evaluate(nn.Identity(), torch.eye(3).log().clamp(-50, 50), torch.arange(3))
    assert loss == pytest.approx(0, abs=1e-6)
    assert error == 0


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


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_absent_devices_are_refused(tiny, tmp_path, name):
    with pytest.raises(ValueError, match=f"^there is no {name} device here; use cpu, or auto$"):
        train(small(), tiny, tmp_path / "run", device=name)
    assert not (tmp_path / "run").exists()


def test_unknown_devices_are_refused():
    with pytest.raises(ValueError, match=r"^device is auto, cpu, cuda or mps, not 'tpu'$"):
        find_device("tpu")


def test_autocast_follows_the_hardware(monkeypatch):
    for native, dtype in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, n=native: n
        )
        assert autocast_type(torch.device("cuda")) is dtype
    assert autocast_type(torch.device("mps")) is torch.float32
    for found, dtype in (
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True, "avx512_bf16": False}, torch.bfloat16),
        ({"avx2": True}, torch.float32),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda f=found: f, raising=False)
        assert autocast_type(torch.device("cpu")) is dtype
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)  # before torch 2.8
    assert autocast_type(torch.device("cpu")) is torch.float32


def test_record_names_the_gpu(tiny, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    found = module.provenance(tiny, torch.device("cuda"))
    assert (found["device"], found["precision"]) == ("Some GPU", "float16")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_a_gpu_trains_and_goes_on(tiny, tmp_path, monkeypatch):
    monkeypatch.undo()
    before = torch.cuda.get_rng_state()
    first = train(small(), tiny, tmp_path, device="cuda")
    expected = [next(first), next(first)]
    first.close()
    rows = list(train(small(), tiny, tmp_path, device="cuda"))
    assert rows[:2] == expected
    assert len(rows) == 4
    assert all(row.train_loss < 23 for row in rows)
    assert torch.equal(torch.cuda.get_rng_state(), before)
