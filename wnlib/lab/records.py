"""Recorded training: a run is a folder; stopped anywhere, it goes on where it stopped.

``run.json`` says what was run, on what, and how it ended; ``history.csv`` has one row per epoch.
Errors are fractions, losses mean cross-entropies in nats, times seconds. Beside them lies
``checkpoint.pt``, all that the next epoch depends on, and while a training is at work ``lock``.
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
from collections.abc import Callable, Generator, Iterator, Sequence
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
from torch import Tensor
from tqdm import tqdm

import wnlib
from wnlib.data import Cifar10
from wnlib.layers import Norm
from wnlib.training import Recipe, Row, State, Training, autocast_type

SCHEMA = 1  # of run.json
FORMAT = 2  # of a checkpoint; the first ones had no number
HEADER = ",".join(Row._fields)
RETIRED = {"noise": "gaussian"}  # of earlier recipes: the one value that was ever recorded
FILES = ("checkpoint.pt", "history.csv", "run.json")  # in the order in which they are written
EVERY = 600.0  # seconds between two copies of a run that is kept elsewhere, too
ELSEWHERE = "choose another folder"
NO_MEMORY = "there is not enough memory; a smaller width takes less. What is recorded stays"

# Test errors on CIFAR-10 without augmentation: Table 1 of the paper, and the report's table, which
# lists each run's best epoch on the test set (tests compare it with the recorded curves).
PAPER = dict(zip(Norm, (0.0843, 0.0846, 0.0852, 0.0805, 0.0731), strict=True))
REPORT = dict(zip(Norm, (0.1904, 0.1788, 0.1921, 0.1917, 0.1833), strict=True))


class RunError(RuntimeError):
    """A record cannot be read, written or gone on with; one line says why and what to do."""


class Busy(RunError):
    """Another process trains in the folder."""


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
        rows: one per epoch, in order.
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
        except (ValueError, RecursionError) as error:
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
            raise RunError(f"{path} is damaged: {one_line(error)}") from None
        run.rows, run.provenance = _rows(Path(folder) / "history.csv"), content
        epochs, whole = len(run.rows), run.recipe.epochs
        for run.state in _possible(epochs, whole):
            if run.outcome == outcome:
                return run
        raise RunError(
            f"{path} says {short(outcome)}, but history.csv has {epochs} of {whole} epochs"
        )


def one_line(error: Exception) -> str:
    """What an error says, whoever wrote what it quotes: a line that a terminal can show."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in text)[:300]


def _possible(epochs: int, whole: int) -> list[State]:
    """How a run may stand after so many of its epochs."""
    allowed = {State.INTERRUPTED: epochs <= whole, State.FINISHED: epochs == whole}
    allowed[State.DIVERGED] = 0 < epochs <= whole
    return [state for state, may in allowed.items() if may]


def _recipe(values: dict[str, Any]) -> Recipe:
    """From JSON, where a number may have come as text."""
    usual = vars(Recipe.paper(Norm.WN))
    for name in dict(values).keys() & usual.keys() - {"norm"}:
        value, kind = values[name], type(usual[name])
        if type(value) is not kind and (type(value), kind) != (int, float):
            raise ValueError(f"{name} is of type {kind.__name__}, not {short(value)}")
    return Recipe(**{k: v for k, v in values.items() if (k, v) not in RETIRED.items()})


def _row(values: Sequence[Any], number: int) -> Row:
    """The epoch of that number; ValueError or TypeError for what no epoch can have."""
    row = Row(*values)
    if type(row.epoch) is not int or row.epoch != number:
        raise ValueError(f"epoch {short(row.epoch)} stands in place {number}")
    limits = Row(0, math.inf, math.inf, 1, math.inf, 1, 1e12)  # NaN is what was not recorded
    for value, limit in list(zip(row, limits, strict=True))[1:]:
        if type(value) is not float or value < 0 or value > limit:
            raise ValueError(f"{short(value)} is out of range")
    return row


def _rows(path: Path) -> list[Row]:
    text = _read(path)
    header, *lines = text.removesuffix("\n").split("\n")
    if header != HEADER:
        raise RunError(f"{path} does not begin with {HEADER}")
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            epoch, *values = line.split(",")
            rows.append(_row([int(epoch), *(float(v) if v else math.nan for v in values)], number))
        except (TypeError, ValueError):
            raise RunError(f"{path}, line {number + 1} is damaged: {line[:80]!r}") from None
    if not text.endswith("\n"):
        raise RunError(f"{path} is cut off in line {len(lines) + 1}")
    return rows


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RunError(f"{path} is missing: {path.parent} holds no run") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None


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


def record(recipe: Recipe, data: Cifar10, folder: Path | str, **options: Any) -> Run:
    """Train one network to its end and record it; the arguments are those of `record_epochs`."""
    folder = Path(folder).absolute()
    for _ in record_epochs(recipe, data, folder, **options):
        pass
    return Run.load(folder)


def record_epochs(
    recipe: Recipe,
    data: Cifar10,
    folder: Path | str,
    device: str = "auto",
    progress: bool = False,
    keep: Path | str | None = None,
) -> Generator[Row, None, None]:
    """Train one network and record it after every epoch: a generator of its rows.

    Stopped anywhere, by any means, the same call goes on after the last whole epoch: first it gives
    the rows that are recorded, then those that it trains. On a CPU, with as many threads, they are
    those that an uninterrupted run gives. In one process a later training of the folder takes it
    over from an earlier one, as when a notebook's cell is stopped and run again.

    Args:
        recipe: what to train, on `data`, on a `device`, as `Training` has it.
        folder: of the run; made where it is missing.
        progress: show a bar on standard error.
        keep: a second folder, on a slow or precious disk: the run is copied to it every ten minutes
            and in the end, and comes back from it where the first one is behind or gone.

    Raises:
        ValueError: no such device, or fewer training images than a minibatch or the init takes.
        RunError: the folder cannot be read or written, holds another run or a damaged one, or is
            trained in by another process; there is not enough memory. What is recorded there stays
            as it is.
    """
    # Here, not at the first epoch: whoever changes folder meanwhile means the one of now.
    here, copy = Path(folder).absolute(), Path(keep).absolute() if keep else None
    return _rows_of(recipe, data, here, copy, progress, device)


def _rows_of(
    recipe: Recipe, data: Cifar10, folder: Path, keep: Path | None, progress: bool, device: str
) -> Generator[Row, None, None]:
    run = _recorded(folder, recipe, data)
    if run.state is not State.INTERRUPTED and not keep:
        yield from run.rows
        return
    with memory_told(), ExitStack() as stack:
        training = Training(recipe, data, device)  # what fails here leaves no folder
        ours = stack.enter_context(_alone(folder))
        if keep and len(_recorded(keep, recipe, data).rows) > len(run.rows):
            _copy(keep, folder)
        run = _recorded(folder, recipe, data)  # until now another process may have trained
        if run.state is State.INTERRUPTED:
            restore(folder, run, training)
        if keep:
            stack.callback(_copy_if_possible, folder, keep)
        yield from list(run.rows)
        if run.state is not State.INTERRUPTED:
            return
        run.provenance |= provenance(data, training.device)
        steps, copied = len(data.train_images) // recipe.batch_size, time.monotonic()
        bar = tqdm(
            desc=recipe.norm.label,
            total=recipe.epochs * steps,
            initial=len(run.rows) * steps,
            disable=not progress,
            unit="step",
            mininterval=0.1
            if sys.stderr.isatty()
            else 2.0,  # so that a notebook's page stays quick
            dynamic_ncols=True,
        )
        rows = training.epochs(stack.enter_context(bar).update)
        while row := _next(rows, training.device):
            run.rows, run.state = training.rows, training.state
            run.provenance["wall_seconds"] = sum(row.seconds for row in run.rows)
            if not ours():
                raise RunError(f"a later training goes on in {folder}; this one gave way to it")
            # The checkpoint first: killed in between, the record is behind, and catches up.
            save(folder / "checkpoint.pt", training)
            run.save(folder)
            if keep and time.monotonic() - copied >= EVERY:
                _copy_if_possible(folder, keep)
                copied = time.monotonic()
            error = f"test error {100 * row.test_error:.2f} %"
            bar.set_postfix_str(run.outcome if run.state is State.DIVERGED else error)
            yield row


def _next(rows: Iterator[Row], device: torch.device) -> Row | None:
    """The next row, the same whatever precision the caller trains in; None after the last."""
    with ExitStack() as stack:
        for kind in {"cpu", device.type}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        return next(rows, None)


@contextmanager
def memory_told() -> Iterator[None]:
    """A lack of memory is one line: torch has a class for it on a GPU, and only words on a CPU."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = r"out of memory|not enough memory|an't allocate memory|annot allocate memory"
        if not isinstance(error, MemoryError) and not re.search(said, str(error)):
            raise
        raise RunError(NO_MEMORY) from None


_latest: dict[Path, object] = {}  # the training of this process that a folder's lock is held for


@contextmanager
def _alone(folder: Path) -> Iterator[Callable[[], bool]]:
    """Inside, no other process trains in the folder; what it gives says: nor does a later call.

    Raises:
        Busy: another process does.
        RunError: the folder cannot be written.
    """
    me, new_lock, path = object(), False, Path(os.path.realpath(folder)) / "lock"
    try:
        new_folder = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        new_lock = not path.exists()
        lock = FileLock(path, timeout=0, thread_local=False, is_singleton=True)
        lock.release(force=True)  # by an earlier training of this process
        lock.acquire()
    except Timeout:
        raise Busy(f"another training is at work in {folder}; stop it, or {ELSEWHERE}") from None
    except (OSError, RuntimeError) as error:  # a loop of links is either
        if new_lock:
            with suppress(OSError):
                path.unlink()
        said = getattr(error, "strerror", None) or error
        raise RunError(f"{folder} cannot be written: {said}") from None
    _latest[path] = me
    try:
        yield lambda: _latest.get(path) is me
    finally:
        if _latest.get(path) is me:
            del _latest[path]
            with suppress(OSError):  # Windows removes it with the release
                path.unlink()
            lock.release()
            if new_folder:
                with suppress(OSError):  # it holds something
                    folder.rmdir()


def _copy(source: Path, target: Path) -> None:
    for name in FILES:
        if (source / name).exists():
            write_whole(target / name, (source / name).read_bytes())


def _copy_if_possible(source: Path, target: Path) -> None:
    try:
        _copy(source, target)
    except (RunError, OSError) as error:
        print(f"{error}; training goes on, without that copy", file=sys.stderr)


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

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(package), *words, "--", "."]
        return subprocess.run(command, capture_output=True, text=True)

    with suppress(OSError):
        if commit := git("log", "-1", "--format=%h").stdout.strip():
            return commit + "-dirty" * bool(git("diff", "--quiet", "HEAD").returncode)
    return None


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


def save(path: Path, training: Training) -> None:
    """Write the checkpoint that `restore` goes on from."""
    buffer = BytesIO()
    recipe = json.loads(json.dumps(dataclasses.asdict(training.recipe)))  # torch.load takes no Norm
    content = {
        "format": FORMAT,
        "run": {"recipe": recipe, "data": training.data.digest},
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
        rows = [_row(row, number) for number, row in enumerate(content["rows"], 1)]
        state = State(content["state"])
        if state not in _possible(len(rows), run.recipe.epochs):
            raise ValueError
        both = min(len(rows), len(run.rows))
        same = repr(rows[:both]) == repr(run.rows[:both])  # NaN too
        recipe, digest = _recipe(content["run"]["recipe"]), content["run"]["data"]
        if (recipe, digest) != (training.recipe, training.data.digest) or not same:
            raise RunError(f"{path} belongs to another run; {again}")
        _load(training, content)
    except RunError:
        raise
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}; {again}") from None
    except Exception as error:  # a damaged file fails in any of a dozen ways
        raise RunError(f"{path} is damaged ({type(error).__name__}); {again}") from None
    training.rows, training.state = rows, state
    behind = len(run.rows) < len(rows) or run.state != state
    run.rows, run.state = rows, state
    if behind:
        run.provenance["wall_seconds"] = float(np.nansum(run.column("seconds")))
        run.provenance["data"] = {"name": training.data.name, "digest": training.data.digest}
        run.save(folder)


def _load(training: Training, content: dict[str, Any]) -> None:
    """Into the training, if all of it is of the training's kind; ValueError, or torch's own."""
    model = training.model.state_dict()
    if content["model"].keys() != model.keys():
        raise ValueError
    for name, value in content["model"].items():
        _check_alike(value, model[name])
    training.model.load_state_dict(content["model"])
    # Adam's moments alone: the rest is the recipe's. torch takes any, and crashes as it trains.
    parameters, moments = list(training.model.parameters()), content["optimizer"]
    for i, moment in moments.items():
        like = {"step": torch.tensor(0.0), "exp_avg": parameters[i], "exp_avg_sq": parameters[i]}
        if type(i) is not int or i < 0 or moment.keys() != like.keys():
            raise ValueError
        for name, value in moment.items():
            _check_alike(value, like[name])
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


def _check_alike(value: Tensor, like: Tensor) -> None:
    """ValueError unless it is a plain tensor of the same shape and type."""
    plain = value.layout is torch.strided and value.device.type == "cpu"
    if not plain or (value.shape, value.dtype) != (like.shape, like.dtype):
        raise ValueError
