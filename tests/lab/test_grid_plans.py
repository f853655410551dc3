"""What a grid plans: every combination once, each in a folder of its own."""

import re
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wnlib import Norm, Recipe
from wnlib.lab.plans import plan_grid

axes = st.fixed_dictionaries(
    {
        "recipes": st.lists(st.sampled_from(["paper", "report"]), min_size=1),
        "lrs": st.just([None])
        | st.lists(
            st.floats(1e-9, 1, exclude_min=True) | st.sampled_from([0.003, 3e-4]), min_size=1
        ),
        "scales": st.lists(st.sampled_from(["linear", "exp"]), min_size=1),
        "seeds": st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4),
        "norms": st.lists(st.sampled_from(list(Norm)), min_size=1),
    }
)


@given(axes)
def test_every_plan_is_a_run_of_its_own(axes):
    kept = {
        combination
        for combination in product(
            *(axes[name] for name in ("recipes", "lrs", "scales", "norms", "seeds"))
        )
        if combination[2] == "linear" or combination[3] in (Norm.WN, Norm.WN_MOBN)
    }
    if not kept:
        with pytest.raises(ValueError, match="weight norm"):
            plan_grid("out", **axes, width=2, epochs=3)
        return
    plans = plan_grid("out", **axes, width=2, epochs=3)
    assert {(*plan.setting, plan.recipe.seed) for plan in plans} == kept
    assert len(plans) == len(kept) == len({plan.folder for plan in plans})
    assert len({plan.recipe for plan in plans}) == len(plans)
    for plan in plans:
        name, lr, scale, norm = plan.setting
        recipe = getattr(Recipe, name)(norm)
        lr = recipe.lr if lr is None else lr
        assert plan.recipe == recipe.replace(
            width=2, epochs=3, lr=lr, scale=scale, seed=plan.recipe.seed
        )
        assert plan.folder == Path("out", plan.name)
    seeds = [plan.recipe.seed for plan in plans]
    assert seeds == sorted(seeds, key=list(dict.fromkeys(axes["seeds"])).index)


@pytest.mark.parametrize(
    ("axes", "names"),
    [
        ({"norms": [Norm.NONE, Norm.WN]}, ["none", "wn"]),
        ({"norms": [Norm.WN], "lrs": [0.01], "scales": ["exp"], "seeds": [3]}, ["wn"]),
        ({"norms": [Norm.WN], "lrs": [3e-4, 0.01]}, ["lr0.0003/wn", "lr0.01/wn"]),
        ({"norms": [Norm.WN], "lrs": [0.1234567, 0.1234568]},
         ["lr0.1234567/wn", "lr0.1234568/wn"]),
        ({"norms": [Norm.NONE, Norm.WN], "scales": ["linear", "exp"]},
         ["linear/none", "linear/wn", "exp/wn"]),
        ({"norms": [Norm.BN], "recipes": ["paper", "report"], "seeds": [0, 1]},
         ["paper/seed0/bn", "report/seed0/bn", "paper/seed1/bn", "report/seed1/bn"]),
        ({"norms": [Norm.WN], "recipes": ["report", "paper"], "lrs": [1.0, 0.5],
          "scales": ["exp", "linear"], "seeds": [1, 0]},
         [f"{r}/{lr}/{s}/{seed}/wn" for seed in ("seed1", "seed0") for r in ("report", "paper")
          for lr in ("lr1", "lr0.5") for s in ("exp", "linear")]),
    ],
)  # fmt: skip
def test_folders_and_their_order(axes, names):
    plans = plan_grid("out", **axes, width=2, epochs=3)
    assert [plan.name for plan in plans] == names
    assert [plan.label for plan in plans] == [re.sub(r"seed\d+/", "", name) for name in names]
