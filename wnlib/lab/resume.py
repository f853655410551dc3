"""Training that is recorded: stopped anywhere, it goes on where it stopped.

Beside a run's record lies ``checkpoint.pt``, all that the next epoch depends on, and while a
training is at work ``lock``, so that there is one at a time.
"""

import dataclasses
import json
import math
import re
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

import wnlib
from wnlib.data import Cifar10
from wnlib.lab.runs import Run, RunError, write_whole
from wnlib.training import Recipe, Row, State, Training, autocast_type

FORMAT = 2  # of a checkpoint; the first ones had no number
ELSEWHERE = "choose another folder"
NO_MEMORY = "there is not enough memory; a smaller width takes less. What is recorded stays"


class Busy(RunError):
    """Another process trains in the folder."""


def out_of_memory(error: BaseException) -> bool:
    """Whether that is what an error means: torch has a class for it on a GPU, none on a CPU."""
    said = r"out of memory|not enough memory|an't allocate memory|annot allocate memory"
    return isinstance(error, MemoryError) or re.search(said, str(error)) is not None


@contextmanager
def _memory_told() -> Iterator[None]:
    """A lack of memory is one line, whatever torch has for it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise RunError(NO_MEMORY) from None


EVERY = 600.0  # seconds between two copies of a run that is kept elsewhere, too


def record(recipe: Recipe, data: Cifar10, folder: Path | str, **options: Any) -> Run:
    """Train one network to its end and record it; the arguments are those of `record_epochs`."""
    for _ in record_epochs(recipe, data, folder, **options):
        pass
    return Run.load(folder)


def record_epochs(
    recipe: Recipe,
    data: Cifar10,
    folder: Path | str,
    *,
    device: str = "auto",
    compiled: bool = False,
    progress: bool = False,
    keep: Path | str | None = None,
) -> Generator[Row, None, None]:
    """Train one network and record it after every epoch; a generator of its rows.

    The rows that are recorded come first, then training goes on where it stopped, and on a CPU
    gives the same rows bit for bit (`seconds` aside, and with the same number of threads).

    Only one training is at work in a folder: a second process is refused; within a process the
    latest takes over, as when a notebook's cell is stopped and run again.

    Args:
        recipe: what to train, and how.
        data: on what.
        folder: of the run; made where it is missing.
        device: "auto", "cpu", "cuda" or "mps"; "auto" takes a GPU if there is one.
        compiled: let torch compile the network.
        progress: show a bar on standard error.
        keep: a second folder, on a slow or precious disk: the run is copied to it every ten minutes
            and in the end, and comes back from it where the first one is behind or gone.

    Raises:
        ValueError: no such device, or fewer training images than a minibatch or the init takes.
        RunError: the folder cannot be read or written, holds another run or a damaged one, or is
            trained in by another process; there is not enough memory. What is recorded there stays
            as it is.
    """
    total = recipe.epochs * (len(data.train_images) // recipe.batch_size)
    with _bar(total, progress) as bar:
        copy = Path(keep) if keep else None
        yield from _epochs(recipe, data, Path(folder), device, compiled, copy, bar)


def record_in_turns(
    recipes: Iterable[Recipe],
    data: Cifar10,
    folder: Path | str,
    *,
    device: str = "auto",
    compiled: bool = False,
    progress: bool = False,
    keep: Path | str | None = None,
) -> Generator[tuple[Recipe, Row], None, None]:
    """Train several configurations, an epoch each in turn; a generator of recipes and rows.

    Stopped anywhere, all of them have come as far, and the same call goes on. Each has its folder,
    named by its configuration, below `folder` and `keep`. The arguments are otherwise those of
    `record_epochs`, and so is what is raised.
    """
    turns: dict[Recipe, Generator[Row, None, None]] = {}
    recipes = list(recipes)
    steps = {recipe: len(data.train_images) // recipe.batch_size for recipe in recipes}
    with _bar(sum(r.epochs * steps[r] for r in recipes), progress) as bar, ExitStack() as stack:
        for recipe in recipes:
            where, copy = Path(folder) / recipe.norm, Path(keep) / recipe.norm if keep else None
            turns[recipe] = _epochs(recipe, data, where, device, compiled, copy, bar)
            stack.callback(turns[recipe].close)
        while turns:
            for recipe, rows in list(turns.items()):
                row = next(rows, None)
                if row is None:
                    del turns[recipe]
                else:
                    yield recipe, row


def _bar(total: int, shown: bool) -> tqdm:
    """Of steps; in a notebook it moves every other second, so that the page stays quick."""
    often = 0.1 if sys.stderr.isatty() else 2.0
    return tqdm(total=total, disable=not shown, unit="step", mininterval=often, dynamic_ncols=True)


def _epochs(
    recipe: Recipe,
    data: Cifar10,
    folder: Path,
    device: str,
    compiled: bool,
    keep: Path | None,
    bar: tqdm,
) -> Generator[Row, None, None]:
    def replay() -> Iterator[Row]:
        if not bar.disable:  # else it has no beginning
            count = len(run.rows) * (len(data.train_images) // recipe.batch_size)
            bar.initial += count
            bar.update(count)
        yield from run.rows

    run = _recorded(folder, recipe, data)
    if run.state != State.INTERRUPTED and keep is None:
        yield from replay()
        return
    with (
        _memory_told(),
        _one_at_a_time(folder) as lock,
        _copied(folder, keep, recipe, data) as after_epoch,
    ):
        run = _recorded(folder, recipe, data)  # again: until now another process may have trained
        if run.state != State.INTERRUPTED:
            yield from replay()
            return
        training = Training(recipe, data, device, compiled)
        restore(folder, run, training)
        run.provenance |= provenance(data, training.device) | {"compiled": compiled}
        yield from replay()
        bar.set_description_str(f"{recipe.norm:>7}")
        for row in training.epochs(bar.update):
            run.rows, run.state = training.rows, training.state
            run.provenance["wall_seconds"] = sum(row.seconds for row in run.rows)
            if lock not in _held.values():
                raise RunError(f"a later training goes on in {folder}; this one gave way to it")
            # The checkpoint first: killed in between, the record is behind, and catches up.
            save(folder / "checkpoint.pt", training)
            run.save(folder)
            after_epoch()
            error = f"test error {100 * row.test_error:.2f} %"
            bar.set_postfix_str(run.outcome if run.state == State.DIVERGED else error)
            yield row
            bar.set_description_str(f"{recipe.norm:>7}")


@contextmanager
def _copied(
    folder: Path, keep: Path | None, recipe: Recipe, data: Cifar10
) -> Iterator[Callable[[], None]]:
    """What is called inside after an epoch copies the run if it is time; in the end, in any case.

    A copy that has come further is brought back first. One that cannot be written stops nothing.

    Raises:
        RunError: the copy is of another run, or damaged.
    """
    if keep is None:
        yield lambda: None
        return
    here, there = (len(_recorded(each, recipe, data).rows) for each in (folder, keep))
    if there > here:
        _copy(keep, folder)
    last, behind = time.monotonic(), here > there

    def copy() -> None:
        nonlocal last, behind
        last, behind = time.monotonic(), False
        try:
            _copy(folder, keep)
        except (RunError, OSError) as error:
            print(f"{error}; training goes on, without that copy", file=sys.stderr)

    def after_epoch() -> None:
        nonlocal behind
        behind = True
        if time.monotonic() - last >= EVERY:
            copy()

    try:
        yield after_epoch
    finally:
        if behind:
            copy()


def _copy(source: Path, target: Path) -> None:
    for name in ("checkpoint.pt", "history.csv", "run.json"):  # in the order of `_epochs`
        if (source / name).exists():
            write_whole(target / name, (source / name).read_bytes())


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
def _commit(package: Path = Path(wnlib.__file__).parent) -> str | None:
    """The last commit that changed wnlib, with -dirty if it was changed since; None without git."""
    git = ["git", "-C", str(package)]
    try:
        log = subprocess.run(
            [*git, "log", "-1", "--format=%h", "--", "."], capture_output=True, text=True
        )
        dirty = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "."], capture_output=True)
    except OSError:
        return None
    commit = log.stdout.strip()
    return commit + "-dirty" * bool(dirty.returncode) if commit else None


_held: "weakref.WeakValueDictionary[Path, FileLock]" = weakref.WeakValueDictionary()


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[FileLock]:
    """Held until the end, or until a later training of this process takes it.

    Raises:
        Busy: another process holds it.
        RunError: the folder cannot be written.
    """
    with made(folder):
        path = folder.resolve() / "lock"
        earlier = _held.pop(path, None)
        if earlier is not None:
            earlier.release(force=True)
        lock = FileLock(path, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise Busy(
                f"another training is at work in {folder}; stop it, or {ELSEWHERE}"
            ) from None
        except OSError as error:
            raise RunError(f"{folder} cannot be written: {error.strerror or error}") from None
        _held[path] = lock
        try:
            yield lock
        finally:
            if _held.get(path) is lock:
                del _held[path]
                with suppress(OSError):  # Windows removes it with the release
                    path.unlink()
                lock.release()


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """The folder is there, inside; what was made for it goes again if nothing came into it.

    Raises:
        RunError: it cannot be made.
    """
    new = []
    try:
        new = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror or error}") from None
    try:
        yield
    finally:
        for path in new:
            with suppress(OSError):  # it holds something
                path.rmdir()


def _recorded(folder: Path, recipe: Recipe, data: Cifar10) -> Run:
    """What the folder holds of this very run.

    Raises:
        RunError: it holds another one, or a damaged one, or cannot be read.
    """
    try:
        there = [name for name in ("run.json", "history.csv") if (folder / name).exists()]
    except OSError as error:
        raise RunError(f"{folder} cannot be read: {error.strerror or error}") from None
    checkpoint = folder / "checkpoint.pt"
    if "run.json" not in there:
        if there and not checkpoint.exists():  # not what a stop before the first epoch leaves
            raise RunError(f"{folder} has lost its run.json, but not {there[0]}; {ELSEWHERE}")
        return Run(recipe)
    try:
        run = Run.load(folder)
    except RunError as error:
        raise RunError(f"{error}; {ELSEWHERE}") from None
    if run.recipe != recipe:
        theirs, ours = vars(run.recipe), vars(recipe)
        changed = ", ".join(f"{k} {theirs[k]}, not {ours[k]}" for k in ours if theirs[k] != ours[k])
        raise RunError(f"{folder} holds another run ({changed}); {ELSEWHERE}")
    if run.provenance.get("data", {}).get("digest", data.digest) != data.digest:
        raise RunError(f"{folder} holds a run on other images; {ELSEWHERE}")
    return run


def _identity(training: Training) -> dict[str, Any]:
    """What is trained on what, in plain values: a checkpoint holds nothing else but tensors."""
    recipe = json.loads(json.dumps(dataclasses.asdict(training.recipe)))
    return {"recipe": recipe, "data": training.data.digest}


def save(path: Path, training: Training) -> None:
    """Write the checkpoint that `restore` goes on from."""
    buffer = BytesIO()
    content = {
        "format": FORMAT,
        "run": _identity(training),
        "state": str(training.state),
        "rows": [[row.epoch, *map(float, row[1:])] for row in training.rows],
        "model": training.model.state_dict(),
        "optimizer": training.optimizer.state_dict()["state"],
        "scaler": training.scaler.state_dict(),
        "generators": training.generators,
    }
    torch.save(content, buffer)
    write_whole(path, buffer.getvalue())


def restore(folder: Path, run: Run, training: Training) -> None:
    """Take run and training to the checkpoint, or to the start where there is none.

    The record may be ahead of it or behind, where a synchronized folder kept only part: the
    checkpoint decides, and nothing of it is lost.

    Raises:
        RunError: it is missing, damaged, of an older wnlib or of another run.
    """
    path = folder / "checkpoint.pt"
    again = f"{ELSEWHERE}, or delete this one to start again"
    if not path.exists():
        if run.rows:
            raise RunError(
                f"{folder} has {len(run.rows)} epochs but no checkpoint.pt to go on from; {again}"
            )
        return
    try:
        blob = path.read_bytes()
        with ZipFile(BytesIO(blob)) as file:  # torch.load leaves the checksums alone
            if file.testzip() is not None:
                raise ValueError
        content = torch.load(BytesIO(blob), weights_only=True, map_location="cpu")
        if content.get("format") != FORMAT:
            raise RunError(
                f"{path} was written by another version of wnlib, which this one cannot go on "
                f"from; {again}"
            )
        rows = [Row(*row) for row in content["rows"]]
        both = min(len(rows), len(run.rows))
        same = repr(rows[:both]) == repr(run.rows[:both])  # NaN too
        if content["run"] != _identity(training) or not same:
            raise RunError(f"{path} belongs to another run; {again}")
        _load(training, content)
        training.rows, training.state = rows, State(content["state"])
    except RunError:
        raise
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}; {again}") from None
    except Exception as error:  # a damaged file fails in any of a dozen ways
        raise RunError(f"{path} is damaged ({type(error).__name__}); {again}") from None
    behind = len(run.rows) < len(rows) or run.state != training.state
    run.rows, run.state = training.rows, training.state
    if behind:
        run.provenance["wall_seconds"] = sum(row.seconds for row in rows)
        run.provenance["data"] = {"name": training.data.name, "digest": training.data.digest}
        run.save(folder)


def _load(training: Training, content: dict[str, Any]) -> None:
    training.model.load_state_dict(content["model"])
    # Adam's moments alone: the rest is the recipe's. torch takes any, and crashes as it trains.
    parameters, moments = list(training.model.parameters()), content["optimizer"]
    for i, moment in moments.items():
        shapes = {name: value.shape for name, value in moment.items()}
        shape = parameters[i].shape
        if shapes != {"step": torch.Size(), "exp_avg": shape, "exp_avg_sq": shape}:
            raise ValueError
    groups = training.optimizer.state_dict()["param_groups"]
    training.optimizer.load_state_dict({"state": moments, "param_groups": groups})
    # One from bf16 has no scale, and one from fp16 goes on without where bf16 is at hand.
    if training.scaler.is_enabled() and content["scaler"]:
        if not 0 < content["scaler"]["scale"] < math.inf:
            raise ValueError
        training.scaler.load_state_dict(content["scaler"])
    # A run may go on on another device: its generator there starts from the seed.
    assert training.generators is not None
    mine = {k: v for k, v in content["generators"].items() if k in training.generators}
    training.generators |= mine
    with training._generators():  # refused by torch, if they are not of its kind
        pass
