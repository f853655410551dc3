"""Trainings of a second: their recipe, what they leave, and how they refuse to go on."""

import dataclasses
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wnlib import Recipe
from wnlib.data import Cifar10
from wnlib.lab import record_epochs
from wnlib.lab.records import Row, RunError


def tiny(data: Cifar10) -> Cifar10:
    """40 of its training and 20 of its test images."""
    counts = {"train": 40, "test": 20}
    parts = {
        f"{part}_{of}": getattr(data, f"{part}_{of}")[:count]
        for part, count in counts.items()
        for of in ("images", "labels")
    }
    return dataclasses.replace(data, name="tiny", digest="tiny", **parts)


def small(norm: str = "wn", **changes: Any) -> Recipe:
    """For the 40 images of the fixture `tiny`."""
    settings = {"width": 4, "epochs": 4, "batch_size": 10, "init_images": 20, "inputs": "symmetric"}
    return Recipe.paper(norm).replace(**(settings | changes))


def timeless(rows: Iterable[Row]) -> bytes:
    """All of the rows but their seconds, as bytes: the same bit for bit, or not."""
    return np.array([row._replace(seconds=0) for row in rows], float).tobytes()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def stop_after_two(recipe: Recipe, data: Cifar10, folder: Path) -> Path:
    rows = record_epochs(recipe, data, folder, device="cpu")
    next(rows), next(rows)
    rows.close()
    return folder


def refused(recipe: Recipe, data: Cifar10, folder: Path) -> str:
    """The one line with which a training does not begin; nothing is overwritten."""
    before = contents(folder)
    with pytest.raises(RunError) as caught:
        list(record_epochs(recipe, data, folder, device="cpu"))
    assert contents(folder) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def saved(content: Any) -> bytes:
    """As torch has it in a file."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def altered(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    """What makes of a checkpoint one whose state that function has changed."""

    def damage(blob: bytes) -> bytes:
        state = torch.load(io.BytesIO(blob), weights_only=True)
        change(state)
        return saved(state)

    return damage
