"""A training run: the recipe that defines it, one step, one loop, one state, on any device.

Convolutions run in bf16 where the hardware has it, in fp16 with a gradient scaler on older GPUs;
weights, the normalizations' statistics, loss and optimizer are in fp32.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wnlib.data import Cifar10
from wnlib.init import data_dependent_init_, generators
from wnlib.inputs import Inputs, prepare
from wnlib.layers import Norm, Plain, Scale
from wnlib.model import ConvPoolCNNC, GaussianNoise

DIVERGED = 10 * math.log(10)  # ten times the loss of guessing: no network comes back from it


@dataclass(frozen=True)
class Recipe:
    """One training run. `Recipe.paper` and `Recipe.report` fill it in as their sources have it.

    The defaults are the paper's. In parentheses: the section, or "code", where its released code
    (github.com/openai/weightnorm, folder lasagne) says more. ValueError: a value is impossible.
    """

    norm: Norm  #: one of the five configurations
    name: str = "paper"  #: where the settings come from
    width: int = 96  #: channels of the first three layers, half those of the others
    scale: Scale = "linear"  #: weight norm's g, or s with g = exp(s) (2)
    plain: Plain = "divided"  #: init divides W, or sets a g beside it

    inputs: Inputs = "zca"  #: symmetric, then ZCA whitening (5.1; its 1e-5 is the code's)
    sigma: float = 0.15  #: standard deviation of the noise on the inputs, in training (5.1)
    dropout: float = 0.5  #: after each of the two poolings (code)
    bn_eps: float = 1e-6  #: added to batch norm's variance (code)
    init_images: int = 500  #: minibatch of data-dependent initialization, 0 for none (code)

    epochs: int = 200  #: passes over the training images (5.1)
    batch_size: int = 100  #: images per step (5.1)
    lr: float = 0.003  #: Adam's learning rate (5.1)
    decay_from: float = 0.5  #: part of the epochs after which lr falls to 0, 1 for never (5.1)
    beta1: float = 0.9  #: Adam's β₁, before that (5.1)
    late_beta1: float = 0.5  #: and after (5.1)
    switch_rate: float = 1.0  #: lr is multiplied by it from the first epoch with `late_beta1` on
    adam_eps: float = 1e-4  #: the code adds 1e-8 under the root, torch adds eps outside of it
    seed: int = 0  #: of all generators of the run

    def __post_init__(self) -> None:
        def whole(number: object, least: int, most: int = 10**5) -> bool:
            return type(number) is int and least <= number <= most

        object.__setattr__(self, "norm", norm := Norm(self.norm))
        scales = ["linear", "exp"] if norm.weight_normalized else ["linear"]
        plains = ["divided", "frozen"] if norm in (Norm.NONE, Norm.MOBN) else ["divided"]
        for field, holds, what in (
            ("scale", self.scale in scales, f"{' or '.join(scales)} with {norm.label}"),
            ("plain", self.plain in plains, f"{' or '.join(plains)} with {norm.label}"),
            ("inputs", self.inputs in get_args(Inputs), " or ".join(get_args(Inputs))),
            ("width", whole(self.width, 1), "a whole number from 1 to 100,000"),
            ("epochs", whole(self.epochs, 1), "a whole number from 1 to 100,000"),
            ("batch_size", whole(self.batch_size, 1), "a whole number from 1 to 100,000"),
            ("lr", 0 < self.lr < math.inf, "a number above 0"),
            ("beta1", 0 <= self.beta1 < 1, "from 0 to below 1"),
            ("late_beta1", 0 <= self.late_beta1 < 1, "from 0 to below 1"),
            ("seed", whole(self.seed, 0, 2**64 - 1), "a whole number from 0 to 2⁶⁴ − 1"),
            ("init_images", whole(self.init_images, 0), "a whole number from 0 to 100,000"),
            ("decay_from", 0 <= self.decay_from <= 1, "from 0 to 1"),
        ):
            if not holds:
                raise ValueError(f"{field} is {what}, not {getattr(self, field)!r}")

    @classmethod
    def paper(cls, norm: Norm | str) -> "Recipe":
        """The paper's settings: only "plain" has a lower rate (5.1), and a frozen g (code).

        On the sample a short run needs ``late_beta1=0.9``: few survive the fall of β₁ there.
        """
        plain = Norm(norm) is Norm.NONE
        return cls(Norm(norm), lr=0.0003, plain="frozen") if plain else cls(Norm(norm))

    @classmethod
    def report(cls, norm: Norm | str) -> "Recipe":
        """The report's settings, from its text and its released code, without that code's slips."""
        return cls(
            Norm(norm),
            name="report",
            inputs="unit",  # images / 255, no whitening (Section 5)
            lr=0.001,  # constant (7)
            decay_from=1.0,
            adam_eps=1e-8,  # TensorFlow's default (code)
            bn_eps=1e-3,  # (code)
            init_images=500 if Norm(norm).weight_normalized else 0,  # (6.C, code)
        )

    def replace(self, **changes: Any) -> "Recipe":
        """A copy with some values changed."""
        return replace(self, **changes)

    def lr_at(self, epoch: int) -> float:
        """The learning rate of epoch e from 0: of 200, lr · min(2 − e/100, 1), as in the code."""
        rest = self.epochs * (1 - self.decay_from)
        lr = self.lr * (min((self.epochs - epoch) / rest, 1.0) if rest else 1.0)
        return lr * self.switch_rate if epoch >= self.epochs * self.decay_from else lr

    def beta1_at(self, epoch: int) -> float:
        """Adam's β₁ of epoch e from 0."""
        return self.late_beta1 if epoch >= self.epochs * self.decay_from else self.beta1


class Row(NamedTuple):
    """One epoch. What was not recorded is NaN."""

    epoch: int  #: from 1
    lr: float  #: learning rate
    train_loss: float  #: mean over the epoch's minibatches, noise and dropout on
    train_error: float  #: likewise
    test_loss: float  #: over all test images
    test_error: float  #: likewise
    seconds: float  #: training and evaluation


class State(StrEnum):
    """How a run stands after its last row."""

    INTERRUPTED = "interrupted"  #: it can go on
    FINISHED = "finished"
    DIVERGED = "diverged"  #: in its last epoch


def state_after(recipe: Recipe, row: Row) -> State:
    """How a run stands after an epoch; it has diverged if no network recovers from there."""
    if not (row.train_loss < DIVERGED and math.isfinite(row.test_loss)):  # NaN is neither
        return State.DIVERGED
    return State.FINISHED if row.epoch == recipe.epochs else State.INTERRUPTED


def find_device(name: str = "auto") -> torch.device:
    """The device of that name, or for "auto" the best one there is; ValueError if there is none."""
    gpus = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    here = [*(gpu for gpu, found in gpus.items() if found), "cpu"]  # the best first
    if name not in ("auto", *here):
        raise ValueError(f"there is no device {name!r} here; use auto or {' or '.join(here)}")
    return torch.device(here[0] if name == "auto" else name)


def autocast_type(device: torch.device) -> torch.dtype:
    """The type that convolutions run in: the fastest that the hardware has and training bears."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    cpu = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.8 and later
    fast = cpu.get("amx_bf16") or ("AMD" in cpu.get("cpu_name", "") and cpu.get("avx512_bf16"))
    return torch.bfloat16 if device.type == "cpu" and fast else torch.float32  # Intel needs AMX


def layout(device: torch.device) -> torch.memory_format:
    """Channels last; not on Apple's GPU, where batch norm then has wrong gradients."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def build(recipe: Recipe) -> ConvPoolCNNC:
    """The recipe's network, its weights drawn from torch's generator."""
    options = {name: getattr(recipe, name) for name in ("dropout", "bn_eps", "scale", "plain")}
    return ConvPoolCNNC(recipe.norm, recipe.width, noise=GaussianNoise(recipe.sigma), **options)


def forward(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy and number of errors, both (), of images (B, 3, 32, 32), labels (B,)."""
    dtype = autocast_type(x.device)
    # Without a cache: a caller's own autocast would keep the weights of an earlier step in it.
    with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False):
        logits = model(x)
    return F.cross_entropy(logits.float(), y), (logits.argmax(1) != y).sum()


@torch.no_grad()
def evaluate(model: nn.Module, x: Tensor, y: Tensor, batch: int = 500) -> tuple[float, float]:
    """Mean cross-entropy and error (fraction) in evaluation mode, images (N, …), labels (N,)."""
    loss, wrong = torch.zeros(2, device=x.device)
    model.eval()
    for images, labels in zip(x.split(batch), y.split(batch), strict=True):
        mean, errors = forward(model, images, labels)
        loss += mean * len(images)
        wrong += errors
    return loss.item() / len(x), wrong.item() / len(x)


class Training:
    """Everything that the next epoch depends on; `epochs` takes it from one to the next.

    The caller's generators are left alone. On a CPU the same state and as many threads give the
    same rows, but for `seconds`. The device is "auto" (a GPU if there is one), "cpu", "cuda" or
    "mps". ValueError: it is not there, or the recipe takes more images at once than there are.
    """

    def __init__(self, recipe: Recipe, data: Cifar10, device: str = "auto") -> None:
        needed, there = max(recipe.batch_size, recipe.init_images), len(data.train_images)
        if needed > there:
            raise ValueError(f"the recipe takes {needed} images at once, {data!r} has {there}")
        self.recipe, self.data, self.device = recipe, data, find_device(device)
        self.rows: list[Row] = []  #: the epochs so far
        self.state = State.INTERRUPTED  #: how the run stands
        self.generators = generators(self.device)
        with self._generators():
            torch.manual_seed(recipe.seed)
            self.model = build(recipe).to(self.device).to(memory_format=layout(self.device))
        fused, fp16 = self.device.type != "mps", autocast_type(self.device) is torch.float16
        self.optimizer = torch.optim.Adam(self.model.parameters(), eps=recipe.adam_eps, fused=fused)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=fp16)

    @contextmanager
    def _generators(self) -> Iterator[None]:
        """Inside, torch draws from the run's generators, and the caller's autocast is off."""
        theirs = generators(self.device, self.generators)
        try:
            with torch.autocast(self.device.type, enabled=False):
                yield
        finally:
            self.generators = generators(self.device, theirs)

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Forward, backward and update; loss and errors as `forward` gives them, detached."""
        loss, errors = forward(self.model, x, y)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach(), errors

    def epochs(self, tick: Callable[[], object] = lambda: None) -> Iterator[Row]:
        """Train on, epoch by epoch, until the run has ended; `tick` is called after each step."""
        recipe, device, size = self.recipe, self.device, self.recipe.batch_size
        train_y, test_y = self.data.train_labels.to(device), self.data.test_labels.to(device)
        with self._generators():
            inputs = prepare(self.data, recipe.inputs)
            train_x, test_x = (x.to(device, memory_format=layout(device)) for x in inputs)
            if recipe.init_images and not self.rows:
                chosen = torch.randperm(len(train_x), device=device)[: recipe.init_images]
                data_dependent_init_(self.model, train_x[chosen])
        steps = len(train_x) // size  # what remains of the images is left out
        while self.state is State.INTERRUPTED:
            start, epoch = time.perf_counter(), len(self.rows)
            lr = recipe.lr_at(epoch)
            self.optimizer.param_groups[0].update(lr=lr, betas=(recipe.beta1_at(epoch), 0.999))
            self.model.train()
            loss, wrong = torch.zeros(2, device=device)
            with self._generators():
                order = torch.randperm(len(train_x), device=device)[: steps * size]
                for chosen in order.split(size):
                    mean, errors = self.step(train_x[chosen], train_y[chosen])
                    loss += mean
                    wrong += errors
                    tick()
            trained = loss.item() / steps, wrong.item() / len(order)
            tested = evaluate(self.model, test_x, test_y)
            row = Row(epoch + 1, lr, *trained, *tested, time.perf_counter() - start)
            self.state = state_after(recipe, row)
            self.rows.append(row)
            yield row


def train(recipe: Recipe, data: Cifar10, device: str = "auto") -> list[Row]:
    """Train one network to its end; one row per epoch. `wnlib.lab.record` keeps a record, too."""
    return list(Training(recipe, data, device).epochs())
