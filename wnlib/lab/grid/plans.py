"""A grid of runs: every combination of the settings, each in a folder of its own."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from wnlib.layers import Norm
from wnlib.recipe import Recipe


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
    axes = [list(dict.fromkeys(axis)) for axis in (seeds, recipes, lrs, scales, norms)]
    several = [len(axis) > 1 for axis in axes]
    plans = []
    for seed, recipe, lr, scale, norm in product(*axes):
        changes = {"width": width, "epochs": epochs, "seed": seed, "scale": scale}
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


def _digits(value: float | None) -> str:
    """As many as tell the value from all others."""
    short = f"{value or 0:g}"
    return short if float(short) == value else repr(value)
