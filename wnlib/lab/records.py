"""Recorded training: a run is a folder; stopped anywhere, it goes on where it stopped.

``run.json`` says what was run, on what, and how it ended; ``history.csv`` has one row per epoch.
Errors are fractions, losses mean cross-entropies in nats, times seconds. Beside them lies
``checkpoint.pt``, all that the next epoch depends on, and while a training is at work ``lock``.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path
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

SCHEMA = 1  # of run.json
FORMAT = 2  # of a checkpoint; the first ones had no number
HEADER = ",".join(Row._fields)
RETIRED = ("noise", "gaussian")  # of earlier recipes: the one value that was ever recorded
FILES = ("checkpoint.pt", "history.csv", "run.json")  # in the order in which they are written
EVERY = 600.0  # seconds between two copies of a run that is kept elsewhere, too
ELSEWHERE = "choose another folder"

# Test errors on CIFAR-10 without augmentation: Table 1 of the paper, and the report's table, which
# lists each run's best epoch on the test set (tests compare it with the recorded curves).
PAPER = dict(zip(Norm, (0.0843, 0.0846, 0.0852, 0.0805, 0.0731), strict=True))
REPORT = dict(zip(Norm, (0.1904, 0.1788, 0.1921, 0.1917, 0.1833), strict=True))


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
        rows: one per epoch, in order.
        state: how it stands after its last row.
        source: "wnlib", or who else recorded it.
        provenance: data, device, versions, commit, wall seconds; "a, then b" where they changed.
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
        best = int(np.where(np.isfinite(error), error, 1.0).argmin())
        wall = self.provenance.get("wall_seconds", np.nansum(self.column("seconds")))
        return Summary(
            best_error=float(error[best]),
            best_epoch=self.rows[best].epoch,
            final_error=float(error[-1]),
            last20_error=float(error[-20:].mean()),
            wall_seconds=float(wall),
        )

    def save(self, folder: Path | str) -> None:
        """Write both files, each whole or not at all.

        Raises:
            RunError: the folder cannot be written.
        """
        lines = [HEADER]
        for row in self.rows:  # a number that was not recorded is NaN, and its field is empty
            lines.append(",".join("" if value != value else str(value) for value in row))
        content = {
            "schema": SCHEMA,
            "source": self.source,
            "state": self.outcome,
            "recipe": dataclasses.asdict(self.recipe),
            **self.provenance,
        }
        # The history first: killed in between, a run has an epoch more, and is interrupted still.
        write_whole(Path(folder) / "history.csv", ("\n".join(lines) + "\n").encode())
        write_whole(Path(folder) / "run.json", (json.dumps(content, indent=1) + "\n").encode())

    @classmethod
    def load(cls, folder: Path | str) -> "Run":
        """Read a run's folder.

        Raises:
            RunError: a file is missing, damaged, or of another schema, or they contradict each
                other.
        """
        path = Path(folder) / "run.json"
        text, rows = _read(path), _rows(Path(folder) / "history.csv")
        try:
            content = json.loads(text)
            if content.pop("schema", None) != SCHEMA:
                raise ValueError(f"its schema is not {SCHEMA}, which this wnlib reads")
            run = cls(_recipe(content.pop("recipe")), rows, source=content.pop("source"))
            outcome, run.provenance = content.pop("state"), content
            run.state = State(outcome.partition(" at ")[0])
            least = run.recipe.epochs if run.state is State.FINISHED else 0
            if run.outcome != outcome or not least <= len(rows) <= run.recipe.epochs:
                there = f"history.csv has {len(rows)} of {run.recipe.epochs} epochs"
                raise ValueError(f"it says {outcome}, but {there}")
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {one_line(error)}") from None
        return run


def one_line(error: Exception) -> str:
    """What an error says, whoever wrote what it quotes: a line that a terminal can show."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return "".join(c if c.isprintable() else "?" for c in text)[:300]


def _recipe(values: dict[str, Any]) -> Recipe:
    """As recorded, which checks its values itself."""
    return Recipe(**{name: v for name, v in values.items() if (name, v) != RETIRED})


def _rows(path: Path) -> list[Row]:
    rows: list[Row] = []
    *lines, rest = _read(path).split("\n")
    if lines[:1] != [HEADER]:
        raise RunError(f"{path} does not begin with {HEADER}")
    if rest:
        raise RunError(f"{path} is cut off in its last line")
    for number, line in enumerate(lines[1:], 1):
        try:
            epoch, *values = line.split(",")
            rows.append(Row(int(epoch), *(float(value or "nan") for value in values)))
            if rows[-1].epoch != number:
                raise ValueError
        except (TypeError, ValueError):
            raise RunError(f"{path}, line {number + 1} is damaged: {line[:80]!r}") from None
    return rows


def _read(path: Path) -> str:
    try:
        if path.is_file():  # a pipe of that name would keep us waiting
            return path.read_text(encoding="utf-8")
        what = "no file" if path.exists() else "missing"
    except (OSError, UnicodeError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    raise RunError(f"{path} is {what}: {path.parent} holds no run")


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
    return sorted((Run.load(p.parent) for p in paths), key=lambda run: [*Norm].index(run.norm))


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
            trained in by another process. What is recorded there stays as it is.
    """
    folder, keep = Path(folder).absolute(), Path(keep).absolute() if keep else None
    run = _recorded(folder, recipe, data)
    if run.state is not State.INTERRUPTED and not keep:
        yield from run.rows
        return
    with ExitStack() as stack:
        training = Training(recipe, data, device)
        is_latest = stack.enter_context(_alone(folder))
        if keep:
            if len(_recorded(keep, recipe, data).rows) > len(run.rows):
                _copy(keep, folder)
            stack.callback(_copy_if_possible, folder, keep)
        run = _recorded(folder, recipe, data)  # until now another process may have trained
        if run.state is State.INTERRUPTED:
            restore(folder, run, training)
        yield from list(run.rows)
        if run.state is not State.INTERRUPTED:
            return
        for key, now in provenance(data, training.device).items():
            before = now if key == "data" else run.provenance.get(key, now)  # checked above
            same = str(before).split(", then ")[-1] == str(now)  # else the run goes on elsewhere
            run.provenance[key] = before if same else f"{before}, then {now}"
        steps, copied = len(data.train_images) // recipe.batch_size, time.monotonic()
        options = {"desc": recipe.norm.label, "unit": "step", "disable": not progress}
        bar = tqdm(total=recipe.epochs * steps, initial=len(run.rows) * steps, **options)
        for row in training.epochs(stack.enter_context(bar).update):
            if not is_latest():
                raise RunError(f"a later training goes on in {folder}; this one gave way to it")
            # The checkpoint first: killed in between, the record is behind, and catches up.
            save(folder / "checkpoint.pt", training)
            _take(run, training)
            run.save(folder)
            if keep and time.monotonic() - copied >= EVERY:
                _copy_if_possible(folder, keep)
                copied = time.monotonic()
            bar.set_postfix_str(f"test error {100 * row.test_error:.2f} %")
            yield row


def _take(run: Run, training: Training) -> None:
    """The record is that of the training, as far as it has come."""
    run.rows, run.state = training.rows, training.state
    run.provenance["wall_seconds"] = sum(row.seconds for row in run.rows)


_latest: dict[Path, FileLock] = {}  # of the trainings of this process, the latest in each folder


@contextmanager
def _alone(folder: Path) -> Iterator[Callable[[], bool]]:
    """Inside, no other process trains in the folder; what it gives says: nor does a later call."""
    path = folder.resolve() / "lock"
    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path in _latest:  # an earlier training of this process gives way
            _latest[path].release(force=True)
        lock.acquire()
    except Timeout:
        said = f"another training is at work in {folder}; stop it, or {ELSEWHERE}"
        raise RunError(said) from None
    except (OSError, NotImplementedError) as error:  # the latter where there are no locks
        raise RunError(f"{folder} cannot be written: {error}") from None
    _latest[path] = lock
    try:
        yield lambda: _latest[path] is lock
    finally:
        if _latest[path] is lock:
            with suppress(OSError):  # Windows removes it with the release
                path.unlink()
            lock.release()


def _copy(source: Path, target: Path) -> None:
    for name in FILES:
        if (source / name).is_file():
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
    git, whole = ["git", "-C", str(package)], ["--", "."]
    with suppress(OSError, subprocess.CalledProcessError):
        last = [*git, "log", "-1", "--format=%h", *whole]
        commit = subprocess.check_output(last, stderr=subprocess.DEVNULL, text=True).strip()
        changed = subprocess.call([*git, "diff", "--quiet", "HEAD", *whole])
        return commit + "-dirty" * bool(changed) if commit else None
    return None


def _recorded(folder: Path, recipe: Recipe, data: Cifar10) -> Run:
    """What the folder holds of this very run; RunError for another one, or a damaged one."""
    try:
        if not (folder / "run.json").exists():
            return Run(recipe)
        run = Run.load(folder)
    except (OSError, RunError) as error:
        raise RunError(f"{error}; {ELSEWHERE}") from None
    if run.recipe != recipe:
        theirs, ours = vars(run.recipe), vars(recipe)
        changed = ", ".join(f"{k} {theirs[k]}, not {ours[k]}" for k in ours if theirs[k] != ours[k])
        raise RunError(f"{folder} holds another run ({changed}); {ELSEWHERE}")
    if (run.provenance.get("data") or {}).get("digest", data.digest) != data.digest:
        raise RunError(f"{folder} holds a run on other images; {ELSEWHERE}")
    return run


def save(path: Path, training: Training) -> None:
    """Write the checkpoint that `restore` goes on from."""
    # As torch.load takes it: with a str for a Norm, a float for one of numpy.
    recipe = json.loads(json.dumps(dataclasses.asdict(training.recipe)))
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
    buffer = BytesIO()
    torch.save(content, buffer)
    write_whole(path, buffer.getvalue())


def restore(folder: Path, run: Run, training: Training) -> None:
    """Take run and training to the checkpoint, or to the start where there is none.

    The record may be ahead of it or behind, where a synchronized folder kept only part: the
    checkpoint decides.

    Raises:
        RunError: it is missing, damaged, of an older wnlib or of another run.
    """
    path = folder / "checkpoint.pt"
    again = f"{ELSEWHERE}, or delete this one to start again"
    if not path.is_file():
        if run.rows:
            there = f"{folder} has {len(run.rows)} epochs but no checkpoint.pt to go on from"
            raise RunError(f"{there}; {again}")
        return
    try:
        blob = path.read_bytes()
        with ZipFile(BytesIO(blob)) as file:  # torch.load leaves the checksums alone
            if file.testzip() is not None:
                raise ValueError
        content = torch.load(BytesIO(blob), weights_only=True, map_location="cpu")
        theirs = content.get("format"), _recipe(content["run"]["recipe"]), content["run"]["data"]
        if theirs != (FORMAT, training.recipe, training.data.digest):
            raise RunError(f"{path} is of another run, or of another wnlib; {again}")
        training.rows = [Row(*row) for row in content["rows"]]
        training.state = State(content["state"])
        training.model.load_state_dict(content["model"])
        # Adam's moments alone: the rest is the recipe's.
        groups = training.optimizer.state_dict()["param_groups"]
        moments = {"state": content["optimizer"], "param_groups": groups}
        training.optimizer.load_state_dict(moments)
        if content["scaler"]:  # a run in bf16 has none, and needs none
            training.scaler.load_state_dict(content["scaler"])
        # On another device than before, its generator starts from the seed.
        for name, state in training.generators.items():
            state.copy_(content["generators"].get(name, state))
    except RunError:
        raise
    except Exception as error:  # a damaged file fails in any of a dozen ways
        raise RunError(f"{path} cannot be read: {one_line(error)}; {again}") from None
    _take(run, training)
    run.save(folder)
