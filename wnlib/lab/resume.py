"""What a run needs to go on where it stopped: its record, and its generators."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor

from wnlib.data import Cifar10
from wnlib.lab.files import remove_partial
from wnlib.lab.lock import Lock
from wnlib.lab.record import HEADER, RunError
from wnlib.lab.runs import Run
from wnlib.recipe import Recipe

FILES = ("run.json", "history.csv", "checkpoint.pt")


def open_run(folder: Path | None, recipe: Recipe, data: Cifar10) -> tuple[Run, Lock | None]:
    """The run to go on with, a new one where the folder holds none; locked if it is not over.

    Raises:
        RunError: the folder cannot be read or written, or holds another run, or a damaged one, or
            another process trains there.
    """
    new = Run(recipe, provenance={"wall_seconds": 0.0})
    if folder is None:
        return new, None
    run = _recorded(folder, recipe, data)
    if run is not None and run.state != "interrupted":
        if (folder / "lock").exists():  # killed just before its end
            with suppress(RunError):
                _tidy(Lock(folder)).release(remove=True)
        return run, None
    lock = Lock(folder)
    try:
        _tidy(lock)
        run = _recorded(folder, recipe, data)  # again: until now another process may have trained
        if run is None:
            run = new
            run.save(folder)
    except BaseException:
        lock.release()
        raise
    return run, lock


def _tidy(lock: Lock) -> Lock:
    for name in FILES:
        remove_partial(lock.folder / name)
    return lock


def _recorded(folder: Path, recipe: Recipe, data: Cifar10) -> Run | None:
    """The run that the folder holds, if it is this one."""
    elsewhere = "choose another folder"
    try:
        there = [name for name in FILES if (folder / name).exists()]
        rows = "history.csv" in there and (folder / "history.csv").stat().st_size > len(HEADER) + 2
    except OSError as error:
        raise RunError(f"{folder} cannot be read: {error.strerror or error}") from None
    if "run.json" not in there:
        if rows or "checkpoint.pt" in there:  # not what a stop before the first epoch leaves
            raise RunError(f"{folder} has lost its run.json, but not {there[-1]}; {elsewhere}")
        return None
    try:
        run = Run.load(folder)
    except RunError as error:
        raise RunError(f"{error}; {elsewhere}") from None
    if run.recipe != recipe:
        theirs, ours = vars(run.recipe), vars(recipe)
        changed = ", ".join(f"{k} {theirs[k]}, not {ours[k]}" for k in ours if theirs[k] != ours[k])
        raise RunError(f"{folder} holds another run ({changed}); {elsewhere}")
    if run.provenance.get("data", {}).get("digest", data.digest) != data.digest:
        raise RunError(f"{folder} holds a run on other images; {elsewhere}")
    return run


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
        theirs = read_generators(self.device)
        try:
            if self.mine is not None:
                write_generators(self.mine)
            yield
        finally:
            self.mine = read_generators(self.device)
            write_generators(theirs)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds, by the device's type."""
        assert self.mine is not None
        return self.mine

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from a checkpoint's, refused by torch if they are not of its kind."""
        # A run may go on on another device: its generator there starts from the seed.
        assert self.mine is not None
        self.mine |= {name: value for name, value in state.items() if name in self.mine}
        with self.ours():
            pass


def read_generators(device: torch.device) -> dict[str, Tensor]:
    """The states of the CPU's generator and of the device's, by the device's type."""
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = getattr(torch, device.type).get_rng_state()
    return state


def write_generators(state: dict[str, Tensor]) -> None:
    """Set them to what `read_generators` has read."""
    for name, value in state.items():
        (torch if name == "cpu" else getattr(torch, name)).set_rng_state(value)
