"""Recipes: the values of their sources, the schedule, and what is refused."""

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wnlib import Norm, Recipe

laws = settings(max_examples=100, deadline=None, derandomize=True)
every_norm = pytest.mark.parametrize("norm", list(Norm))


@every_norm
def test_paper_is_the_papers(norm):
    assert dataclasses.asdict(Recipe.paper(norm)) == {
        "norm": norm,
        "name": "paper",
        "width": 96,
        "scale": "linear",
        "plain": "frozen" if norm is Norm.NONE else "divided",
        "inputs": "zca",
        "noise": "gaussian",
        "sigma": 0.15,
        "dropout": 0.5,
        "bn_eps": 1e-6,
        "init_images": 500,
        "epochs": 200,
        "batch_size": 100,
        "lr": 0.0003 if norm is Norm.NONE else 0.003,
        "decay_from": 0.5,
        "beta1": 0.9,
        "late_beta1": 0.5,
        "switch_rate": 1.0,
        "adam_eps": 1e-4,
        "seed": 0,
    }


@every_norm
def test_report_is_the_reports(norm):
    theirs = dataclasses.asdict(Recipe.report(norm))
    ours = dataclasses.asdict(Recipe.paper(norm))
    assert {k: v for k, v in theirs.items() if v != ours[k]} == {
        "name": "report",
        "inputs": "unit",
        "lr": 0.001,
        "decay_from": 1.0,
        "adam_eps": 1e-8,
        "bn_eps": 1e-3,
        **({} if norm in (Norm.WN, Norm.WN_MOBN) else {"init_images": 0}),
        **({"plain": "divided"} if norm is Norm.NONE else {}),
    }
    assert {Recipe.report(norm).lr_at(e) for e in range(200)} == {0.001}
    assert {Recipe.report(norm).beta1_at(e) for e in range(200)} == {0.9}


@pytest.mark.parametrize("source", [Recipe.paper, Recipe.report])
def test_configurations_may_be_given_by_name(source):
    assert source("wn_mobn") == source(Norm.WN_MOBN)
    assert Recipe("bn").norm is Norm.BN
    with pytest.raises(ValueError, match="'layer' is not a valid Norm"):
        source("layer")


def test_recipes_are_frozen_and_comparable():
    recipe = Recipe.paper("wn")
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.lr = 1.0
    assert recipe == Recipe.paper("wn") != recipe.replace(seed=1)
    assert len({recipe, Recipe.paper("wn")}) == 1


# --- the schedule


def test_schedule_is_the_released_codes():
    for norm in Norm:
        recipe = Recipe.paper(norm)
        for e in range(200):
            assert math.isclose(recipe.lr_at(e), recipe.lr * min(2 - e / 100, 1), rel_tol=1e-12)
            assert recipe.beta1_at(e) == (0.9 if e < 100 else 0.5)
        assert math.isclose(recipe.lr_at(199), 0.01 * recipe.lr)


def test_schedule_follows_the_number_of_epochs():
    short = Recipe.paper("wn").replace(epochs=10)
    rates = [short.lr_at(e) / short.lr for e in range(10)]
    assert rates == pytest.approx([1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    assert [short.beta1_at(e) for e in range(10)] == [0.9] * 5 + [0.5] * 5
    single = short.replace(epochs=1)
    assert (single.lr_at(0), single.beta1_at(0)) == (single.lr, 0.9)


@laws
@given(st.integers(1, 300), st.floats(0, 1), st.floats(1e-8, 1e3))
def test_learning_rate_only_falls_and_stays_positive(epochs, decay_from, lr):
    recipe = Recipe("wn", epochs=epochs, decay_from=decay_from, lr=lr)
    rates = [recipe.lr_at(e) for e in range(epochs)]
    assert rates[0] == lr
    assert all(0 < later <= earlier for earlier, later in itertools.pairwise(rates))
    if decay_from < 0.99:
        assert rates[-1] == pytest.approx(lr * min(1 / (epochs * (1 - decay_from)), 1))
    betas = [recipe.beta1_at(e) for e in range(epochs)]
    assert betas == sorted(betas, reverse=True)
    assert betas.count(0.9) == math.ceil(epochs * decay_from)


# --- changed copies


def test_replace_changes_what_it_says_and_nothing_else():
    recipe = Recipe.paper("wn")
    changed = recipe.replace(width=24, epochs=10, scale="exp")
    assert (changed.width, changed.epochs, changed.scale) == (24, 10, "exp")
    assert changed.replace(width=96, epochs=200, scale="linear") == recipe
    assert recipe.replace(norm="bn").norm is Norm.BN


def test_replace_refuses_unknown_and_impossible_values():
    with pytest.raises(TypeError, match="unexpected keyword argument 'widht'"):
        Recipe.paper("wn").replace(widht=24)
    with pytest.raises(ValueError, match=r"^epochs is from 1 to 100,000, not 0$"):
        Recipe.paper("wn").replace(epochs=0)
    with pytest.raises(ValueError, match=r"^scale is linear with batch norm, not 'exp'$"):
        Recipe.paper("wn").replace(scale="exp").replace(norm="bn")


NAN, INF = float("nan"), float("inf")
REFUSED = {
    **dict.fromkeys(
        ("width", "epochs", "batch_size"), ([0, -1, NAN, 100_001], "from 1 to 100,000")
    ),
    "seed": ([-1, 2**64], "a whole number from 0 to 2⁶⁴ − 1"),
    "lr": ([0, -1e-3, NAN, INF], "a number above 0"),
    "scale": (["log", None], "linear or exp with weight norm"),
    "plain": (["frozen", None], "divided with weight norm"),
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, (values, _) in REFUSED.items() for value in values],
)
def test_impossible_values_are_refused(field, value):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Recipe("wn", **{field: value})
    assert str(caught.value) == f"{field} is {REFUSED[field][1]}, not {value!r}"


@pytest.mark.parametrize("norm", ["wn", "bn", "wn_mobn"])
def test_frozen_scales_are_for_plain_weights(norm):
    with pytest.raises(ValueError, match=r"^plain is divided with .*, not 'frozen'$"):
        Recipe(norm, plain="frozen")
    assert Recipe("mobn", plain="frozen").plain == "frozen"


@pytest.mark.parametrize("norm", ["none", "mobn", "bn"])
def test_exp_scale_needs_weight_norm(norm):
    with pytest.raises(ValueError, match=r"^scale is linear with .*, not 'exp'$"):
        Recipe(norm, scale="exp")


def test_extreme_values_are_taken():
    recipe = Recipe(
        "wn", width=1, epochs=1, batch_size=1, init_images=2, seed=2**64 - 1, sigma=0, dropout=0,
        beta1=0, late_beta1=0, decay_from=0, lr=1e-12,
    )  # fmt: skip
    torch.Generator().manual_seed(recipe.seed)
    assert Recipe("wn", init_images=0, decay_from=1).lr_at(199) == 0.003
    for decay_from in (0, 1):
        rate = Recipe("wn", lr=1, decay_from=decay_from).lr_at(0)
        assert (rate, type(rate)) == (1, float)
