"""Whether training works on the device that is there: checks of a minute or two, and an estimate.

Each check is a function that says what it measured, or raises `Failed` or `NotHere`; `CHECKS` lists
them. All run on the sample that comes with the package.
"""

import copy
import dataclasses
import math
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wnlib.data import Cifar10, load_cifar10
from wnlib.init import data_dependent_init_, read_generators, write_generators
from wnlib.inputs import symmetric
from wnlib.lab.bench import peak_mb, steps, wait
from wnlib.lab.resume import out_of_memory, record, record_epochs
from wnlib.lab.runs import Run
from wnlib.layers import Norm
from wnlib.recipe import Recipe
from wnlib.train import (
    Row,
    Training,
    autocast_type,
    build,
    evaluate,
    find_device,
    layout,
    set_rates,
)

Step = Callable[..., tuple[Tensor, Tensor]]  # as `training_step`

# The largest errors beside fp32 on the CPU: of the loss, of the logits, of the gradient of each
# parameter, relative. Rounding also decides which of two pixels a pooling passes on, and bf16 so
# often that the gradient of a single layer is off by a fifth to a third.
BOUNDS = {
    torch.float32: (1e-4, 1e-4, 0.02),
    torch.float16: (1e-3, 0.01, 0.2),
    torch.bfloat16: (5e-3, 0.05, 0.5),
}
APART = 0.05  # of a step's length: by so much may two ways to take the same step be apart
REPEATED = 1e-3  # relative: kernels on a GPU add up in any order


class Failed(Exception):
    """A check found what should not be."""


class NotHere(Exception):
    """A check that this device, or this call, has no use for."""


@dataclass(frozen=True)
class Place:
    """Where the checks run, and on what."""

    device: torch.device
    width: int = 96
    compiled: bool = False
    step: Step | None = None  #: instead of the training's own: what the tests break

    @property
    def batch(self) -> int:
        """Images a step: few on a CPU, the recipe's elsewhere."""
        return 20 if self.device.type == "cpu" else 100

    def recipe(self, norm: Norm = Norm.WN_MOBN, **changes: Any) -> Recipe:
        """The paper's, for some epochs of eight steps; without whitening, which takes a minute."""
        few = {"batch_size": self.batch, "init_images": 2 * self.batch, "inputs": "symmetric"}
        return Recipe.paper(norm).replace(width=self.width, **few | {"epochs": 4} | changes)

    def data(self) -> Cifar10:
        """A part of the sample."""
        sample, count = load_cifar10(), 8 * self.batch
        parts = {"train_images": count, "train_labels": count, "test_images": 50, "test_labels": 50}
        cut = {name: getattr(sample, name)[:size] for name, size in parts.items()}
        return dataclasses.replace(sample, name="check", digest=f"check-{count}", **cut)

    def minibatches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B, 3, 32, 32) and labels (B,) on the device."""
        data = self.data()
        for x, y in zip(
            symmetric(data.train_images).split(self.batch),
            data.train_labels.split(self.batch),
            strict=True,
        ):
            yield x.to(self.device, memory_format=layout(self.device)), y.to(self.device)

    def training(self, recipe: Recipe, plain: bool = False) -> Training:
        """Initialized on a minibatch; `plain` with the plain step, else with the one to check."""
        training = Training(recipe, self.data(), self.device.type, self.compiled and not plain)
        training.step = self.step if self.step and not plain else training.step
        torch.manual_seed(1)
        data_dependent_init_(training.model, next(self.minibatches())[0])
        set_rates(training.optimizer, recipe, 0)
        training.model.train()
        return training


def _take(training: Training, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    loss, logits = training.step(training.model, training.optimizer, training.scaler, x, y)
    return loss.clone(), logits.clone()  # a graph overwrites them in the next step


def _bound(what: str, value: float, bound: float) -> str:
    if not value <= bound:  # NaN is neither
        raise Failed(f"{what} {value:.2g}, at most {bound:g} is allowed")
    return f"{what} {value:.2g}"


def _off(values: Tensor, true: Tensor) -> float:
    """The distance of the two, relative."""
    values, true = values.double().cpu(), true.double().cpu()
    return ((values - true).norm() / true.norm().clamp_min(1e-30)).item()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def step_beside_fp32(at: Place, norm: Norm) -> str:
    """Loss, logits and every gradient of a step, without noise, against fp32 on the CPU."""
    torch.manual_seed(0)
    model = build(at.recipe(norm, sigma=0.0, dropout=0.0)).train()
    x, y = (each.cpu() for each in next(at.minibatches()))
    data_dependent_init_(model, x)

    def grads(model: nn.Module, x: Tensor, y: Tensor, dtype: torch.dtype) -> list[Tensor]:
        with torch.autocast(x.device.type, dtype, enabled=dtype is not torch.float32):
            logits = model(x)
        loss = F.cross_entropy(logits.float(), y)
        return [loss, logits, *torch.autograd.grad(loss, list(model.parameters()))]

    true = grads(copy.deepcopy(model), x.contiguous(), y, torch.float32)
    names = [name for name, _ in model.named_parameters()]
    model = model.to(at.device, memory_format=layout(at.device))
    x, y = next(at.minibatches())
    said = []
    for dtype in dict.fromkeys((torch.float32, autocast_type(at.device))):
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            found = grads(copy.deepcopy(model), x, y, dtype)
        off = [_off(a, b) for a, b in zip(found, true, strict=True)]
        worst = max(range(2, len(off)), key=lambda i: math.inf if off[i] != off[i] else off[i])
        values = {"loss": off[0], "logits": off[1], f"gradient of {names[worst - 2]}": off[worst]}
        told = [
            _bound(f"{_name(dtype)}: {what} off by", value, bound)
            for (what, value), bound in zip(values.items(), BOUNDS[dtype], strict=True)
        ]
        said.append(f"{_name(dtype)} {told[-1].rpartition(' ')[2]}")
    return "gradients off by at most " + ", ".join(said)


def noise_and_dropout(at: Place) -> str:
    """Noise of its deviation, half of the units kept and doubled, new each time, from the seed."""
    recipe = at.recipe()
    model = build(recipe).to(at.device, memory_format=layout(at.device)).train()
    x, _ = next(at.minibatches())
    seen: list[list[Tensor]] = []
    for name in ("noise", "drop1", "drop2"):

        def look(_: object, given: tuple[Tensor], out: Tensor, name: str = name) -> None:
            before = given[0]
            drawn = out - before if name == "noise" else (out / (2 * before)).nan_to_num()
            seen[-1].append(drawn.detach().float().cpu())

        getattr(model, name).register_forward_hook(look)
    for seed in (0, None, 0):
        if seed is not None:
            torch.manual_seed(seed)
        seen.append([])
        with torch.no_grad():
            model(x)
    first, second, again = seen
    if any(not torch.equal(a, b) for a, b in zip(first, again, strict=True)):
        raise Failed("the same seed gives other noise")
    told = [_bound("deviation off by", abs(first[0].std().item() / recipe.sigma - 1), 0.03)]
    for a, b in zip(first, second, strict=True):
        for these, those in ((a, b), (a[0], a[1])):  # of two steps, of two images
            pair = torch.corrcoef(torch.stack([these.flatten(), those.flatten()]))
            _bound("noise or dropout goes with that before, by", pair[0, 1].abs().item(), 0.15)
    for masks in first[1:]:
        if not set(masks.unique().tolist()) <= {0.0, 1.0}:
            raise Failed("dropout does not double what it keeps")
        told.append(_bound("kept off by", abs(masks.mean().item() - 0.5), 0.02))
    return "new each step, the same from a seed; " + ", ".join(told)


def step_beside_plain(at: Place, norm: Norm) -> str:
    """The step, without noise, beside the plain one: twice, then with other rates, then with none.

    A distance is in lengths of the plain step. Evaluation comes in between.
    """
    recipe = at.recipe(norm, sigma=0.0, dropout=0.0)
    ours, plain = at.training(recipe), at.training(recipe, plain=True)
    batches = at.minibatches()
    largest = 0.0

    def both(what: str) -> None:
        nonlocal largest
        before = _flat(plain.model)
        (x, y) = next(batches)
        _, logits = _take(ours, x, y)
        _, true = _take(plain, x, y)
        length = (_flat(plain.model) - before).norm().item()
        apart = (_flat(ours.model) - _flat(plain.model)).norm().item() / length
        _bound(f"{what}: logits off by", _off(logits, true), BOUNDS[torch.bfloat16][1])
        _bound(f"{what}: weights apart by", apart, APART)
        largest = max(largest, apart)

    both("first step")
    both("second step")
    for (name, mine), true in zip(_state(ours), (t for _, t in _state(plain)), strict=True):
        _bound(f"second step: {name} off by", _off(mine, true), BOUNDS[torch.bfloat16][2])
    losses = [evaluate(t.model, *_held(at))[0] for t in (ours, plain)]
    _bound("evaluation in between: loss off by", abs(losses[0] / losses[1] - 1), 0.02)
    for training in (ours, plain):
        training.model.train()
        set_rates(training.optimizer, recipe.replace(lr=recipe.lr / 3), recipe.epochs // 2)
    both("another rate and β₁")
    for training in (ours, plain):
        for group in training.optimizer.param_groups:
            group["lr"] = 0.0
    before = _flat(ours.model)
    _take(ours, *next(batches))
    if not torch.equal(_flat(ours.model), before):
        raise Failed("a rate of 0 moves the weights")
    return f"weights apart by {largest:.2g} of a step at most"


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().double().cpu() for p in model.parameters()])


def _state(training: Training) -> Iterator[tuple[str, Tensor]]:
    """Buffers and moments."""
    yield from training.model.named_buffers()
    for name, p in training.model.named_parameters():
        state = training.optimizer.state[p]
        for moment in ("exp_avg", "exp_avg_sq"):
            yield f"{moment} of {name}", state[moment]


def _held(at: Place) -> tuple[Tensor, Tensor]:
    data = at.data()
    x = symmetric(data.test_images).to(at.device, memory_format=layout(at.device))
    return x, data.test_labels.to(at.device)


def step_s_noise(at: Place) -> str:
    """How a step's logits vary with noise and dropout, the weights frozen, beside the plain one's.

    A frozen dropout, or noise of another strength, gives another variance.
    """
    count = 12 if at.device.type == "cpu" else 40
    x, y = next(at.minibatches())

    def logits(plain: bool, seed: int) -> Tensor:
        training = at.training(at.recipe(), plain)
        for group in training.optimizer.param_groups:
            group["lr"] = 0.0
        torch.manual_seed(seed)
        return torch.stack([_take(training, x, y)[1].float() for _ in range(count)])

    ours, plain, again = logits(False, 2), logits(True, 3), logits(False, 2)
    variance = [(each.var(0).mean() / plain.var(0).mean()).item() for each in (ours, plain)]
    _bound("from the same seed, logits off by", _off(again, ours), REPEATED)
    told = _bound("variance of the logits off by", abs(variance[0] - 1), 0.2)
    # Of two means over so many steps the squared distance is expected to be 2/n of the variance.
    shift = (ours.mean(0) - plain.mean(0)).square().mean() / (2 * plain.var(0).mean() / count)
    return told + ", " + _bound("of their mean by, against chance,", shift.item(), 3)


def no_synchronization(at: Place) -> str:
    """From its second step to its last, an epoch never waits for the device."""
    if at.device.type != "cuda":
        raise NotHere("only CUDA tells")
    training = at.training(at.recipe(epochs=1))
    taken, last = 0, 8

    def tick() -> None:
        nonlocal taken
        taken += 1
        torch.cuda.set_sync_debug_mode("error" if 2 <= taken < last else "default")

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that this way to find out is new
            next(training.epochs(tick))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return f"{last - 2} steps went on by themselves"


def loss_falls(at: Place) -> str:
    """In the precision that training has here."""
    rows = list(at.training(at.recipe(epochs=3)).epochs())
    first, last = rows[0].train_loss, rows[-1].train_loss
    if not last < 0.98 * first:
        raise Failed(f"the loss goes from {first:.3f} to {last:.3f} in three epochs")
    return f"{_name(autocast_type(at.device))}: {first:.3f} to {last:.3f}"


def loss_falls_in_fp16(at: Place) -> str:
    """With a scaler, as on GPUs without bf16; its scale settles."""
    if at.device.type == "mps":
        raise NotHere("training there is in fp32")
    small = at.device.type == "cpu"  # which has no fp16: it is slow there
    at = dataclasses.replace(at, width=min(at.width, 8)) if small else at
    training = at.training(at.recipe(), plain=True)
    scaler = torch.amp.GradScaler(at.device.type)
    losses, scales = [], []
    for _ in range(3):
        for x, y in at.minibatches():
            with torch.autocast(at.device.type, torch.float16):
                logits = training.model(x)
            loss = F.cross_entropy(logits.float(), y)
            training.optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(training.optimizer)
            scaler.update()
            losses.append(loss.detach())
            scales.append(scaler.get_scale())
    first, last = (torch.stack(part).mean().item() for part in (losses[:8], losses[-8:]))
    if not last < 0.98 * first:
        raise Failed(f"the loss goes from {first:.3f} to {last:.3f} in three epochs")
    if not scales[-1] == scales[-8] >= 1:
        raise Failed(f"the scale is at {scales[-1]:g} and does not settle")
    return f"{first:.3f} to {last:.3f}, the scale settles at {scales[-1]:g}"


def stop_and_resume(at: Place) -> str:
    """Here, and from the CPU to the device and back."""
    data, recipe = at.data(), at.recipe(epochs=3)
    options: dict[str, Any] = {"compiled": at.compiled}
    with tempfile.TemporaryDirectory(prefix="wnlib-") as name:
        folder = Path(name)

        def one(where: str, device: str) -> None:
            rows = record_epochs(recipe, data, folder / where, device=device, **options)
            for _ in range(len(_rows(folder / where)) + 1):
                next(rows)
            rows.close()

        whole = record(recipe, data, folder / "whole", device=at.device.type, **options).rows
        one("stopped", at.device.type)
        rest = record(recipe, data, folder / "stopped", device=at.device.type, **options).rows
        if at.device.type == "cpu":
            if [row[:-1] for row in rest] != [row[:-1] for row in whole]:
                raise Failed("a stopped run goes on to other rows")
            return "the same rows, bit for bit"
        told = _bound("losses off by", _losses_off(rest, whole), 0.05)
        for device in ("cpu", at.device.type, "cpu"):
            one("wandering", device)
        _bound(
            "CPU to device and back: losses", _losses_off(_rows(folder / "wandering"), whole), 0.2
        )
    return told + ", also from the CPU and back"


def _rows(folder: Path) -> list[Row]:
    return Run.load(folder).rows if (folder / "run.json").exists() else []


def _losses_off(rows: Sequence[Row], true: Sequence[Row]) -> float:
    """The largest, relative; infinite if there are fewer."""
    if len(rows) != len(true):
        return math.inf
    return max(abs(a.train_loss / b.train_loss - 1) for a, b in zip(rows, true, strict=True))


def memory_is_flat(at: Place) -> str:
    """Over the epochs after the first two."""
    used = []
    for _ in at.training(at.recipe(epochs=4)).epochs():
        wait(at.device)
        used.append(_memory(at.device))
        if used[-1] is None:
            raise NotHere("nothing tells a process's memory")
    growth = used[-1] / used[1] - 1
    return f"{used[-1]:.0f} MB, " + _bound("grown by", max(growth, 0.0), 0.05)


def _memory(device: torch.device) -> float | None:
    """In MB: what is allocated on a GPU, what this process has on a CPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated() / 1e6
    if device.type == "mps":
        return torch.mps.current_allocated_memory() / 1e6
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if "VmRSS" in line)


def how_fast(at: Place) -> str:
    """A step's time, and that of the paper's five runs."""
    return repr(estimate(at.recipe().replace(epochs=200, batch_size=100), device=at.device.type))


@dataclass(frozen=True)
class Estimate:
    """What a few steps say about how long training takes here: an estimate, no record."""

    card: str  #: the device's name
    precision: str  #: that convolutions run in
    ms_per_step: float  #: milliseconds, mean of the configurations
    hours: float  #: that all the runs take, evaluation included
    peak_mb: float | None  #: of the device's memory, or of this process's; None if unknown
    what: str  #: the runs, in words

    def __repr__(self) -> str:
        memory = "" if self.peak_mb is None else f", {self.peak_mb:.0f} MB at most"
        return (
            f"{self.card}, {self.precision}: {self.ms_per_step:.1f} ms a step{memory}. {self.what} "
            f"take about {_duration(self.hours)}: an estimate, from a few steps on this device."
        )


def _duration(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{max(1, round(60 * hours))} minutes"


def card(device: torch.device) -> str:
    """The device's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()})"


def estimate(
    recipe: Recipe,
    norms: Sequence[Norm] = tuple(Norm),
    device: str = "auto",
    *,
    data: Cifar10 | None = None,
    compiled: bool = False,
) -> Estimate:
    """Time about twenty steps on this very device, and say how long the runs will take.

    Args:
        recipe: width, batch size and epochs count; the configuration is that of `norms`.
        norms: the configurations, one run each.
        device: "auto", "cpu", "cuda" or "mps"; "auto" takes a GPU if there is one.
        data: its number of images counts; by default all of CIFAR-10.
        compiled: let torch compile the step.

    Raises:
        ValueError: no such device.
    """
    where = find_device(device)
    sample, batch = load_cifar10(), min(recipe.batch_size, 2000)
    images = symmetric(sample.train_images).to(where, memory_format=layout(where))
    labels = sample.train_labels.to(where)
    trained, tested = (len(data.train_images), len(data.test_images)) if data else (50_000, 10_000)
    warm, count = (2, 4) if where.type == "cpu" else (5, 20)
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    taken, evaluated = [], []
    theirs = read_generators(where)
    try:
        for norm in norms:
            each = Recipe.paper(norm).replace(width=recipe.width, batch_size=batch)
            model = build(each)
            stepping = steps(model, each, images, labels, compiled)
            for _ in range(warm):
                next(stepping)
            wait(where)
            start = time.perf_counter()
            for _ in range(count):
                next(stepping)
            wait(where)
            between = time.perf_counter()
            evaluate(model, images[:100], labels[:100])
            taken.append((between - start) / count)
            evaluated.append((time.perf_counter() - between) / 100)
    finally:
        write_generators(theirs)
    epoch = sum(taken) * (trained // batch) + sum(evaluated) * tested
    memory = torch.cuda.max_memory_allocated() / 1e6 if where.type == "cuda" else peak_mb()
    runs = f"{len(norms)} run{'s' * (len(norms) > 1)} of {recipe.epochs} epochs, width "
    return Estimate(
        card(where),
        _name(autocast_type(where)),
        1e3 * sum(taken) / len(norms),
        epoch * recipe.epochs / 3600,
        memory,
        f"{runs}{recipe.width}, on {trained:,} images",
    )


CHECKS: dict[str, Callable[[Place], str]] = {
    **{f"step, {n}": partial(step_beside_fp32, norm=n) for n in Norm},
    "noise, dropout": noise_and_dropout,
    **{f"update, {n}": partial(step_beside_plain, norm=n) for n in (Norm.BN, Norm.WN_MOBN)},
    "noise in a step": step_s_noise,
    "no waiting": no_synchronization,
    "loss falls": loss_falls,
    "fp16": loss_falls_in_fp16,
    "stop, resume": stop_and_resume,
    "memory": memory_is_flat,
    "speed": how_fast,
}


class Result(NamedTuple):
    """One check."""

    name: str
    outcome: str  #: "passed", "failed" or "not here"
    said: str  #: what was measured, or why it failed
    seconds: float


@dataclass
class Report:
    """What passed; a notebook and `print` show it as a table."""

    device: str  #: its name
    torch: str  #: torch's version
    precision: str  #: that convolutions run in
    compiled: bool
    results: list[Result] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all(result.outcome != "failed" for result in self.results)

    def __repr__(self) -> str:
        head = f"{self.device}, torch {self.torch}, {self.precision}" + ", compiled" * self.compiled
        lines = [f"{r.outcome:9} {r.name:16} {r.said}" for r in self.results]
        failed = sum(r.outcome == "failed" for r in self.results)
        end = f"{failed} of {len(lines)} checks failed" if failed else "Training works here."
        return "\n".join([head, *lines, end])


@contextmanager
def _generators_kept(device: torch.device) -> Iterator[None]:
    theirs = read_generators(device)
    try:
        yield
    finally:
        write_generators(theirs)


def check(
    device: str = "auto",
    *,
    width: int = 96,
    compiled: bool = False,
    say: Callable[[str], object] = lambda text: None,
) -> Report:
    """Check that training works on this device, without a download: a minute or two.

    Args:
        device: "auto", "cpu", "cuda" or "mps"; "auto" takes a GPU if there is one.
        width: of the networks, the paper's by default.
        compiled: check the compiled step.
        say: is told what is being checked.

    Raises:
        ValueError: no such device.
    """
    at = Place(find_device(device), width, compiled)
    report = Report(card(at.device), torch.__version__, _name(autocast_type(at.device)), compiled)
    with _generators_kept(at.device):
        for name, function in CHECKS.items():
            say(name)
            report.results.append(_result(name, function, at))
    return report


def _result(name: str, function: Callable[[Place], str], at: Place) -> Result:
    start = time.perf_counter()
    try:
        outcome, said = "passed", function(at)
    except NotHere as error:
        outcome, said = "not here", str(error)
    except Exception as error:
        why = "there is not enough memory" if out_of_memory(error) else str(error)
        first = why.strip().partition("\n")[0]
        kind = "" if isinstance(error, Failed) else f"{type(error).__name__}: "
        outcome, said = "failed", kind + first
    return Result(name, outcome, said, time.perf_counter() - start)
