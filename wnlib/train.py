"""One training loop for the five configurations, on any device, with exact resume."""

import math
import subprocess
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import wnlib
from wnlib.data import Cifar10
from wnlib.init import data_dependent_init
from wnlib.inputs import prepare
from wnlib.model import ConvPoolCNNC, GaussianNoise, UniformNoise
from wnlib.recipe import Recipe
from wnlib.resume import Generators, open_run, save_checkpoint
from wnlib.runs import Row, Run

# Ten times the cross-entropy of guessing among ten classes, ln 10: no network comes back from it.
DIVERGED = 10 * math.log(10)


def train(
    recipe: Recipe,
    data: Cifar10,
    out: Path | str | None = None,
    *,
    device: str = "auto",
    progress: bool = False,
) -> Iterator[Row]:
    """Train one network; yield one row an epoch.

    With `out`, the run is recorded there after every epoch, beside a checkpoint. Called again on
    the same folder, it first yields the recorded rows, then goes on where it stopped, and on a CPU
    gives the same rows bit for bit (`seconds` aside, and with the same number of threads). The
    generators of the caller are left alone.

    Precision: autocast to bf16 where the hardware has it, to fp16 with a gradient scaler on older
    GPUs; weights, normalization statistics, loss and optimizer in fp32; no autocast elsewhere.

    Args:
        recipe: what to train, and how.
        data: on what; kept on the device as a whole.
        out: the run's folder; None to record nothing.
        device: "auto", "cpu", "cuda" or "mps"; "auto" takes a GPU if there is one.
        progress: show a bar on standard error.

    Raises:
        ValueError: no such device, or fewer training images than a minibatch or the init takes.
        RunError: the folder cannot be written, or holds another run, or a damaged one.
    """
    where = find_device(device)
    needed = max(recipe.batch_size, recipe.init_images)
    if needed > len(data.train_images):
        raise ValueError(
            f"the recipe takes {needed} images at once, {data!r} has {len(data.train_images)}"
        )
    folder = None if out is None else Path(out)
    run, state = open_run(folder, recipe, data)
    run.provenance |= _provenance(data, where)
    return _epochs(run, state, data, folder, where, progress)


def find_device(name: str = "auto") -> torch.device:
    """The device of that name, or for "auto" the best one there is.

    Raises:
        ValueError: it is not one of auto, cpu, cuda, mps, or not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next((n for n, is_there in there.items() if is_there), "cpu"))
    if name != "cpu" and name not in there:
        raise ValueError(f"device is auto, cpu, cuda or mps, not {name!r}")
    if not there.get(name, True):
        raise ValueError(f"there is no {name} device here; use cpu, or auto")
    return torch.device(name)


def autocast_type(device: torch.device) -> torch.dtype:
    """The type that convolutions run in: the fastest that the hardware has and training bears."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu":
        fast = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.8 and later
        return torch.bfloat16 if fast.get("avx512_bf16") or fast.get("amx_bf16") else torch.float32
    return torch.float32


def build(recipe: Recipe) -> ConvPoolCNNC:
    """The recipe's network, its weights drawn from torch's generator."""
    noise = {"gaussian": GaussianNoise, "uniform": UniformNoise}[recipe.noise](recipe.sigma)
    return ConvPoolCNNC(
        recipe.norm,
        recipe.width,
        noise=noise,
        dropout=recipe.dropout,
        bn_eps=recipe.bn_eps,
        scale=recipe.scale,
    )


def build_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Adam:
    """The recipe's Adam, in one kernel where torch has it."""
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.Adam(model.parameters(), recipe.lr, eps=recipe.adam_eps, fused=fused)


def _epochs(
    run: Run,
    state: dict[str, Any] | None,
    data: Cifar10,
    folder: Path | None,
    device: torch.device,
    progress: bool,
) -> Iterator[Row]:
    recipe = run.recipe
    yield from run.rows
    if run.state != "interrupted":
        return

    generators = Generators(device, recipe.seed)
    train_x, test_x = (x.to(device) for x in prepare(data, recipe.inputs))
    train_y, test_y = data.train_labels.to(device), data.test_labels.to(device)
    dtype = autocast_type(device)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)

    with generators.ours():
        model = build(recipe).to(device, memory_format=torch.channels_last)
        if recipe.init_images and not state:
            chosen = torch.randperm(len(train_x), device=device)[: recipe.init_images]
            data_dependent_init(model, train_x[chosen])
    optimizer = build_optimizer(recipe, model)
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        generators.load(state["generators"])

    steps = len(train_x) // recipe.batch_size
    bar = _bar(progress, recipe, steps, len(run.rows))
    for epoch in range(len(run.rows), recipe.epochs):
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr_at(epoch)
            group["betas"] = (recipe.beta1_at(epoch), 0.999)

        model.train()
        loss_sum = torch.zeros((), device=device)
        wrong = torch.zeros((), device=device, dtype=torch.long)
        with generators.ours():
            order = torch.randperm(len(train_x), device=device)
            for step in range(steps):
                chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
                x, y = train_x[chosen], train_y[chosen]  # (B, 3, 32, 32), (B,)
                loss, logits = training_step(model, optimizer, scaler, x, y)
                loss_sum += loss
                wrong += (logits.argmax(1) != y).sum()
                bar.update()

        test_loss, test_error = evaluate(model, test_x, test_y)
        row = Row(
            epoch=epoch + 1,
            lr=recipe.lr_at(epoch),
            train_loss=loss_sum.item() / steps,
            train_error=wrong.item() / (steps * recipe.batch_size),
            test_loss=test_loss,
            test_error=test_error,
            seconds=time.perf_counter() - start,
        )
        run.rows.append(row)
        run.provenance["wall_seconds"] += row.seconds
        if not row.train_loss < DIVERGED:  # NaN too
            run.state = f"diverged at epoch {row.epoch}"
        elif row.epoch == recipe.epochs:
            run.state = "finished"
        if folder is not None:
            # The record first: a checkpoint is then never ahead of it.
            run.save(folder)
            state = {
                "rows": [list(row) for row in run.rows],
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scaler": scaler.state_dict(),
                "generators": generators.state(),
            }
            save_checkpoint(folder, state)
        diverged = run.state.startswith("diverged")
        bar.set_postfix_str(run.state if diverged else f"test error {100 * test_error:.2f} %")
        yield row
        if run.state != "interrupted":
            break
    bar.close()


def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    x: Tensor,
    y: Tensor,
) -> tuple[Tensor, Tensor]:
    """Forward, backward and update on images x (B, 3, 32, 32) and labels y (B,).

    Returns:
        The mean cross-entropy, (), and the logits, (B, 10), both detached.
    """
    dtype = autocast_type(x.device)
    with torch.autocast(x.device.type, dtype, enabled=dtype is not torch.float32):
        logits = model(x)
    loss = F.cross_entropy(logits.float(), y)
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    return loss.detach(), logits.detach()


@torch.no_grad()
def evaluate(
    model: nn.Module, images: Tensor, labels: Tensor, batch: int = 500
) -> tuple[float, float]:
    """Mean cross-entropy and error (fraction) in evaluation mode, images (N, …), labels (N,)."""
    dtype = autocast_type(images.device)
    loss = torch.zeros((), device=images.device)
    wrong = torch.zeros((), device=images.device, dtype=torch.long)
    model.eval()
    for x, y in zip(images.split(batch), labels.split(batch), strict=True):
        with torch.autocast(images.device.type, dtype, enabled=dtype is not torch.float32):
            logits = model(x)
        loss += F.cross_entropy(logits.float(), y, reduction="sum")
        wrong += (logits.argmax(1) != y).sum()
    return loss.item() / len(images), wrong.item() / len(images)


def _provenance(data: Cifar10, device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "data": {"name": data.name, "digest": data.digest},
        "device": name,
        "precision": str(autocast_type(device)).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "wnlib": wnlib.__version__,
        "commit": _commit(),
    }


# Once a process: what runs is what was imported, whatever is committed meanwhile.
@cache
def _commit() -> str | None:
    """The last commit that changed wnlib, with -dirty if it was changed since; None without git."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        log = subprocess.run(
            [*git, "log", "-1", "--format=%h", "--", "."], capture_output=True, text=True
        )
        dirty = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "."], capture_output=True)
    except OSError:
        return None
    commit = log.stdout.strip()
    return commit + "-dirty" * bool(dirty.returncode) if commit else None


def _bar(progress: bool, recipe: Recipe, steps: int, done: int) -> Any:
    from tqdm import tqdm

    return tqdm(
        desc=f"{recipe.norm:>7}",
        total=recipe.epochs * steps,
        initial=done * steps,
        disable=not progress,
        unit="step",
        dynamic_ncols=True,
    )
