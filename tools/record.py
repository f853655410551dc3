"""Train, or measure, again what the chapters load as recorded.

    python tools/record.py NAME [--jobs N] [--out FOLDER]

Without a name, the names there are. Whatever was stopped goes on; what is there is not done again.
The chapters load book/runs and book/records; by default this writes to runs/ and leaves them alone.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from wnlib import Norm, Recipe
from wnlib.data import Cifar10, DataError
from wnlib.lab import Run, fetch_cifar10
from wnlib.lab.cli import Parser, folder_name, speak_plainly
from wnlib.lab.grid import Display, run_grid, share_of_threads
from wnlib.lab.plans import Plan, plan_grid
from wnlib.lab.records import RunError, save
from wnlib.training import Training

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "book"))
from report_as_coded import QUIET, ladder, start_as_recorded_  # noqa: E402

SWEPT = (Norm.NONE, Norm.WN, Norm.BN, Norm.WN_MOBN)
RATES = (0.0003, 0.001, 0.003, 0.01, 0.03)
HOT = (0.003,)


def _divided(plans: list[Plan]) -> list[Plan]:
    """The same, where "plain" divides its weights: so it was when these were recorded."""
    normal = [plan.recipe.norm is Norm.NONE for plan in plans]
    return [
        plan._replace(recipe=plan.recipe.replace(plain="divided")) if bare else plan
        for plan, bare in zip(plans, normal, strict=True)
    ]


def _changed(plan: Plan, name: str, recipe: Recipe) -> Plan:
    """The same with another recipe, a folder deeper."""
    folder = plan.folder.parent / name / plan.folder.name
    names = {"name": f"{name}/{plan.name}", "label": f"{name}/{plan.label}"}
    return plan._replace(recipe=recipe, folder=folder, **names)


def _five(out: Path) -> list[Plan]:
    """The five configurations, 20 epochs of the paper's schedule."""
    return _divided(plan_grid(out / "width24-paper-20", width=24, epochs=20))


def _paper(out: Path) -> list[Plan]:
    """The five configurations, 40 epochs of the paper's schedule."""
    return _divided(plan_grid(out / "width24-paper-40", width=24, epochs=40))


def _full(out: Path) -> list[Plan]:
    """The five configurations at the paper's width, 40 epochs of its schedule: 7 hours and more."""
    norms = (Norm.WN_MOBN, Norm.NONE, Norm.WN, Norm.BN, Norm.MOBN)
    return plan_grid(out / "width96-paper-40", norms=norms, width=96, epochs=40)


def _again(out: Path) -> list[Plan]:
    """Three of these again, where a GPU draws other minibatches and other noise; one more seed."""
    folder, norms = out / "width96-paper-40-again", (Norm.NONE, Norm.WN, Norm.MOBN)
    again = plan_grid(folder, norms=norms, width=96, epochs=40)
    return again + plan_grid(folder / "seed1", norms=norms[2:], seeds=(1,), width=96, epochs=40)


def _seeds(out: Path) -> list[Plan]:
    """As `five` and `paper`, from two more seeds."""
    return [
        plan._replace(name=f"{epochs} epochs/{plan.name}")
        for epochs in (20, 40)
        for plan in _divided(
            plan_grid(out / f"width24-paper-{epochs}-seeds", seeds=(1, 2), width=24, epochs=epochs)
        )
    ]


def _report(out: Path) -> list[Plan]:
    """The five configurations, 40 epochs of the report's recipe."""
    return plan_grid(out / "width24-report-40", recipes=("report",), width=24, epochs=40)


def _ablation(out: Path) -> list[Plan]:
    """Weight norm, 20 epochs: paper's recipe without decay; on [0, 1]; there with less noise."""
    [plan] = plan_grid(out / "width24-paper-20-ablation", norms=(Norm.WN,), width=24, epochs=20)
    changes: dict[str, dict[str, Any]] = {
        "constant-rate": {"decay_from": 1.0},
        "unwhitened": {"inputs": "unit"},
        "unwhitened-quiet": {"inputs": "unit", "sigma": QUIET},
    }
    return [_changed(plan, name, plan.recipe.replace(**how)) for name, how in changes.items()]


def _sweep(out: Path) -> list[Plan]:
    """Five learning rates for four configurations, 6 epochs."""
    folder = out / "width24-paper-6-lr"
    return _divided(plan_grid(folder, norms=SWEPT, lrs=RATES, width=24, epochs=6))


def _frozen(out: Path) -> list[Plan]:
    """Normal as released, at the paper's rate and at 0.001, 20 epochs, three seeds."""
    folder = out / "width24-paper-20-frozen"
    rates = (0.0003, 0.001)
    return plan_grid(folder, norms=(Norm.NONE,), lrs=rates, seeds=range(3), width=24, epochs=20)


def _either_way(switched: list[Plan], held: list[Plan]) -> list[Plan]:
    """The first as they are, the others with Adam's beta1 at 0.9 to the end."""
    kept = [plan._replace(recipe=plan.recipe.replace(late_beta1=0.9)) for plan in held]
    ways = {"switched": switched, "held": kept}
    return [
        plan._replace(name=f"{way}/{plan.name}") for way, plans in ways.items() for plan in plans
    ]


def _rates(out: Path) -> list[Plan]:
    """Rates with Adam's beta1 switched half way and held, normal as released, 6 epochs."""
    folder = out / "width24-paper-6-rates"
    norms = (Norm.NONE, Norm.MOBN)
    switched = plan_grid(folder / "switched", norms=norms, lrs=RATES, width=24, epochs=6)
    return _either_way(switched, plan_grid(folder / "held", lrs=RATES[1:4], width=24, epochs=6))


def _edge(out: Path) -> list[Plan]:
    """Where normal and weight norm are lost: two of those rates, from two more seeds."""
    switched, held = (
        plan_grid(
            out / "width24-paper-6-edge" / way,
            norms=(Norm.NONE, Norm.WN),
            lrs=RATES[2:4],
            seeds=(1, 2),
            width=24,
            epochs=6,
        )
        for way in ("switched", "held")
    )
    return _either_way(switched, held)


def _switch(out: Path) -> list[Plan]:
    """The rate lowered when beta1 falls: by nothing, to 0.4 and to 0.16 of it, 6 epochs."""
    folder, norms = out / "width24-paper-6-switch", (Norm.NONE, Norm.WN)
    plans = plan_grid(folder, norms=norms, lrs=RATES[2:4], width=24, epochs=6)
    return [
        _changed(plan, f"times{factor:g}", plan.recipe.replace(switch_rate=factor))
        for factor in (0.16, 0.4, 1.0)
        for plan in plans
    ]


def _dropout(out: Path) -> list[Plan]:
    """Dropout from none to 0.7 with weight norm, 20 epochs."""
    [plan] = plan_grid(out / "width24-paper-20-dropout", norms=(Norm.WN,), width=24, epochs=20)
    return [
        _changed(plan, f"dropout{rate:g}", plan.recipe.replace(dropout=rate))
        for rate in (0.5, 0.0, 0.2, 0.3, 0.7, 0.1, 0.4, 0.6)
    ]


def _ladder(out: Path) -> list[Plan]:
    """From the report's recorded recipe to the paper's, a change a rung, width 96, 20 epochs."""
    plans = []
    for norm, rungs in (
        (Norm.WN, ("paper", "recorded", "quiet", "whitened", "falling", "mended")),
        (Norm.NONE, ("recorded", "paper")),
        (Norm.BN, ("mended", "paper")),  # what was recorded under its name is the normal network
    ):
        [plan] = plan_grid(out / "width96-ladder-20", norms=(norm,), width=96, epochs=20)
        plans += [
            _changed(plan, rung, ladder(norm)[rung].replace(width=96, epochs=20)) for rung in rungs
        ]
    return plans


def begin_as_recorded(plan: Plan, data: Cifar10) -> None:
    """Before its first epoch: a checkpoint with the weights that the report's runs started from."""
    if not (plan.folder / "checkpoint.pt").exists() and not (plan.folder / "run.json").exists():
        training = Training(plan.recipe, data)
        start_as_recorded_(training.model)
        plan.folder.mkdir(parents=True, exist_ok=True)
        save(plan.folder / "checkpoint.pt", training)


def _exp(out: Path) -> list[Plan]:
    """Weight norm with g = exp(s), 6 epochs."""
    folder = out / "width24-paper-6-exp"
    return plan_grid(folder, norms=(Norm.WN,), scales=("exp",), width=24, epochs=6)


def _hot(out: Path) -> list[Plan]:
    """The report's recipe at a learning rate of 0.003, 6 epochs."""
    folder = out / "width24-report-6-lr0.003"
    norms = (Norm.NONE, Norm.WN)
    return plan_grid(folder, recipes=("report",), norms=norms, lrs=HOT, width=24, epochs=6)


def _noise(out: Path) -> list[Plan]:
    """Two networks, 6 epochs, and the kurtosis of their noise layer by layer."""
    norms = (Norm.BN, Norm.WN_MOBN)
    return plan_grid(out / "width24-paper-6-noise", norms=norms, width=24, epochs=6)


def _bench(out: Path) -> list[Plan]:
    """What a step costs: needs an idle machine for some minutes."""
    return []


def _small_batches(out: Path) -> list[Plan]:
    """Four normalizations in minibatches from 2 to 128 images, on the sample: ten minutes."""
    return []


def _report_first_epochs(out: Path) -> list[Plan]:
    """The report's weight norm as it was recorded, at its width, 3 epochs: ten minutes."""
    return []


EXPERIMENTS = {
    f.__name__[1:].replace("_", "-"): f
    for f in (
        *(
            _five,
            _paper,
            _full,
            _again,
            _seeds,
            _report,
            _ablation,
            _sweep,
            _frozen,
            _rates,
            _edge,
            _switch,
        ),
        *(_dropout, _ladder, _exp, _hot, _noise, _bench, _small_batches, _report_first_epochs),
    )
}
# Other networks, by programs of their own, one run after the other: what is recorded.
BEYOND = {
    "draw": "DRAW on MNIST, five starts, three rates, three seeds: 2 hours.",
    "vae": "A variational autoencoder on MNIST, three starts, three rates, three seeds: 1 hour.",
    "policy": "Policy and value in Connect-4, eight set-ups, four rates, three seeds.",
    "selfplay": "Connect-4 learned from itself, three set-ups, two rates, three seeds: 45 minutes.",
    "dqn": "Deep Q-learning on a small Breakout, two agents, four rates, five seeds.",
}
# What a measurement prints becomes a record, book/records/NAME.json.
MEASURED = {
    "noise": lambda plans: ["book/noise.py", *(str(plan.folder) for plan in plans)],
    "bench": lambda plans: ["-m", "wnlib", "bench", "--full", "--json"],
    "small-batches": lambda plans: ["book/small_batches.py"],
    "report-first-epochs": lambda plans: ["book/report_as_coded.py"],
}


def record(name: str, out: Path, jobs: int) -> Iterator[str]:
    """Do one experiment; yield what is to be said of it.

    Raises:
        RunError: a run failed.
    """
    if name in BEYOND:
        program = {"draw": "record", "vae": "record"}.get(name, "record_games")
        command = [sys.executable, f"book/beyond/{program}.py", name, "--out", str(out)]
        if subprocess.run(command, cwd=ROOT).returncode:
            raise RunError(f"{name}: not all of it is recorded; the same command goes on")
        yield f"recorded in {out / f'beyond-{name}'}"
        return
    plans = EXPERIMENTS[name](out)
    if plans:
        share_of_threads(jobs)  # before a download that may take minutes
        data = fetch_cifar10()
        for plan in plans:
            if plan.recipe.name == "recorded":
                begin_as_recorded(plan, data)
        with closing(Display()) as display:
            results = run_grid(plans, data, jobs=jobs, display=display)
        for plan, result in results.items():
            if not isinstance(result, Run):
                raise RunError(f"{plan.name}: {result}")
        yield f"recorded in {os.path.commonpath([plan.folder.parent for plan in plans])}"
    if name in MEASURED:
        command = [sys.executable, *MEASURED[name](plans)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise RunError(f"{name}: the measurement failed")
        path = out / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(json.loads(done.stdout), indent=1) + "\n")
        yield f"recorded in {path}"


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 2 with one line on standard error."""
    speak_plainly()
    parser = Parser(prog="record", description="Record again what the chapters load.")
    names = [*EXPERIMENTS, *BEYOND]
    parser.add_argument("name", nargs="?", choices=names, help="without: the names")
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side; default: 2")
    parser.add_argument("--out", type=folder_name, default=Path("runs"), help="default: runs")
    arguments = parser.parse_args(argv)
    if arguments.name is None:
        what = {name: f.__doc__ for name, f in EXPERIMENTS.items()} | BEYOND
        print("\n".join(f"{name:19} {text}" for name, text in what.items()))
        return 0
    try:
        for text in record(arguments.name, arguments.out.absolute(), arguments.jobs):
            print(text)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last whole epoch", file=sys.stderr)
        return 2
    except (RunError, DataError, ValueError, OSError) as error:
        print(f"record: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
