"""Recipes: the values of their sources, the schedule, and what is refused."""

import dataclasses
import math
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wnlib import Norm, Recipe

every_norm = pytest.mark.parametrize("norm", list(Norm))


@every_norm
def test_paper_and_report_are_their_sources(norm):
    paper = {
        **{"norm": norm, "name": "paper", "width": 96, "scale": "linear", "inputs": "zca"},
        **{"plain": "frozen" if norm is Norm.NONE else "divided"},
        **{"sigma": 0.15, "dropout": 0.5, "bn_eps": 1e-6, "init_images": 500, "epochs": 200},
        **{"batch_size": 100, "lr": 0.0003 if norm is Norm.NONE else 0.003, "decay_from": 0.5},
        **{"beta1": 0.9, "late_beta1": 0.5, "switch_rate": 1.0, "adam_eps": 1e-4, "seed": 0},
    }
    report = {
        **{"name": "report", "inputs": "unit", "lr": 0.001, "decay_from": 1.0, "adam_eps": 1e-8},
        **{"bn_eps": 1e-3, "init_images": 500 if norm in (Norm.WN, Norm.WN_MOBN) else 0},
        "plain": "divided",
    }
    assert dataclasses.asdict(Recipe.paper(str(norm))) == paper
    assert dataclasses.asdict(Recipe.report(str(norm))) == paper | report


def test_schedule_is_the_released_codes_at_any_length():
    recipe = Recipe.paper("wn")
    rates = [recipe.lr_at(e) for e in range(200)]
    assert rates == pytest.approx([0.003 * min(2 - e / 100, 1) for e in range(200)], rel=1e-12)
    assert [recipe.beta1_at(e) for e in range(200)] == [0.9] * 100 + [0.5] * 100
    short = recipe.replace(epochs=10, lr=1.0, switch_rate=0.4, late_beta1=0.7)
    rates = [short.lr_at(e) for e in range(10)]
    assert rates == pytest.approx([1, 1, 1, 1, 1, 0.4, 0.32, 0.24, 0.16, 0.08])
    assert [short.beta1_at(e) for e in range(10)] == [0.9] * 5 + [0.7] * 5


@given(st.integers(1, 300), st.floats(0, 1), st.floats(1e-8, 1e3))
def test_learning_rate_only_falls_and_stays_positive(epochs, decay_from, lr):
    recipe = Recipe("wn", epochs=epochs, decay_from=decay_from, lr=lr)
    rates = [recipe.lr_at(e) for e in range(epochs)]
    assert rates[0] == lr
    assert all(0 < later <= earlier for earlier, later in pairwise(rates))


@pytest.mark.parametrize(
    ("norm", "fields", "values", "what"),
    [
        ("wn", "width epochs batch_size", [0, -1, math.nan, 100_001], "from 1 to 100,000"),
        ("wn", "seed", [-1, 2**64], "a whole number from 0 to 2⁶⁴ − 1"),
        ("wn", "lr", [0, -1e-3, math.nan, math.inf], "a number above 0"),
        ("wn_mobn", "scale", ["log", None], r"linear or exp with WN \+ mean-only BN"),
        ("mobn", "scale", ["exp"], "linear with mean-only BN"),
        ("none", "plain", ["other"], "divided or frozen with plain"),
        ("bn", "plain", ["frozen"], "divided with batch norm"),
    ],
)
def test_impossible_values_are_refused(norm, fields, values, what):
    for field, value in product(fields.split(), values):
        with pytest.raises(ValueError, match=f"^{field} is {what}, not {value!r}$"):
            Recipe(norm, **{field: value})
