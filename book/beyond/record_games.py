"""Record the runs of the chapters on games, each of them once.

python book/beyond/record_games.py NAME [--out FOLDER] writes a folder a
run: run.json (what, seed, rate, versions, commit, state) and history.csv.
NAME is policy, selfplay or dqn.
A run that is there is not done again; one that was stopped is begun anew:
none takes more than a minute or two. By default this writes to runs/.
"""

import argparse
import csv
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import StringIO
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

import wnlib

HERE = Path(__file__).parent
if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))

from beyond import breakout, connect4, dqn, selfplay, tower

RUNS = HERE.parent / "runs"
SEEDS = (0, 1, 2)
DQN_SEEDS = (0, 1, 2, 3, 4)  # returns vary more
UPDATES, TEST = 300, 1_000
# configuration and start, one after the other as they are recorded
POLICY = [
    ("none", "he"),
    ("none", "small"),
    ("wn", "he"),
    ("wn", "small"),
    ("bn", "he"),
    ("mobn", "he"),
    ("wn_mobn", "he"),
    ("wn", "unit"),
]
POLICY_RATES = (0.002, 0.006, 0.0006, 0.02)
PLAYER = {"norm": "wn", "start": "small", "rate": 0.006, "seed": 0}
PLAYER |= {"updates": UPDATES}  # whose network plays in the page
# Each at the start that was its best with a teacher.
SELFPLAY = (("none", "small"), ("wn", "small"), ("bn", "he"))
SELFPLAY_RATES = (0.002, 0.006)
ROUNDS, VISITS, EVERY = 30, 40, 5  # a row each EVERY rounds
SIZES = {"games": 64, "updates": 20}  # of a round
DQN = ("none", "wn")
DQN_RATES = (0.001, 0.0003, 0.003, 0.0001)
FRAMES = 64_000
Rows = Iterator[dict[str, float]]


def policy_plans() -> Iterator[dict[str, Any]]:
    for rate, seed, (norm, begin) in product(POLICY_RATES, SEEDS, POLICY):
        yield {
            "norm": norm,
            "start": begin,
            "rate": rate,
            "seed": seed,
            "updates": UPDATES,
        }


def policy(plan: dict[str, Any], folder: Path) -> Rows:
    """Of one run also the trained network, weights.npy."""
    data = connect4.load()
    train, test = data.part(slice(TEST, None)), data.part(slice(TEST))
    boards = train.boards[:500]
    seed = plan["seed"]
    model = tower.fresh(plan["norm"], plan["start"], seed, boards)
    rows = tower.learn(model, train, plan["rate"], plan["updates"], seed)
    for update, train_loss in rows:
        accuracy, error = tower.measure(model, test)
        yield {
            "update": update,
            "train_loss": train_loss,
            "accuracy": accuracy,
            "value_error": error,
        }
    if plan == PLAYER:
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "weights.npy", tower.folded(model))


def selfplay_plans() -> Iterator[dict[str, Any]]:
    for seed, rate, (norm, begin) in product(
        SEEDS, SELFPLAY_RATES, SELFPLAY
    ):
        about = {"norm": norm, "start": begin, "rate": rate, "seed": seed}
        yield about | {"rounds": ROUNDS, "visits": VISITS} | SIZES


def play_itself(plan: dict[str, Any], folder: Path) -> Rows:
    """Of one run also the trained network, weights.npz.

    A row's score is its share of points against a search of as many visits
    without a network, from all openings with either side.
    """
    data, seed = connect4.load(), plan["seed"]
    test, train = data.part(slice(TEST)), data.part(slice(TEST, None))
    boards = train.boards[:500]
    model = tower.fresh(plan["norm"], plan["start"], seed, boards)
    keys = ("rate", "seed", "rounds", "games", "visits", "updates")
    blind = selfplay.Blind()
    losses = selfplay.learn(model, **{key: plan[key] for key in keys})
    for number, train_loss in enumerate(losses, 1):
        if number % EVERY == 0:
            accuracy, error = tower.measure(model, test)
            yield {
                "games": number * plan["games"],
                "train_loss": train_loss,
                "accuracy": accuracy,
                "value_error": error,
                "score": selfplay.score(model, blind, plan["visits"]),
            }
    folder.mkdir(parents=True, exist_ok=True)
    state = model.state_dict().items()
    numbers = {key: value.numpy().astype("f2") for key, value in state}
    np.savez_compressed(folder / "weights.npz", **numbers)


def player(folder: Path) -> tower.Tower:
    """The network of a recorded run of self-play."""
    about = json.loads((folder / "run.json").read_text())
    model = tower.Tower(about["norm"])
    with np.load(folder / "weights.npz", allow_pickle=False) as file:
        state = {key: torch.from_numpy(file[key]) for key in file.files}
    model.load_state_dict(state)
    return model


def matches(out: Path) -> list[dict[str, Any]]:
    """Every pair of set-ups, by rate and seed: the first one's score."""
    found = []
    for seed, rate in product(SEEDS, SELFPLAY_RATES):
        for pair in combinations(SELFPLAY, 2):
            plans = [
                {"norm": n, "start": s, "rate": rate, "seed": seed}
                for n, s in pair
            ]
            models = [player(folder_of("selfplay", p, out)) for p in plans]
            score = selfplay.score(*models, VISITS)
            names = ["-".join(each) for each in pair]
            found.append({"pair": names, "rate": rate, "seed": seed})
            found[-1]["score"] = round(score, 5)
    return found


def played(out: Path = RUNS) -> list[dict[str, Any]]:
    """The recorded matches, as `matches` gives them."""
    path = out / "beyond-selfplay" / "matches.json"
    return json.loads(path.read_text())


def dqn_plans() -> Iterator[dict[str, Any]]:
    for rate, seed, norm in product(DQN_RATES, DQN_SEEDS, DQN):
        yield {"norm": norm, "rate": rate, "seed": seed, "frames": FRAMES}


def play(plan: dict[str, Any], folder: Path) -> Rows:
    """Of two runs also a film of the trained network's play, game.json."""
    found = list(
        dqn.learn(plan["norm"], plan["rate"], plan["seed"], plan["frames"])
    )
    yield from (row._asdict() for row, _ in found)
    if (plan["rate"], plan["seed"]) == (DQN_RATES[0], 0):
        net = found[-1][1]
        boards, notes = breakout.film(
            lambda game: dqn.acted(net, game.boards()), seed=0
        )
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"boards": boards, "notes": notes}, indent=0)
        (folder / "game.json").write_text(text + "\n")


EXPERIMENTS: dict[str, tuple[Callable, Callable]] = {
    "policy": (policy_plans, policy),
    "selfplay": (selfplay_plans, play_itself),
    "dqn": (dqn_plans, play),
}


def folder_of(name: str, plan: dict[str, Any], out: Path) -> Path:
    begin = f"-{plan['start']}" if "start" in plan else ""
    run = f"{plan['norm']}{begin}-lr{plan['rate']}-seed{plan['seed']}"
    return out / f"beyond-{name}" / run


def commit() -> str:
    """What the code is: the commit, marked where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"


def write(folder: Path, about: dict[str, Any], rows: list[dict]) -> None:
    """Both files; the history first, so that a finished run has it all."""
    folder.mkdir(parents=True, exist_ok=True)
    table = StringIO(newline="")
    writer = csv.DictWriter(table, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {k: "" if math.isnan(v) else round(v, 5) for k, v in row.items()}
        for row in rows
    )
    text = json.dumps({"schema": 1, **about}, indent=1) + "\n"
    for name, content in (
        ("history.csv", table.getvalue()),
        ("run.json", text),
    ):
        part = folder / f"{name}.partial"
        part.write_text(content)
        part.replace(folder / name)


def record(name: str, out: Path = RUNS) -> Iterator[str]:
    """Do what is missing of an experiment; a line a run."""
    plans, run = EXPERIMENTS[name]
    code = commit()
    for plan in plans():
        folder = folder_of(name, plan, out)
        if (folder / "run.json").exists():
            continue
        began, rows = time.perf_counter(), list(run(plan, folder))
        about = {
            "experiment": name,
            **plan,
            "state": "finished",
            "torch": torch.__version__,
            "wnlib": wnlib.__version__,
            "commit": code,
            "device": "cpu, 1 thread",
            "seconds": round(time.perf_counter() - began, 1),
        }
        write(folder, about, rows)
        yield f"{folder.name}: {rows[-1]}"
    if name == "selfplay":
        path = out / "beyond-selfplay" / "matches.json"
        if not path.exists():
            path.write_text(json.dumps(matches(out), indent=1) + "\n")
            yield f"{path.name}: {len(SELFPLAY)} set-ups against each other"


def load(name: str, out: Path = RUNS) -> list[dict[str, Any]]:
    """The recorded runs: what run.json says, and "rows" of numbers.

    Raises:
        ValueError: there is none, or one has another schema.
    """
    found = []
    for path in sorted((out / f"beyond-{name}").glob("*/run.json")):
        about = json.loads(path.read_text())
        if about.pop("schema") != 1:
            raise ValueError(f"{path} has another schema")
        with (path.parent / "history.csv").open() as file:
            about["rows"] = [
                {k: float(v or "nan") for k, v in row.items()}
                for row in csv.DictReader(file)
            ]
        found.append(about)
    if not found:
        raise ValueError(f"no run of {name} in {out}")
    return found


def paired(differences: list[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval (Student's t).

    A difference a seed, of two runs with the same seed. One has no
    interval: its half width is infinite.
    """
    mean, n = float(np.mean(differences)), len(differences)
    if n == 1:
        return mean, math.inf
    spread = np.std(differences, ddof=1)
    return mean, float(student.ppf(0.975, n - 1) * spread / n**0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=list(EXPERIMENTS))
    parser.add_argument("--out", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for line in record(arguments.name, arguments.out):
        print(line, flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(2)
    except (OSError, ValueError) as error:
        sys.exit(f"record: {error}")
