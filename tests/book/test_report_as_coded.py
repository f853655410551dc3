"""The report's runs as recorded: three networks under five names, started without data."""

import json
from pathlib import Path

import pytest
import torch

from wnlib import Norm
from wnlib.training import build

BOOK = Path(__file__).parent.parent.parent / "book"
GRAPHS = json.loads((BOOK / "records" / "report-graphs.json").read_text(encoding="utf-8"))["runs"]


@pytest.fixture(scope="module")
def coded(beside):
    """The module beside the notebooks."""
    return beside("report_as_coded")


@pytest.mark.parametrize("norm", Norm)
def test_trains_what_the_graph_trained(coded, norm: Norm) -> None:
    recipe = coded.recorded_recipe(norm).replace(width=4)
    model = coded.start_as_recorded_(build(recipe))
    trained = {"v": 10, "b": 10} | ({"g": 10} if recipe.norm.weight_normalized else {})
    assert GRAPHS[norm]["trained"] == trained
    assert len(list(model.parameters())) == sum(trained.values())
    assert (recipe.norm.mean_only, recipe.init_images) == (bool(GRAPHS[norm]["means_taken"]), 0)


def test_starts_from_unit_weights(coded) -> None:
    torch.manual_seed(0)
    model = coded.start_as_recorded_(build(coded.recorded_recipe("wn").replace(width=4)))
    for part in model:
        if hasattr(part, "layer"):
            lengths = part.layer.weight.flatten(1).norm(dim=1)
            torch.testing.assert_close(lengths, torch.ones_like(lengths))
            assert not part.layer.bias.any()
