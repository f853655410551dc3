"""A run's checkpoint: written whole, and taken only if it is this run's, all of it."""

import dataclasses
import json
import math
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import torch
from torch import nn

from wnlib.lab.files import read_whole, write_whole
from wnlib.lab.record import Row, RunError, is_possible, is_state
from wnlib.lab.resume import Generators
from wnlib.lab.runs import Run

PARTS = {"run", "state", "rows", "model", "optimizer", "scaler", "generators"}


def save_checkpoint(
    folder: Path,
    run: Run,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    generators: Generators,
) -> None:
    """Write the checkpoint beside the record, whole or not at all.

    Raises:
        RunError: the folder cannot be written.
    """
    checkpoint = {
        "run": _identity(run),
        "state": run.state,
        "rows": [[row.epoch, *map(float, row[1:])] for row in run.rows],
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict()["state"],
        "scaler": scaler.state_dict(),
        "generators": generators.state(),
    }
    buffer = BytesIO()
    torch.save(checkpoint, buffer)
    try:
        write_whole(folder / "checkpoint.pt", buffer.getvalue())
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror or error}") from None


def restore(
    folder: Path,
    run: Run,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    generators: Generators,
) -> bool:
    """Take run and training back to the checkpoint; whether there is one.

    The record may be ahead of it, by the epoch that a stop in between has cost, or behind it,
    where a synchronized folder kept only part: the checkpoint decides, and nothing of it is lost.

    Raises:
        RunError: it is missing, damaged, too large, or of another run.
    """
    path = folder / "checkpoint.pt"
    elsewhere = "choose another folder, or delete this one to start again"
    if not path.exists():
        # Stopped before the first checkpoint, even if just before, a run starts again.
        if len(run.rows) > 1:
            raise RunError(
                f"{folder} has {len(run.rows)} epochs but no checkpoint.pt to go on from; "
                f"{elsewhere}"
            )
        run.rows = []
        return False
    weights = sum(value.nbytes for value in model.state_dict().values())
    try:
        # Adam's two moments beside the weights, and room for names and rows.
        blob = read_whole(path, 4 * weights + 500 * run.recipe.epochs + (1 << 20))
        checkpoint = _unpack(blob)
        if checkpoint["run"] != _identity(run) or not _agree(checkpoint, run):
            raise RunError(f"{path} belongs to another run; {elsewhere}")
        model.load_state_dict(checkpoint["model"])
        _restore_optimizer(optimizer, checkpoint["optimizer"])
        # One from bf16 has no scale, and one from fp16 goes on without where bf16 is at hand.
        if scaler.is_enabled() and checkpoint["scaler"]:
            scale, tracker = (checkpoint["scaler"][k] for k in ("scale", "_growth_tracker"))
            if not (0 < scale < math.inf and type(tracker) is int):
                raise ValueError
            scaler.load_state_dict(
                scaler.state_dict() | {"scale": float(scale), "_growth_tracker": tracker}
            )
        generators.load(checkpoint["generators"])
    except RunError:
        raise
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error}; {elsewhere}") from None
    except Exception as error:  # a damaged file fails in any of a dozen ways
        raise RunError(f"{path} is damaged ({type(error).__name__}); {elsewhere}") from None
    run.rows, run.state = [Row(*row) for row in checkpoint["rows"]], checkpoint["state"]
    run.provenance["wall_seconds"] = sum(row.seconds for row in run.rows)
    if run.state != "interrupted":  # the record was behind
        run.save(folder)
    return True


def _identity(run: Run) -> dict[str, Any]:
    """What was trained on what, in plain values: a checkpoint holds nothing else but tensors."""
    recipe = json.loads(json.dumps(dataclasses.asdict(run.recipe)))
    return {"recipe": recipe, "data": run.provenance["data"]["digest"]}


def _unpack(blob: bytes) -> dict[str, Any]:
    with ZipFile(BytesIO(blob)) as file:
        # What torch has written is not compressed, so nothing in it can be larger than the file.
        stored = all(part.compress_type == ZIP_STORED for part in file.infolist())
        size = sum(part.file_size for part in file.infolist())
        if not stored or size > len(blob) or file.testzip() is not None:  # torch checks no sums
            raise ValueError
    checkpoint = torch.load(BytesIO(blob), weights_only=True, map_location="cpu")
    if checkpoint.keys() != PARTS:
        raise ValueError
    return checkpoint


def _agree(checkpoint: dict[str, Any], run: Run) -> bool:
    """Whether checkpoint and record have the same rows, as far as both go."""
    if any([type(value) for value in row] != [int] + 6 * [float] for row in checkpoint["rows"]):
        raise ValueError
    rows = [Row(*row) for row in checkpoint["rows"]]
    possible = all(is_possible(row) and row.epoch == i for i, row in enumerate(rows, 1))
    if not (rows and possible and is_state(checkpoint["state"], rows, run.recipe)):
        raise ValueError
    both = min(len(rows), len(run.rows))
    return repr(rows[:both]) == repr(run.rows[:both])  # NaN too


def _restore_optimizer(optimizer: torch.optim.Optimizer, moments: dict[int, Any]) -> None:
    """Adam's moments alone: the rest, which a checkpoint could have otherwise, is the recipe's."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for i, moment in moments.items():
        shapes = {name: value.shape for name, value in moment.items()}
        shape = parameters[i].shape  # torch takes any, and crashes when it trains
        if shapes != {"step": torch.Size(), "exp_avg": shape, "exp_avg_sq": shape}:
            raise ValueError
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
