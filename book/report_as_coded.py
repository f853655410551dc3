"""The report's five networks as it recorded them, slips included.

Read in the TensorFlow graphs that its authors saved with their runs
(records/report-graphs.json), not in its text: nothing set g and b from
data, no mean was taken without weight norm, and there was no batch norm.
"""

import dataclasses

import torch

from wnlib import Norm, Recipe


def recorded_recipe(norm):
    """What trained the run that the report lists under this name."""
    norm = Norm(norm)
    recipe = Recipe.report(norm)
    if not norm.weight_normalized:
        recipe = dataclasses.replace(recipe, norm=Norm.NONE)
    return dataclasses.replace(recipe, name="recorded", init_images=0)


@torch.no_grad()
def start_as_recorded_(model):
    """Start a weight-normalized model from g = 1 and b = 0, in place.

    Its offsets are 0 and its v from N(0, 0.05²) as built. Models without
    g are left alone.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("parametrizations.weight.original0"):
            parameter.fill_(1)
    return model
