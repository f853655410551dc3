"""What a grid trains, and what its runs tell: every combination of settings; mean and spread."""

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, TypeVar

import numpy as np

from wnlib.lab.records import Run, RunError
from wnlib.layers import Norm
from wnlib.training import Recipe, State

T = TypeVar("T")


class Setting(NamedTuple):
    """What a run of a grid is, but for its seed."""

    recipe: str  #: "paper" or "report"
    lr: float | None  #: learning rate; None for the recipe's own
    scale: str  #: "linear" or "exp"
    norm: Norm  #: the configuration


class Plan(NamedTuple):
    """A run of a grid: what to train and where to record it."""

    recipe: Recipe
    folder: Path
    name: str  #: the folder as seen from the grid's, for instance "lr0.003/seed1/wn"
    setting: Setting
    label: str  #: the setting's name, "lr0.003/wn"


def plan_grid(
    out: Path | str,
    *,
    recipes: Sequence[str] = ("paper",),
    lrs: Sequence[float | None] = (None,),
    scales: Sequence[str] = ("linear",),
    seeds: Sequence[int] = (0,),
    norms: Sequence[Norm] = tuple(Norm),
    width: int,
    epochs: int,
) -> list[Plan]:
    """Every combination that can be trained, one seed after the other: a grid that is stopped
    holds whole comparisons.

    The folder is out/norm; each axis with several values puts a folder before that, in the order
    recipe ("report"), learning rate ("lr0.003"), scale ("exp") and seed ("seed1").

    Raises:
        ValueError: a value that no recipe can have, or nothing is left: exp takes weight norm.
    """
    axes = _once(seeds), _once(recipes), _once(lrs), _once(scales), _once(norms)
    several = [len(axis) > 1 for axis in axes]
    plans = []
    for seed, recipe, lr, scale, norm in product(*axes):
        changes: dict[str, Any] = {"width": width, "epochs": epochs, "seed": seed, "scale": scale}
        if scale == "exp" and not norm.weight_normalized:
            continue
        if lr is not None:
            changes["lr"] = lr
        words = [recipe] * several[1] + [f"lr{_digits(lr)}"] * several[2] + [scale] * several[3]
        label = "/".join([*words, norm])
        name = "/".join([*words, *[f"seed{seed}"] * several[0], norm])
        made = getattr(Recipe, recipe)(norm).replace(**changes)
        setting = Setting(recipe, lr, scale, norm)
        plans.append(Plan(made, Path(out) / name, name, setting, label))
    if not plans:
        raise ValueError("exp is a scale of weight norm: the norms must have wn or wn_mobn")
    return plans


def _once(values: Sequence[T]) -> list[T]:
    return list(dict.fromkeys(values))


def _digits(value: float | None) -> str:
    """As many as tell the value from all others."""
    short = f"{value or 0:g}"
    return short if float(short) == value else repr(value)


Errors = Mapping[Setting, Mapping[int, float]]  # of each setting, by seed


class Spread(NamedTuple):
    """A sample's mean and standard deviation."""

    n: int
    mean: float
    sd: float | None  #: with n − 1 in the denominator; None for n = 1


class Difference(NamedTuple):
    """How a setting differs from another that is the same but for one axis, over paired seeds."""

    setting: Setting
    other: Setting
    n: int  #: seeds that both have, at least 2
    mean: float  #: of setting − other, seed by seed
    se: float  #: standard error of that mean: the differences' standard deviation / √n


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value.

    Raises:
        StatisticsError: there is none.
    """
    return Spread(len(values), fmean(values), _sd(values) if len(values) > 1 else None)


def _sd(values: Sequence[float]) -> float:
    # Not statistics.stdev, which stumbles over the NaN of what was not recorded.
    return float(np.std(values, ddof=1))


def differences(errors: Errors) -> list[Difference]:
    """Every pair of settings that differ on one axis and share two seeds or more.

    Two runs of one seed have their minibatches in common, and starting weights as far as their
    networks are alike; the difference is free of what that does to both. One seed has no spread,
    so it says nothing.
    """
    found = []
    for other, setting in combinations(errors, 2):
        apart = sum(a != b for a, b in zip(setting, other, strict=True))
        seeds = sorted(errors[setting].keys() & errors[other].keys())
        if apart == 1 and len(seeds) > 1:
            d = [errors[setting][seed] - errors[other][seed] for seed in seeds]
            found.append(Difference(setting, other, len(d), fmean(d), _sd(d) / len(d) ** 0.5))
    return found


def summarize(results: Mapping[Plan, Run | Exception]) -> dict[str, Any]:
    """What came out of a grid, ready for JSON: final test errors are fractions.

    Keys: settings (n, mean, sd of each), differences (setting − other: n, mean, se), runs (one
    dictionary each), failed (name: why).
    """
    runs = {plan: run for plan, run in results.items() if isinstance(run, Run)}
    errors: dict[Setting, dict[int, float]] = {}
    labels = {}
    for plan, run in runs.items():
        labels[plan.setting] = plan.label
        errors.setdefault(plan.setting, {})[plan.recipe.seed] = run.summary().final_error
    settings = []
    for setting, by_seed in errors.items():
        ours = [run for plan, run in runs.items() if plan.setting == setting]
        settings.append(
            {
                "name": labels[setting],
                **setting._asdict(),
                "lr": ours[0].recipe.lr,
                "seeds": list(by_seed),
                "diverged": sum(run.state == State.DIVERGED for run in ours),
                **spread(list(by_seed.values()))._asdict(),
            }
        )
    return {
        "settings": settings,
        "differences": [
            {**d._asdict(), "setting": labels[d.setting], "other": labels[d.other]}
            for d in differences(errors)
        ],
        "runs": [
            {
                "name": plan.name,
                "folder": str(plan.folder),
                "seed": plan.recipe.seed,
                "state": run.outcome,
                "epochs": len(run.rows),
                **run.summary()._asdict(),
            }
            for plan, run in runs.items()
        ],
        "failed": {p.name: _reason(e) for p, e in results.items() if isinstance(e, Exception)},
    }


def _reason(error: Exception) -> str:
    told = isinstance(error, RunError | ValueError)  # ours say all there is to say
    text = " ".join(str(error).split())
    return text if told else f"{type(error).__name__}: {text}"


def summary_text(summary: Mapping[str, Any]) -> str:
    """The same for people, in percent and percentage points."""
    pad = max(len(row["name"]) for row in summary["settings"])
    lines = [f"{'':<{pad}}   n    mean      sd"]
    for row in summary["settings"]:
        sd = "–" if row["sd"] is None else f"{100 * row['sd']:.2f}"
        diverged = f"   {row['diverged']} diverged" if row["diverged"] else ""
        lines.append(f"{row['name']:<{pad}}{row['n']:>4}{100 * row['mean']:>8.2f}{sd:>8}{diverged}")
    if all(row["n"] == 1 for row in summary["settings"]):
        lines += ["", "One seed has no spread: nothing is compared."]
    if summary["differences"]:
        lines += ["", "Differences seed by seed, in points, ± their standard error:", ""]
    for d in summary["differences"]:
        names = f"{d['setting']} − {d['other']}"
        lines.append(
            f"{names:<{2 * pad + 3}} {100 * d['mean']:>+7.2f} ± {100 * d['se']:.2f}   n = {d['n']}"
        )
    return "\n".join(lines)
