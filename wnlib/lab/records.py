"""Recorded training: a run is a folder; stopped anywhere, it goes on where it stopped.

``run.json`` says what was run, on what, and how it ended; ``history.csv`` has one row an epoch.
Errors are fractions, losses mean cross-entropies in nats, times seconds. Beside them lies
``checkpoint.pt``, all that the next epoch depends on, and while a training is at work ``lock``, so
that there is one at a time.
"""

import csv
import dataclasses
import json
import math
import os
import re
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO, StringIO
from pathlib import Path
from reprlib import repr as short
from typing import Any, NamedTuple
from zipfile import ZipFile

import numpy as np
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

import wnlib
from wnlib.data import Cifar10
from wnlib.layers import Norm
from wnlib.training import Recipe, Row, State, Training, autocast_type

SCHEMA = 1
HEADER = ",".join(Row._fields)

# Test errors on CIFAR-10 without augmentation: Table 1 of the paper, and the report's table, which
# lists each run's best epoch on the test set (tests compare it with the recorded curves).
PAPER = dict(zip(Norm, (0.0843, 0.0846, 0.0852, 0.0805, 0.0731), strict=True))
REPORT = dict(zip(Norm, (0.1904, 0.1788, 0.1921, 0.1917, 0.1833), strict=True))


_PAPER = Recipe.paper(Norm.WN)


class RunError(RuntimeError):
    """A record cannot be read, written or gone on with; one line says why and what to do."""


class Summary(NamedTuple):
    """The errors of one run, three ways: as people select them, and as they should be reported."""

    best_error: float  #: the lowest of any epoch
    best_epoch: int  #: its epoch
    final_error: float  #: after the last epoch
    last20_error: float  #: mean over the last 20 epochs, or all if fewer
    wall_seconds: float  #: of the whole run


@dataclass
class Run:
    """A recorded training run.

    Attributes:
        recipe: everything that defines it.
        rows: one an epoch, in order.
        state: how it stands after its last row.
        source: "wnlib", or who else recorded it.
        provenance: data, device, versions, commit, wall seconds: what `run.json` holds besides.
    """

    recipe: Recipe
    rows: list[Row] = field(default_factory=list)
    state: State = State.INTERRUPTED
    source: str = "wnlib"
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def norm(self) -> Norm:
        """The configuration."""
        return self.recipe.norm

    @property
    def outcome(self) -> str:
        """In words, "finished", "interrupted" or "diverged at epoch k"."""
        diverged = self.state == State.DIVERGED
        return f"diverged at epoch {len(self.rows)}" if diverged else str(self.state)

    def __repr__(self) -> str:
        return f"Run({self.source}, {self.norm}, {len(self.rows)} epochs, {self.outcome})"

    def column(self, name: str) -> np.ndarray:
        """One column of the history, (epochs,)."""
        return np.array([getattr(row, name) for row in self.rows])

    def summary(self) -> Summary:
        """Best-epoch, final-epoch and mean-of-last-20 test errors.

        Raises:
            RunError: the run has no epoch.
        """
        if not self.rows:
            raise RunError(f"the {self.norm} run has no epoch to summarize")
        error = self.column("test_error")
        known = np.where(np.isfinite(error), error, 1.0)
        best = int(known.argmin())
        wall = self.provenance.get("wall_seconds")
        return Summary(
            best_error=float(error[best]),
            best_epoch=self.rows[best].epoch,
            final_error=float(error[-1]),
            last20_error=float(error[-20:].mean()),
            wall_seconds=float(np.nansum(self.column("seconds")) if wall is None else wall),
        )

    def save(self, folder: Path | str) -> None:
        """Write both files, each whole or not at all.

        Raises:
            RunError: the folder cannot be written.
        """
        table = StringIO(newline="")
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(Row._fields)
        for row in self.rows:
            writer.writerow("" if isinstance(v, float) and math.isnan(v) else v for v in row)
        content = {
            "schema": SCHEMA,
            "source": self.source,
            "state": self.outcome,
            "recipe": dataclasses.asdict(self.recipe),
            **self.provenance,
        }
        # The history first: killed in between, a run has an epoch more, and is interrupted still.
        write_whole(Path(folder) / "history.csv", table.getvalue().encode())
        write_whole(Path(folder) / "run.json", (json.dumps(content, indent=1) + "\n").encode())

    @classmethod
    def load(cls, folder: Path | str) -> "Run":
        """Read a run's folder.

        Raises:
            RunError: a file is missing, damaged, or of another schema, or they contradict each
                other.
        """
        path = Path(folder) / "run.json"
        try:
            content = json.loads(_read(path))
        except ValueError as error:
            raise RunError(f"{path} cannot be read: {error}") from None
        schema = content.pop("schema", None) if isinstance(content, dict) else None
        if type(schema) is not int or schema != SCHEMA:
            raise RunError(f"{path} has schema {short(schema)}; this wnlib reads {SCHEMA}")
        try:
            run = cls(_recipe(content.pop("recipe")))
            outcome, run.source = content.pop("state"), content.pop("source")
            if not (isinstance(run.source, str) and run.source.isprintable() and run.source):
                raise ValueError(f"source is a short name, not {short(run.source)}")
            data, wall = content.get("data", {}), content.get("wall_seconds", 0)
            if not (isinstance(data, dict) and isinstance(data.get("digest", ""), str)):
                raise ValueError(f"data has a name and a digest, not {short(data)}")
            if type(wall) not in (int, float) or not 0 <= wall < math.inf:
                raise ValueError(f"wall_seconds is a number from 0 up, not {short(wall)}")
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path} is damaged: {error}") from None
        run.rows, run.provenance = _rows(Path(folder) / "history.csv"), content
        # A run may stand where its rows allow it, and the words are those that `outcome` has.
        epochs, whole = len(run.rows), run.recipe.epochs
        allowed = {State.INTERRUPTED: epochs <= whole, State.FINISHED: epochs == whole}
        allowed[State.DIVERGED] = 0 < epochs <= whole
        for run.state in (state for state, may in allowed.items() if may):
            if run.outcome == outcome:
                return run
        raise RunError(
            f"{path} says {short(outcome)}, but history.csv has {epochs} of {whole} epochs"
        )


def _recipe(values: dict[str, Any]) -> Recipe:
    """From JSON, where a number may have come as text."""
    for name in dict(values).keys() & vars(_PAPER).keys() - {"norm"}:
        value, kind = values[name], type(getattr(_PAPER, name))
        if type(value) is not kind and (type(value), kind) != (int, float):
            raise ValueError(f"{name} is of type {kind.__name__}, not {short(value)}")
    return Recipe(**values)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old one or the new one, even through a power cut.

    Raises:
        RunError: it cannot be written; the old one is as it was.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise RunError(f"{path.parent} cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RunError(f"{path} is missing: {path.parent} holds no run") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None


def _rows(path: Path) -> list[Row]:
    text = _read(path)
    header, *lines = text.removesuffix("\n").split("\n")
    if header != HEADER:
        raise RunError(f"{path} does not begin with {HEADER}")
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            epoch, *values = line.split(",")
            row = Row(int(epoch), *(float(v) if v else math.nan for v in values))
            errors, others = (row.train_error, row.test_error), row[1:]
            if any(e > 1 for e in errors) or any(v < 0 for v in others) or row.epoch != number:
                raise ValueError
        except (TypeError, ValueError):
            raise RunError(f"{path}, line {number + 1} is damaged: {line[:80]!r}") from None
        rows.append(row)
    if not text.endswith("\n"):
        raise RunError(f"{path} is cut off in line {len(lines) + 1}")
    return rows


def load_runs(folder: Path | str) -> list[Run]:
    """Every run below a folder, in the order of the configurations, then of their paths.

    Raises:
        RunError: there is none, or one is damaged.
    """
    paths = sorted(Path(folder).glob("**/run.json"))
    if not paths:
        raise RunError(f"no run in {folder}")
    order = list(Norm)
    return sorted((Run.load(p.parent) for p in paths), key=lambda run: order.index(run.norm))


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
