"""The two files of a run, written whole, and believed only as far as they are checked.

``run.json`` says what was run, on what, and how it ended; ``history.csv`` has one row an epoch.
Errors are fractions, losses mean cross-entropies in nats, times seconds.
"""

import csv
import dataclasses
import json
import math
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from reprlib import repr as short
from typing import Any, NamedTuple

from wnlib.lab.files import read_whole, write_whole
from wnlib.recipe import Recipe

SCHEMA = 1
RECORD_BYTES = 1 << 20  # of run.json, at most; it has about 1,000
LINE_BYTES = 200  # of history.csv: an epoch, six numbers of at most 24 characters, seven separators


class RunError(RuntimeError):
    """A record cannot be read, written or gone on with; one line says why and what to do."""

    def __init__(self, message: str) -> None:
        # Paths and what was found in files may hold what a terminal would obey.
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))


class Row(NamedTuple):
    """One epoch. What was not recorded is NaN."""

    epoch: int  #: from 1
    lr: float  #: learning rate
    train_loss: float  #: mean over the epoch's minibatches, noise and dropout on
    train_error: float  #: likewise
    test_loss: float  #: over all test images
    test_error: float  #: likewise
    seconds: float  #: training and evaluation


HEADER = ",".join(Row._fields)


class Record(NamedTuple):
    """What the two files hold; the fields are those of `wnlib.lab.Run`."""

    recipe: Recipe
    rows: list[Row]
    state: str
    source: str
    provenance: dict[str, Any]


def write_record(folder: Path, record: Record) -> None:
    """Write both files, each whole or not at all.

    Raises:
        RunError: the folder cannot be written.
    """
    table = StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(Row._fields)
    for row in record.rows:
        writer.writerow("" if isinstance(v, float) and math.isnan(v) else v for v in row)
    content = {
        "schema": SCHEMA,
        "source": record.source,
        "state": record.state,
        "recipe": dataclasses.asdict(record.recipe),
        **record.provenance,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The history first: killed in between, a run has an epoch more, and is interrupted still.
        write_whole(folder / "history.csv", table.getvalue().encode())
        write_whole(folder / "run.json", (json.dumps(content, indent=1) + "\n").encode())
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror or error}") from None


def read_record(folder: Path) -> Record:
    """Read both files, whoever wrote them.

    Raises:
        RunError: one is missing, damaged, or of another schema, or they contradict each other.
    """
    path = folder / "run.json"
    content = _parse(_read(path, RECORD_BYTES), path)
    try:
        recipe = Recipe(**content.pop("recipe"))
        state, source = content.pop("state"), content.pop("source")
        if not (isinstance(source, str) and 0 < len(source) <= 60):
            raise ValueError(f"source is a short name, not {short(source)}")
        data, wall = content.get("data", {}), content.get("wall_seconds", 0)
        if not (isinstance(data, dict) and isinstance(data.get("digest", ""), str)):
            raise ValueError(f"data has a name and a digest, not {short(data)}")
        if type(wall) not in (int, float) or not 0 <= wall < 1e12:
            raise ValueError(f"wall_seconds is a number from 0 up, not {short(wall)}")
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} is damaged: {str(error)[:200]}") from None
    table = folder / "history.csv"
    rows = _rows(_read(table, (recipe.epochs + 1) * LINE_BYTES), table)
    if not is_state(state, rows, recipe):
        raise RunError(
            f"{path} says {short(state)}, but history.csv has {len(rows)} of {recipe.epochs} epochs"
        )
    return Record(recipe, rows, state, source, content)


def is_state(state: object, rows: list[Row], recipe: Recipe) -> bool:
    """Whether a run may be in that state after these rows."""
    epochs = len(rows)
    ended = (epochs == recipe.epochs and state == "finished") or (
        epochs > 0 and state == f"diverged at epoch {epochs}"
    )
    return epochs <= recipe.epochs and (ended or state == "interrupted")


def is_possible(row: Row) -> bool:
    """Whether each number is one that its column may have; losses may be infinite."""
    most = {
        "lr": sys.float_info.max,
        "train_loss": math.inf,
        "train_error": 1,
        "test_loss": math.inf,
    }
    most |= {"test_error": 1, "seconds": 1e12}
    values = row._asdict()
    return all(math.isnan(values[name]) or 0 <= values[name] <= most[name] for name in most)


def _read(path: Path, most: int) -> str:
    try:
        return read_whole(path, most).decode().replace("\r\n", "\n")
    except FileNotFoundError:
        raise RunError(f"{path} is missing: {path.parent} holds no run") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(text, parse_constant=_refuse)
        schema = content.pop("schema", None) if isinstance(content, dict) else None
        if type(schema) is not int or schema != SCHEMA:
            raise RunError(f"{path} has schema {short(schema)}; this wnlib reads {SCHEMA}")
        for string in _strings(content):
            if not string.isprintable():
                raise ValueError(f"{short(string)} is not a line of text")
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    return content


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


def _strings(value: object) -> Iterator[str]:
    """All that a JSON value holds, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for pair in value.items():
            yield from _strings(list(pair))
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)


def _rows(text: str, path: Path) -> list[Row]:
    header, *lines = text.removesuffix("\n").split("\n")
    if header != HEADER:
        raise RunError(f"{path} does not begin with {HEADER}")
    rows = []
    for number, line in enumerate(lines, 2):
        try:
            epoch, *values = line.split(",")
            row = Row(int(epoch), *(float(v) if v else math.nan for v in values))
            possible = is_possible(row)
        except (TypeError, ValueError):
            possible = False
        if not possible:
            raise RunError(f"{path}, line {number} is damaged: {line[:80]!r}")
        if row.epoch != number - 1:
            raise RunError(f"{path}, line {number} is epoch {short(row.epoch)}, not {number - 1}")
        rows.append(row)
    if not text.endswith("\n"):
        raise RunError(f"{path} is cut off in line {len(lines) + 1}")
    return rows
