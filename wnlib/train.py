"""One training loop for the five configurations, on any device, with exact resume."""

import math
import subprocess
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch

import wnlib
from wnlib.data import Cifar10
from wnlib.graph import Steps
from wnlib.init import data_dependent_init
from wnlib.inputs import prepare
from wnlib.lab.checkpoint import restore, save_checkpoint
from wnlib.lab.lock import Lock
from wnlib.lab.resume import Generators, open_run
from wnlib.lab.runs import Row, Run
from wnlib.recipe import Recipe
from wnlib.step import (
    autocast_type,
    build,
    build_optimizer,
    evaluate,
    find_device,
    keep_memory,
    set_rates,
)

# Ten times the cross-entropy of guessing among ten classes, ln 10: no network comes back from it.
DIVERGED = 10 * math.log(10)

# The scaler halves its scale, at first 65,536, for each step that it has to skip: below this the
# gradients overflow fp16 whatever it does. A scale stays at 1 where there is no scaler.
LEAST_SCALE = 1e-4


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

    Only one training is at work in a folder: a second process is refused, and within a process the
    latest goes on where the one before gave way.

    A run ends early, as diverged, after an epoch from which no network recovers: its training loss
    is not a number or ten times that of a guess, its test loss is not finite (some of its answers
    are not numbers), or its gradients overflow fp16 so steadily that the scaler skips every step.
    The epoch is recorded with what is known of it.

    Precision: autocast to bf16 where the hardware has it, to fp16 with a gradient scaler on older
    GPUs; weights, normalization statistics, loss and optimizer in fp32; no autocast elsewhere.
    In bf16 on a GPU a step is a CUDA graph; provenance says under "graph" why, where it is not.

    Args:
        recipe: what to train, and how.
        data: on what; kept on the device as a whole.
        out: the run's folder; None to record nothing.
        device: "auto", "cpu", "cuda" or "mps"; "auto" takes a GPU if there is one.
        progress: show a bar on standard error.

    Raises:
        ValueError: no such device, or fewer training images than a minibatch or the init takes.
        RunError: the folder cannot be read or written, holds another run or a damaged one, or is
            trained in by another process. What is recorded there stays as it is.
    """
    where = find_device(device)
    needed = max(recipe.batch_size, recipe.init_images)
    if needed > len(data.train_images):
        raise ValueError(
            f"the recipe takes {needed} images at once, {data!r} has {len(data.train_images)}"
        )
    folder = None if out is None else Path(out)
    run, lock = open_run(folder, recipe, data)
    run.provenance |= provenance(data, where)
    return _locked(_epochs(run, lock, data, where, progress), run, lock)


def _locked(rows: Iterator[Row], run: Run, lock: Lock | None) -> Iterator[Row]:
    try:
        yield from rows
    finally:
        if lock is not None:
            lock.release(remove=run.state != "interrupted")


def _epochs(
    run: Run, lock: Lock | None, data: Cifar10, device: torch.device, progress: bool
) -> Iterator[Row]:
    recipe = run.recipe
    if run.state != "interrupted":
        yield from run.rows
        return

    keep_memory()
    generators = Generators(device, recipe.seed)
    with generators.ours():
        model = build(recipe).to(device, memory_format=torch.channels_last)
    optimizer = build_optimizer(recipe, model)
    dtype = autocast_type(device)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    parts = (run, model, optimizer, scaler, generators)
    begun = lock is not None and restore(lock.folder, *parts)
    yield from run.rows
    if run.state != "interrupted":
        return

    train_x, test_x = (x.to(device) for x in prepare(data, recipe.inputs))
    train_y, test_y = data.train_labels.to(device), data.test_labels.to(device)
    if recipe.init_images and not begun:
        with generators.ours():
            chosen = torch.randperm(len(train_x), device=device)[: recipe.init_images]
            data_dependent_init(model, train_x[chosen])

    steps = len(train_x) // recipe.batch_size
    take_step = Steps(model, optimizer, scaler)
    bar = _bar(progress, recipe, steps, len(run.rows))
    for epoch in range(len(run.rows), recipe.epochs):
        start = time.perf_counter()
        set_rates(optimizer, recipe, epoch)
        model.train()
        loss_sum = torch.zeros((), device=device)
        wrong = torch.zeros((), device=device, dtype=torch.long)
        with generators.ours():
            order = torch.randperm(len(train_x), device=device)
            for step in range(steps):
                chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
                x, y = train_x[chosen], train_y[chosen]  # (B, 3, 32, 32), (B,)
                loss, logits = take_step(x, y)
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
        run.state = _state(recipe, row, scaler.get_scale())
        if device.type == "cuda":
            run.provenance["graph"] = take_step.plain or "captured"
        if lock is not None:
            lock.check()
            run.save(lock.folder)
            save_checkpoint(lock.folder, *parts)
        diverged = run.state.startswith("diverged")
        bar.set_postfix_str(run.state if diverged else f"test error {100 * test_error:.2f} %")
        yield row
        if run.state != "interrupted":
            break
    bar.close()


def _state(recipe: Recipe, row: Row, scale: float) -> str:
    """How a run stands after an epoch, with the scale that fp16's gradients had at its end."""
    alive = row.train_loss < DIVERGED and math.isfinite(row.test_loss)  # NaN is neither
    if not alive or scale < LEAST_SCALE:
        return f"diverged at epoch {row.epoch}"
    return "finished" if row.epoch == recipe.epochs else "interrupted"


def provenance(data: Cifar10, device: torch.device) -> dict[str, Any]:
    """On what images, machine and code something is trained or measured."""
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
