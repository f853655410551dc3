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
from pathlib import Path
from typing import Any

from wnlib import Norm
from wnlib.data import Cifar10
from wnlib.lab import Run, fetch_cifar10
from wnlib.lab.cli import Parser, folder_name, guarded
from wnlib.lab.grid import Plan, plan_grid, run_grid, share_of_threads, speed_up_process
from wnlib.lab.records import RunError, save
from wnlib.training import Training

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "book"))
from report_as_coded import QUIET, ladder, start_as_recorded_  # noqa: E402

RATES = (0.0003, 0.001, 0.003, 0.01, 0.03)


def _grid(folder: Path, width: int = 24, **axes: Any) -> list[Plan]:
    return plan_grid(folder, width=width, **axes)


def _divided(plans: list[Plan]) -> list[Plan]:
    """The same, where "plain" divides its weights: so it was when these were recorded."""
    return [
        plan._replace(recipe=plan.recipe.replace(plain="divided"))
        if plan.recipe.norm is Norm.NONE
        else plan
        for plan in plans
    ]


def _changed(plan: Plan, name: str, **changes: Any) -> Plan:
    """The same with another recipe, a folder deeper."""
    folder = plan.folder.parent / name / plan.folder.name
    return Plan(plan.recipe.replace(**changes), folder, f"{name}/{plan.name}")


def _five(out: Path) -> list[Plan]:
    """The five configurations, 20 epochs of the paper's schedule."""
    return _divided(_grid(out / "width24-paper-20", epochs=20))


def _paper(out: Path) -> list[Plan]:
    """The five configurations, 40 epochs of the paper's schedule."""
    return _divided(_grid(out / "width24-paper-40", epochs=40))


def _full(out: Path) -> list[Plan]:
    """The five configurations at the paper's width, 40 epochs of its schedule: 7 hours and more."""
    norms = (Norm.WN_MOBN, Norm.NONE, Norm.WN, Norm.BN, Norm.MOBN)
    return _grid(out / "width96-paper-40", 96, norms=norms, epochs=40)


def _again(out: Path) -> list[Plan]:
    """Three of these again, where a GPU draws other minibatches and other noise; one more seed."""
    folder, norms = out / "width96-paper-40-again", (Norm.NONE, Norm.WN, Norm.MOBN)
    more = _grid(folder / "seed1", 96, norms=norms[2:], seeds=(1,), epochs=40)
    return _grid(folder, 96, norms=norms, epochs=40) + more


def _fair(out: Path) -> list[Plan]:
    """The two of `full` that the paper's rates do not suit, each at 0.001, 40 epochs."""
    norms = (Norm.MOBN, Norm.NONE)
    return _grid(out / "width96-paper-40-fair", 96, norms=norms, lrs=RATES[1:2], epochs=40)


def _stall(out: Path) -> list[Plan]:
    """Mean-only BN at the paper's rate and width: with a frozen g; with a lower rate at last."""
    [plan] = _grid(out / "width96-paper-40-stall", 96, norms=(Norm.MOBN,), epochs=40)
    return [
        _changed(plan, "frozen", plain="frozen"),
        _changed(plan, "times0.16", switch_rate=0.16),
    ]


def _paper_length(out: Path) -> list[Plan]:
    """Three of the five as the paper trained them: at its width, 200 epochs."""
    norms = (Norm.WN_MOBN, Norm.BN, Norm.WN)
    return _grid(out / "width96-paper-200", 96, norms=norms, epochs=200)


def _report_length(out: Path) -> list[Plan]:
    """The report's recorded recipe for its 200 epochs: so, with less noise, with a falling rate."""
    [plan] = _grid(out / "width16-report-200", 16, norms=(Norm.WN,), epochs=200)
    recipe = ladder(Norm.WN)["recorded"].replace(width=16, epochs=200)
    plan = plan._replace(recipe=recipe)
    return [
        _changed(plan, "recorded"),
        _changed(plan, "quiet", sigma=QUIET),
        _changed(plan, "falling", sigma=QUIET, decay_from=0.5),
    ]


def _seeds(out: Path) -> list[Plan]:
    """As `five` and `paper`, from two more seeds."""
    return [
        plan._replace(name=f"{epochs} epochs/{plan.name}")
        for epochs in (20, 40)
        for plan in _divided(
            _grid(out / f"width24-paper-{epochs}-seeds", seeds=(1, 2), epochs=epochs)
        )
    ]


def _report(out: Path) -> list[Plan]:
    """The five configurations, 40 epochs of the report's recipe."""
    return _grid(out / "width24-report-40", recipes=("report",), epochs=40)


def _ablation(out: Path) -> list[Plan]:
    """Weight norm, 20 epochs: paper's recipe without decay; on [0, 1]; there with less noise."""
    [plan] = _grid(out / "width24-paper-20-ablation", norms=(Norm.WN,), epochs=20)
    return [
        _changed(plan, "constant-rate", decay_from=1.0),
        _changed(plan, "unwhitened", inputs="unit"),
        _changed(plan, "unwhitened-quiet", inputs="unit", sigma=QUIET),
    ]


def _sweep(out: Path) -> list[Plan]:
    """Five learning rates for four configurations, 6 epochs."""
    norms = (Norm.NONE, Norm.WN, Norm.BN, Norm.WN_MOBN)
    return _divided(_grid(out / "width24-paper-6-lr", norms=norms, lrs=RATES, epochs=6))


def _frozen(out: Path) -> list[Plan]:
    """Plain as released, at the paper's rate and at 0.001, 20 epochs, three seeds."""
    folder, axes = out / "width24-paper-20-frozen", {"norms": (Norm.NONE,), "lrs": RATES[:2]}
    return _grid(folder, **axes, seeds=range(3), epochs=20)


def _either_way(folder: Path, axes: dict[str, Any], held: dict[str, Any]) -> list[Plan]:
    """Adam's beta1 switched half way and held at 0.9 to the end, 6 epochs."""
    ways = {"switched": axes, "held": held | {"late_beta1": 0.9}}
    return [
        plan._replace(name=f"{way}/{plan.name}")
        for way, each in ways.items()
        for plan in _grid(folder / way, **each, epochs=6)
    ]


def _rates(out: Path) -> list[Plan]:
    """Rates with Adam's beta1 switched half way and held, plain as released, 6 epochs."""
    switched = {"norms": (Norm.NONE, Norm.MOBN), "lrs": RATES}
    return _either_way(out / "width24-paper-6-rates", switched, {"lrs": RATES[1:4]})


def _edge(out: Path) -> list[Plan]:
    """Where plain and weight norm are lost: two of those rates, from two more seeds."""
    axes = {"norms": (Norm.NONE, Norm.WN), "lrs": RATES[2:4], "seeds": (1, 2)}
    return _either_way(out / "width24-paper-6-edge", axes, axes)


def _switch(out: Path) -> list[Plan]:
    """The rate lowered when beta1 falls: by nothing, to 0.4 and to 0.16 of it, 6 epochs."""
    axes = {"norms": (Norm.NONE, Norm.WN), "lrs": RATES[2:4]}
    plans = _grid(out / "width24-paper-6-switch", **axes, epochs=6)
    return [
        _changed(plan, f"times{factor:g}", switch_rate=factor)
        for factor in (0.16, 0.4, 1.0)
        for plan in plans
    ]


def _dropout(out: Path) -> list[Plan]:
    """Dropout from none to 0.7 with weight norm, 20 epochs."""
    [plan] = _grid(out / "width24-paper-20-dropout", norms=(Norm.WN,), epochs=20)
    rates = (0.5, 0.0, 0.2, 0.3, 0.7, 0.1, 0.4, 0.6)
    return [_changed(plan, f"dropout{rate:g}", dropout=rate) for rate in rates]


def _ladder(out: Path) -> list[Plan]:
    """From the report's recorded recipe to the paper's, a change a rung, width 96, 20 epochs."""
    plans = []
    for norm, rungs in (
        (Norm.WN, ("paper", "recorded", "quiet", "whitened", "falling", "mended")),
        (Norm.NONE, ("recorded", "paper")),
        (Norm.BN, ("mended", "paper")),  # what was recorded under its name is the plain network
    ):
        [plan] = _grid(out / "width96-ladder-20", 96, norms=(norm,), epochs=20)
        for rung in rungs:
            recipe = ladder(norm)[rung].replace(width=96, epochs=20)
            plans.append(_changed(plan, rung)._replace(recipe=recipe))
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
    return _grid(out / "width24-paper-6-exp", norms=(Norm.WN,), scales=("exp",), epochs=6)


def _hot(out: Path) -> list[Plan]:
    """The report's recipe at a learning rate of 0.003, 6 epochs."""
    axes = {"recipes": ("report",), "norms": (Norm.NONE, Norm.WN), "lrs": RATES[2:3]}
    return _grid(out / "width24-report-6-lr0.003", **axes, epochs=6)


def _noise(out: Path) -> list[Plan]:
    """Two networks, 6 epochs, and the kurtosis of their noise layer by layer."""
    return _grid(out / "width24-paper-6-noise", norms=(Norm.BN, Norm.WN_MOBN), epochs=6)


def _statistics(out: Path) -> list[Plan]:
    """Three networks, 6 epochs, and their errors when running statistics are estimated anew."""
    folder = out / "width12-statistics-6"
    axes = {"norms": (Norm.BN, Norm.WN), "recipes": ("report", "paper"), "epochs": 6}
    return [plan for plan in _grid(folder, 12, **axes) if plan.name != "paper/wn"]


EXPERIMENTS = {
    f.__name__[1:].replace("_", "-"): f
    for f in (
        *(_five, _paper, _full, _again, _seeds, _report, _ablation, _sweep, _frozen, _rates),
        *(_edge, _switch, _dropout, _ladder, _exp, _hot, _noise),
        *(_statistics, _fair, _stall, _report_length, _paper_length),
    )
}
# What a program prints becomes a record, book/records/NAME.json; after the training, if any.
MEASURED = {
    "noise": ("book/noise.py", *(f"{{out}}/width24-paper-6-noise/{n}" for n in ("bn", "wn_mobn"))),
    "statistics": (
        "book/running_statistics.py",
        *(
            f"{{out}}/width12-statistics-6/{name}"
            for name in ("report/bn", "report/wn", "paper/bn")
        ),
    ),
    "bench": ("book/step_cost.py", "--full"),
    "small-batches": ("book/small_batches.py", "{out}/small-batches"),
    "report-first-epochs": ("book/report_as_coded.py",),
}
# Other networks, by programs of their own, one run after the other: what is recorded.
PROGRAMS = {"draw": "record", "vae": "record", "policy": "record_games"}
PROGRAMS |= {"selfplay": "record_games", "dqn": "record_games"}
NAMES = {name: f.__doc__ for name, f in EXPERIMENTS.items()} | {
    "bench": "What a step costs: needs an idle machine for some minutes.",
    "small-batches": "Five networks in minibatches of 2 to 128 images: an hour.",
    "report-first-epochs": "The report's weight norm as it was recorded, at its width, 3 epochs.",
    "draw": "DRAW on MNIST, five starts, three rates, three seeds: 2 hours.",
    "vae": "A variational autoencoder on MNIST, three starts, three rates, three seeds: 1 hour.",
    "policy": "Policy and value in Connect-4, eight set-ups, four rates, three seeds.",
    "selfplay": "Connect-4 learned from itself, three set-ups, two rates, three seeds: 45 minutes.",
    "dqn": "Deep Q-learning on a small Breakout, two agents, four rates, five seeds.",
}


def record(name: str, out: Path, jobs: int) -> Iterator[str]:
    """Do one experiment; yield what is to be said of it.

    Raises:
        RunError: a run failed.
    """
    if name in PROGRAMS:
        command = [sys.executable, f"book/beyond/{PROGRAMS[name]}.py", name, "--out", str(out)]
        if subprocess.run(command, cwd=ROOT).returncode:
            raise RunError(f"{name}: not all of it is recorded; the same command goes on")
        yield f"recorded in {out / f'beyond-{name}'}"
    if name in EXPERIMENTS:
        plans = EXPERIMENTS[name](out)
        share_of_threads(jobs)  # before a download that may take minutes
        data = fetch_cifar10()
        speed_up_process()
        for plan in plans:
            if plan.recipe.name == "recorded":
                begin_as_recorded(plan, data)
        for plan, result in run_grid(plans, data, jobs=jobs, show=True).items():
            if not isinstance(result, Run):
                raise RunError(f"{plan.name}: {result}")
        yield f"recorded in {os.path.commonpath([plan.folder.parent for plan in plans])}"
    if name in MEASURED:
        command = [sys.executable, *(word.format(out=out) for word in MEASURED[name])]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise RunError(f"{name}: the measurement failed")
        path = out / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(json.loads(done.stdout), indent=1) + "\n")
        yield f"recorded in {path}"


def main(argv: list[str] | None = None) -> int:
    """Exit status 0, or 2 with one line on standard error."""
    parser = Parser(prog="record", description="Record again what the chapters load.")
    parser.add_argument("name", nargs="?", choices=[*NAMES], help="without: the names")
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side; default: 2")
    parser.add_argument("--out", type=folder_name, default=Path("runs"), help="default: runs")
    arguments = parser.parse_args(argv)

    def command() -> int:
        if arguments.name is None:
            print("\n".join(f"{name:19} {text}" for name, text in NAMES.items()))
            return 0
        for text in record(arguments.name, arguments.out.absolute(), arguments.jobs):
            print(text)
        return 0

    return guarded("record", command)


if __name__ == "__main__":
    sys.exit(main())
