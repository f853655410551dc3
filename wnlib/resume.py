"""What a run needs to go on where it stopped: its record, its checkpoint, its generators."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch import Tensor

from wnlib.data import Cifar10
from wnlib.files import write_whole
from wnlib.recipe import Recipe
from wnlib.runs import Row, Run, RunError

# Of a checkpoint.
PARTS = {"rows", "model", "optimizer", "scaler", "generators"}


def open_run(
    folder: Path | None, recipe: Recipe, data: Cifar10
) -> tuple[Run, dict[str, Any] | None]:
    """The run to go on with, and its checkpoint; a new run where the folder holds none.

    Raises:
        RunError: the folder cannot be read or written, or holds another run, or a damaged one.
    """
    new = Run(recipe, provenance={"wall_seconds": 0.0})
    if folder is None:
        return new, None
    try:
        holds_run = (folder / "run.json").exists()
    except OSError as error:
        raise RunError(f"{folder} cannot be read: {error.strerror or error}") from None
    if not holds_run:
        new.save(folder)
        return new, None
    run = Run.load(folder)
    if run.recipe != recipe:
        theirs, ours = vars(run.recipe), vars(recipe)
        changed = ", ".join(f"{k} {theirs[k]}, not {ours[k]}" for k in ours if theirs[k] != ours[k])
        raise RunError(f"{folder} holds another run ({changed}); choose another folder")
    there = run.provenance.get("data", {}).get("digest", data.digest)
    if there != data.digest:
        raise RunError(f"{folder} holds a run on other images; choose another folder")
    if run.state != "interrupted":
        return run, None
    path = folder / "checkpoint.pt"
    # A run stopped before its first checkpoint, even if just before, starts again.
    if not run.rows or (len(run.rows) == 1 and not path.exists()):
        return new, None
    if not path.exists():
        raise RunError(
            f"{folder} has {len(run.rows)} epochs but no checkpoint.pt to go on from; "
            "choose another folder"
        )
    try:
        with ZipFile(path) as file:  # torch.load leaves the checksums alone
            whole = file.testzip() is None
        state = torch.load(path, weights_only=True, map_location="cpu")
        rows = [Row(int(row[0]), *row[1:]) for row in state["rows"]]
        recorded = repr(rows) == repr(run.rows[: len(rows)])  # NaN too
        if not (whole and recorded and state.keys() == PARTS):
            raise ValueError
    except Exception as error:  # a damaged file fails in any of a dozen ways
        raise RunError(
            f"{path} is damaged ({type(error).__name__}); delete the folder to start again"
        ) from None
    run.rows = rows
    run.provenance["wall_seconds"] = sum(row.seconds for row in rows)
    return run, state


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write the checkpoint beside the record, whole or not at all.

    Raises:
        RunError: the folder cannot be written.
    """
    buffer = BytesIO()
    torch.save(state, buffer)
    try:
        write_whole(folder / "checkpoint.pt", buffer.getvalue())
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror or error}") from None


class Generators:
    """torch's generators as the run uses them, kept apart from the caller's."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self.device = device
        self.mine: dict[str, Tensor] | None = None
        with self.ours():
            torch.manual_seed(seed)

    @contextmanager
    def ours(self) -> Iterator[None]:
        """Inside, torch draws from the run's generators; outside, from the caller's."""
        theirs = self._read()
        if self.mine is not None:
            self._write(self.mine)
        try:
            yield
        finally:
            self.mine = self._read()
            self._write(theirs)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds, by the device's type."""
        assert self.mine is not None
        return self.mine

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from a checkpoint's."""
        # A run may go on on another device: its generator there starts from the seed.
        assert self.mine is not None
        self.mine |= {name: value for name, value in state.items() if name in self.mine}

    def _read(self) -> dict[str, Tensor]:
        state = {"cpu": torch.get_rng_state()}
        if self.device.type != "cpu":
            module = getattr(torch, self.device.type)
            state[self.device.type] = module.get_rng_state()
        return state

    def _write(self, state: dict[str, Tensor]) -> None:
        torch.set_rng_state(state["cpu"])
        if self.device.type != "cpu":
            getattr(torch, self.device.type).set_rng_state(state[self.device.type])
