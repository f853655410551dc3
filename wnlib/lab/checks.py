"""What must hold on a device for training to work there.

Each check is a function that says what it measured, or raises `Failed` or `NotHere`; `CHECKS` lists
them. All run on the sample that comes with the package.
"""

import copy
import dataclasses
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn import functional as F

from wnlib.data import Cifar10, load_cifar10
from wnlib.init import data_dependent_init_
from wnlib.inputs import prepare
from wnlib.lab.bench import peak_mb, wait
from wnlib.lab.estimates import estimate
from wnlib.lab.records import Run, record_epochs, restore
from wnlib.layers import Norm
from wnlib.training import Recipe, Training, autocast_type, build, evaluate, layout, training_step

# The largest errors beside fp32 on the CPU: of the loss, of the logits, of each parameter's
# gradient, relative. Rounding decides, too, which of two pixels a pooling passes on: in bf16 so
# often that a layer's gradient was seen to be off by a fifth, in narrow networks by half.
BOUNDS = {
    torch.float32: (1e-4, 1e-3, 0.1),
    torch.float16: (1e-3, 0.02, 0.4),
    torch.bfloat16: (5e-3, 0.05, 0.6),
}
SCALE = 1024.0  # of a loss in fp16: no gradient is lost, and no first step left out
APART = 0.01  # of two ways to take the same step, in its length; another minibatch makes a tenth
VARIANCE = 0.15  # of a step's logits, relative; without the noise on the images it is 0.3 less
Step = Callable[..., tuple[Tensor, Tensor]]  # as `training_step`


class Failed(Exception):
    """A check found what should not be."""


class NotHere(Exception):
    """This device has no use for a check, or no means."""


@dataclass(frozen=True)
class Place:
    """Where the checks run, and on what."""

    device: torch.device
    width: int = 96
    compiled: bool = False
    step: Step | None = None  #: to be checked instead of wnlib's

    @property
    def batch(self) -> int:
        """Images a step: few on a CPU, elsewhere the paper's."""
        return 20 if self.device.type == "cpu" else 100

    def recipe(self, norm: Norm = Norm.WN_MOBN, **changes: Any) -> Recipe:
        """The paper's, for epochs of eight calm steps; without whitening, which takes time."""
        few = {"batch_size": self.batch, "init_images": 2 * self.batch, "inputs": "symmetric"}
        few |= {"width": self.width, "epochs": 4, "lr": 0.0003}
        return Recipe.paper(norm).replace(**few | changes)

    @cached_property
    def data(self) -> Cifar10:
        """A part of the sample."""
        sample, count = load_cifar10(), 8 * self.batch
        parts = {"train_images": count, "train_labels": count, "test_images": 50, "test_labels": 50}
        cut = {name: getattr(sample, name)[:size] for name, size in parts.items()}
        return dataclasses.replace(sample, name="check", digest=f"check-{count}", **cut)

    @cached_property
    def minibatches(self) -> list[tuple[Tensor, Tensor]]:
        """Images (B, 3, 32, 32) and labels (B,) on the device."""
        images = prepare(self.data, "symmetric")[0]
        images = images.to(self.device, memory_format=layout(self.device))
        labels = self.data.train_labels.to(self.device)
        return list(zip(images.split(self.batch), labels.split(self.batch), strict=True))

    def training(self, recipe: Recipe, step: Step | None = None) -> Training:
        """An initialized one, with this step, else with the one to be checked."""
        torch.compiler.reset()  # only so many compiled steps are kept
        training = Training(recipe, self.data, self.device.type, self.compiled and not step)
        training.step = step or self.step or training.step
        options = {"init_scale": SCALE, "enabled": training.scaler.is_enabled()}
        training.scaler = GradScaler(self.device.type, **options)
        torch.manual_seed(1)
        data_dependent_init_(training.model, self.minibatches[0][0])
        _rates(training, recipe.lr_at(0), recipe.beta1_at(0))
        training.model.train()
        return training


def _rates(training: Training, lr: float, beta1: float) -> None:
    training.optimizer.param_groups[0].update(lr=lr, betas=(beta1, 0.999))


def _take(training: Training, x: Tensor, y: Tensor) -> Tensor:
    """One step; its logits, which the next step of a graph would overwrite."""
    return training.step(training.net, training.optimizer, training.scaler, x, y)[1].clone()


def _bound(what: str, value: float, bound: float) -> str:
    if not value <= bound:  # NaN is neither
        raise Failed(f"{what} {value:.2g}; at most {bound:g} is allowed")
    return f"{what} {value:.2g}"


def _off(values: Tensor, true: Tensor) -> float:
    """The distance of the two, relative."""
    values, true = values.detach().cpu().double(), true.detach().cpu().double()
    return ((values - true).norm() / true.norm().clamp_min(1e-30)).item()


def step_beside_fp32(at: Place, norm: Norm) -> str:
    """Loss, logits and every gradient of a step, without noise, against fp32 on the CPU."""
    x, y = at.minibatches[0]
    torch.manual_seed(0)
    model = build(at.recipe(norm, sigma=0.0, dropout=0.0)).train()
    data_dependent_init_(model, x.cpu())

    def gradients(model: nn.Module, x: Tensor, y: Tensor, dtype: torch.dtype) -> list[Tensor]:
        with torch.autocast(x.device.type, dtype, enabled=dtype is not torch.float32):
            logits = model(x)
        loss = F.cross_entropy(logits.float(), y)
        grads = torch.autograd.grad(loss * SCALE, list(model.parameters()))
        return [loss, logits, *(grad / SCALE for grad in grads)]

    true = gradients(model, x.cpu().contiguous(), y.cpu(), torch.float32)
    names = ["loss", "logits", *(f"gradient of {name}" for name, _ in model.named_parameters())]
    other = copy.deepcopy(model).to(at.device).to(memory_format=layout(at.device))
    said = []
    for dtype in dict.fromkeys((torch.float32, autocast_type(at.device))):
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            found = gradients(other, x, y, dtype)
        off = [_off(a, b) for a, b in zip(found, true, strict=True)]
        kind = str(dtype).removeprefix("torch.")
        for i, name in enumerate(names):
            _bound(f"{kind}: {name} off by", off[i], BOUNDS[dtype][min(i, 2)])
        said.append(f"{kind} {off[1]:.1g} and {max(off[2:]):.1g}")
    return "logits and gradients off by " + ", ".join(said)


def noise_and_dropout(at: Place) -> str:
    """Noise of its deviation, half of the units kept and doubled, new each time, from the seed."""
    recipe = at.recipe()
    model = build(recipe).to(at.device).to(memory_format=layout(at.device)).train()
    drawn: list[list[Tensor]] = []
    for name in ("noise", "drop1", "drop2"):

        def look(_: object, given: tuple[Tensor], out: Tensor, name: str = name) -> None:
            one = out - given[0] if name == "noise" else (out / (2 * given[0])).nan_to_num()
            drawn[-1].append(one.detach().float().cpu())

        getattr(model, name).register_forward_hook(look)
    for seed in (0, None, 0):
        drawn.append([])
        if seed is not None:
            torch.manual_seed(seed)
        with torch.no_grad():
            model(at.minibatches[0][0])
    first, second, again = drawn
    if not all(torch.equal(a, b) for a, b in zip(first, again, strict=True)):
        raise Failed("the same seed gives other noise or dropout")
    for a, b in zip(first, second, strict=True):
        for these, those in ((a, b), (a[0], a[1])):  # of two steps, of two images
            both = torch.corrcoef(torch.stack([these.flatten(), those.flatten()]))
            _bound("noise or dropout repeats itself: correlation", both[0, 1].abs().item(), 0.15)
    told = [_bound("deviation off by", abs(first[0].std().item() / recipe.sigma - 1), 0.03)]
    for kept in first[1:]:
        if not set(kept.unique().tolist()) <= {0.0, 1.0}:
            raise Failed("dropout does not double what it keeps")
        told.append(_bound("kept off by", abs(kept.mean().item() - 0.5), 0.03))
    return "new each step, the same from a seed; " + ", ".join(told)


def step_beside_plain(at: Place, norm: Norm) -> str:
    """The step, without noise, beside the plain one: twice, then at other rates, then at none.

    In fp64, which autocast leaves alone: in bf16, rounding alone turns Adam's first steps by 0.4 of
    their length, and hides a wrong β₁. Apple's GPUs have no fp64, and train in fp32 anyway.
    """
    if at.device.type == "cpu":
        at = dataclasses.replace(at, width=min(at.width, 24))
    recipe = at.recipe(norm, sigma=0.0, dropout=0.0)
    wide = torch.float32 if at.device.type == "mps" else torch.float64
    ours, plain = both = at.training(recipe), at.training(recipe, training_step)
    batches = [(x.to(wide), y) for x, y in at.minibatches]
    apart = [0.0]
    for training in both:
        training.model.to(wide)

    def take(what: str, batch: int) -> None:
        before = _weights(plain)
        logits, true = (_take(training, *batches[batch]) for training in both)
        length = (_weights(plain) - before).norm()
        apart.append(((_weights(ours) - _weights(plain)).norm() / length).item())
        _bound(f"{what}: logits off by", _off(logits, true), APART)
        _bound(f"{what}: weights apart by", apart[-1], APART)

    take("first step", 0)
    take("second step", 1)
    for (name, mine), (_, true) in zip(_state(ours), _state(plain), strict=True):
        _bound(f"second step: {name} off by", _off(mine, true), APART)
    losses = [evaluate(training.model, *batches[4])[0] for training in both]
    _bound("evaluation in between: loss off by", abs(losses[0] / losses[1] - 1), APART)
    for training in both:
        training.model.train()
        _rates(training, recipe.lr / 3, recipe.late_beta1)
    take("another rate and β₁", 2)
    before = _weights(ours)
    _rates(ours, 0.0, recipe.late_beta1)
    _take(ours, *batches[3])
    if not torch.equal(_weights(ours), before):
        raise Failed("a rate of 0 moves the weights")
    return f"weights apart by {max(apart):.2g} of a step at most"


def _weights(training: Training) -> Tensor:
    return torch.cat([p.detach().flatten().double().cpu() for p in training.model.parameters()])


def _state(training: Training) -> Iterator[tuple[str, Tensor]]:
    """Buffers and moments."""
    yield from training.model.named_buffers()
    for name, parameter in training.model.named_parameters():
        for moment in ("exp_avg", "exp_avg_sq"):
            yield f"{moment} of {name}", training.optimizer.state[parameter][moment]


def step_s_noise(at: Place) -> str:
    """How a step's logits vary with noise and dropout, at a rate of 0, beside the plain step's."""
    count = 12 if at.device.type == "cpu" else 40

    def logits(step: Step | None, seed: int) -> Tensor:
        training = at.training(at.recipe(), step)
        _rates(training, 0.0, 0.9)
        torch.manual_seed(seed)
        return torch.stack([_take(training, *at.minibatches[0]).float() for _ in range(count)])

    ours, again, plain = logits(None, 2), logits(None, 2), logits(training_step, 3)
    _bound("from the same seed, logits off by", _off(again, ours), 1e-3)
    chance = plain.var(0).mean()
    told = _bound("variance off by", abs((ours.var(0).mean() / chance).item() - 1), VARIANCE)
    # Of two means over so many steps the squared distance is expected to be 2/n of the variance.
    shift = (ours.mean(0) - plain.mean(0)).square().mean() / (2 * chance / count)
    return f"{told}, " + _bound("mean off, in units of chance, by", shift.item(), 3)


def no_waiting(at: Place) -> str:
    """From its second step to its last, an epoch never waits for the device."""
    if at.device.type != "cuda":
        raise NotHere("only CUDA tells when a step waits for it")
    training, taken = at.training(at.recipe(epochs=1)), []

    def tick() -> None:
        taken.append(1)
        torch.cuda.set_sync_debug_mode("error" if 2 <= len(taken) < 8 else "default")

    try:
        with warnings.catch_warnings(action="ignore"):  # that torch may overlook some
            next(training.epochs(tick))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "no step waits for the device"


def _fallen(losses: Sequence[float]) -> str:
    if not losses[-1] < 0.98 * losses[0]:
        raise Failed(f"the loss goes from {losses[0]:.3f} to {losses[-1]:.3f} in three epochs")
    return f"loss {losses[0]:.3f} to {losses[-1]:.3f}"


def loss_falls(at: Place) -> str:
    """In three epochs, in the precision that training has here."""
    return _fallen([row.train_loss for row in at.training(at.recipe(epochs=3, lr=0.001)).epochs()])


def loss_falls_in_fp16(at: Place) -> str:
    """As on GPUs without bf16, with a scaler, whose scale settles."""
    if at.device.type == "mps":
        raise NotHere("training is in fp32 there")
    if at.device.type == "cpu":  # which has no arithmetic in fp16
        at = dataclasses.replace(at, width=min(at.width, 8))
    scaler = GradScaler(at.device.type)
    training = at.training(at.recipe(lr=0.001), training_step)
    losses, scales = [], []
    for _ in range(3):
        sums = []
        for x, y in at.minibatches:
            with torch.autocast(at.device.type, torch.float16):
                logits = training.model(x)
            sums.append(F.cross_entropy(logits.float(), y))
            training.optimizer.zero_grad()
            scaler.scale(sums[-1]).backward()
            scaler.step(training.optimizer)
            scaler.update()
            scales.append(scaler.get_scale())
        losses.append(torch.stack(sums).mean().item())
    if not scales[-1] == scales[-8] >= 1:
        raise Failed(f"the scale does not settle; it is at {scales[-1]:g}")
    return f"{_fallen(losses)}, the scale settles at {scales[-1]:g}"


def stop_and_resume(at: Place) -> str:
    """An epoch here and an epoch there: on the device, and from the CPU to it and back."""
    recipe, here, moved = at.recipe(epochs=3), at.device.type, [0.0]

    def train(folder: Path, devices: Sequence[str]) -> list[float]:
        """All but the last device take one epoch; the training losses."""
        for epoch, device in enumerate(devices, 1):
            options = {"device": device, "compiled": at.compiled and device == here}
            rows = record_epochs(recipe, at.data, folder, **options)
            for _ in range(epoch if epoch < len(devices) else recipe.epochs):
                next(rows)
            rows.close()
            run = Run.load(folder)
            training = Training(recipe, at.data, here)
            restore(folder, run, training)
            images = prepare(at.data, "symmetric")[1].to(at.device, memory_format=layout(at.device))
            loss, _ = evaluate(training.model, images, at.data.test_labels.to(at.device))
            moved.append(abs(loss / run.rows[-1].test_loss - 1))
        return [row.train_loss for row in Run.load(folder).rows]

    with tempfile.TemporaryDirectory(prefix="wnlib-") as name:
        stopped = train(Path(name, "stopped"), [here, here])
        whole = train(Path(name, "whole"), [here])
        train(Path(name, "moved"), ["cpu", here, "cpu"])
    off = max(abs(a / b - 1) for a, b in zip(stopped, whole, strict=True))
    told = _bound("losses off by", off, 0.0 if here == "cpu" else 0.05)
    return f"{told}; " + _bound("test loss of what is restored off by", max(moved), 0.02)


def memory_is_flat(at: Place) -> str:
    """After the first two epochs of four: what is allocated on a GPU, a process's peak on a CPU."""
    readers = {"cuda": torch.cuda.memory_allocated, "mps": torch.mps.current_allocated_memory}
    used = []
    for _ in at.training(at.recipe()).epochs():
        wait(at.device)
        read = readers.get(at.device.type)
        used.append(read() / 1e6 if read else peak_mb())
    if used[-1] is None:
        raise NotHere("nothing tells here what memory a process has")
    growth = _bound("grown by", max(used[-1] / used[1] - 1, 0.0), 0.05)
    return f"{used[-1]:.0f} MB, {growth}"


def speed(at: Place) -> str:
    """A step's time, and that of the paper's five runs."""
    paper = Recipe.paper(Norm.WN).replace(width=at.width)
    return repr(estimate(paper, device=at.device.type, compiled=at.compiled))


CHECKS: dict[str, Callable[[Place], str]] = {
    **{f"step, {norm}": partial(step_beside_fp32, norm=norm) for norm in Norm},
    "noise, dropout": noise_and_dropout,
    **{f"update, {n}": partial(step_beside_plain, norm=n) for n in (Norm.BN, Norm.WN_MOBN)},
    "noise in a step": step_s_noise,
    "no waiting": no_waiting,
    "loss falls": loss_falls,
    "fp16": loss_falls_in_fp16,
    "stop, resume": stop_and_resume,
    "memory": memory_is_flat,
    "speed": speed,
}
