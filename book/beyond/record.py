"""Record the runs that the chapters on DRAW and the VAE load.

    python book/beyond/record.py draw|vae [--seeds N] [--out FOLDER]

A folder a run: run.json (what it was), history.csv (a row each so many
updates), and, from seed 0, samples.png (what the network paints at the
end). A stopped run goes on from its last row; a run that is there is not
done again. By default this writes to runs/ and leaves book/runs alone.
"""

import argparse
import csv
import dataclasses
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

HERE = Path(__file__).parent
if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))

from beyond.mnist import DataError, Mnist, load_mnist
from beyond.training import MODELS, Plan, Row, Training

SCHEMA = 1
# Updates in all, updates a row, images a minibatch.
LENGTHS = {"draw": (240, 20, 50), "vae": (180, 20, 100)}


def _commit() -> str:
    """Of the book, and whether there is more than it; "" without git."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    return done.stdout.strip()


COMMIT = _commit()  # that of the code as imported, whatever comes later


@dataclass(frozen=True)
class Record:
    """A recorded run, as a chapter loads it."""

    plan: Plan
    rows: list[Row]
    state: str
    about: dict[str, Any]
    folder: Path

    @property
    def bound(self) -> float:
        """Of the test images at the end, nats; infinite if it diverged."""
        done = self.state == "finished"
        return self.rows[-1].test_bound if done else float("inf")


def plans(model: str, seeds: int = 3) -> list[Plan]:
    """The grid, one seed after the other."""
    module = MODELS[model]
    length = LENGTHS[model]
    return [
        Plan(model, start, lr, seed, *length)
        for seed in range(seeds)
        for lr in module.RATES
        for start in module.STARTS
    ]


def folder_of(plan: Plan, out: Path) -> Path:
    name = f"{plan.start}/lr{plan.lr:g}/seed{plan.seed}"
    return out / f"beyond-{plan.model}" / name


def record(plan: Plan, data: Mnist, folder: Path) -> Iterator[Row]:
    """Do a run, or the rest of it; write each row before it is yielded."""
    training = Training(plan, data)
    checkpoint = folder / "checkpoint.pt"
    if (folder / "run.json").exists():
        if load(folder).plan != plan:
            raise ValueError(f"{folder} holds another run")
        if load(folder).state != "interrupted":
            checkpoint.unlink(missing_ok=True)
            return
    if checkpoint.exists():
        training.load_state_dict(torch.load(checkpoint, weights_only=True))
    folder.mkdir(parents=True, exist_ok=True)
    for row in training.rows_to_come():
        if training.ended == "finished" and plan.seed == 0:
            _paint(training, folder / "samples.png")
        _write(training, folder)  # before the checkpoint of this row
        partial = folder / "checkpoint.partial"
        torch.save(training.state_dict(), partial)
        partial.replace(checkpoint)
        yield row
    checkpoint.unlink(missing_ok=True)


def load(folder: Path) -> Record:
    """Read a run's folder.

    Raises:
        ValueError: what it says of itself does not fit its rows.
    """
    about = json.loads((folder / "run.json").read_text())
    if about.pop("schema") != SCHEMA:
        raise ValueError(f"{folder}: another schema")
    plan, state = Plan(**about.pop("plan")), about.pop("state")
    with (folder / "history.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    rows = [Row(int(t), *map(float, rest)) for t, *rest in lines]
    last = rows[-1].update
    fits = {
        "finished": last == plan.updates,
        "interrupted": last < plan.updates,
        f"diverged at update {last}": True,
    }
    if tuple(header) != Row._fields or not fits.get(state):
        raise ValueError(f"{folder}: {state} after {last} updates?")
    return Record(plan, rows, state, about, folder)


def load_grid(model: str, out: Path = HERE.parent / "runs") -> list[Record]:
    """All ended runs of a model, in the order of `plans`."""
    paths = (out / f"beyond-{model}").glob("**/run.json")
    records = [load(path.parent) for path in paths]
    order = list(MODELS[model].STARTS)
    return sorted(
        (r for r in records if r.state != "interrupted"),
        key=lambda r: (r.plan.seed, r.plan.lr, order.index(r.plan.start)),
    )


def _write(training: Training, folder: Path) -> None:
    rows = training.rows
    content = {
        "schema": SCHEMA,
        "plan": dataclasses.asdict(training.plan),
        "state": training.ended or "interrupted",
        "data": {
            "name": training.data.name,
            "digest": training.data.digest,
        },
        "tested": len(training.test),
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": COMMIT,
        "wall_seconds": round(sum(row.seconds for row in rows), 1),
    }
    lines = [",".join(Row._fields)]
    for row in rows:
        bounds = f"{row.train_bound:.4f},{row.test_bound:.4f}"
        lines.append(f"{row.update},{bounds},{row.seconds:.2f}")
    for name, text in (
        ("history.csv", "\n".join(lines)),
        ("run.json", json.dumps(content, indent=1)),
    ):
        partial = folder / f"{name}.partial"
        partial.write_text(text + "\n")
        partial.replace(folder / name)


def _paint(training: Training, path: Path) -> None:
    """DRAW: three test images and three of its own, a row each, a column a
    step, beside the image itself. VAE: four rows of its own images."""
    noise = torch.Generator().manual_seed(0)
    if training.plan.model == "draw":
        x = training.test[:3]  # (3, 28, 28)
        painted = training.average.reconstruct(x, noise)  # (3, T, 28, 28)
        own = training.average.sample(3, noise)  # (3, T, 28, 28)
        x = torch.cat([x[:, None], torch.zeros(3, 1, 28, 28)])
        tiles = torch.cat(
            [x, torch.cat([painted, own])], 1
        )  # (6, T + 1, …)
    else:
        tiles = training.average.sample(48, noise).unflatten(0, (4, 12))
    rows, columns = tiles.shape[:2]
    sheet = tiles.transpose(1, 2).reshape(rows * 28, columns * 28)
    values = (255 * sheet).round().numpy().astype(np.uint8)
    Image.fromarray(values).save(path, optimize=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Record a grid of runs.")
    parser.add_argument("model", choices=list(MODELS))
    parser.add_argument("--seeds", type=int, default=3, help="default: 3")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)  # so small a network is fastest on one
    data = load_mnist(full=True)
    for plan in plans(arguments.model, arguments.seeds):
        folder = folder_of(plan, arguments.out)
        for _ in record(plan, data, folder):
            pass
        done = load(folder)
        print(f"{folder}: {done.state}, {done.bound:.1f} nats", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(2)
    except (DataError, OSError, ValueError) as error:
        sys.exit(f"record: {error}")
