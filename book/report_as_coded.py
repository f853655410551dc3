"""The report's five networks as it recorded them, slips included.

Read in the TensorFlow graphs that its authors saved with their runs
(records/report-graphs.json), not in its text: nothing set g and b from
data, no mean was taken without weight norm, and there was no batch norm.

From them a ladder leads to the paper's recipe, one change a rung.

python book/report_as_coded.py trains its weight norm for three epochs on
all of CIFAR-10 and prints the record of the chapter on the report.
"""

import dataclasses
import json

import torch

from wnlib import Norm, Recipe
from wnlib.lab import fetch_cifar10
from wnlib.training import Training

# Noise beside pixels in [0, 1], about as strong as the paper's on its own.
QUIET = 0.0375


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


def ladder(norm):
    """From what the report recorded to the paper's recipe, rung by rung."""
    norm = Norm(norm)
    report, paper = Recipe.report(norm), Recipe.paper(norm)
    whitened = dataclasses.replace(report, inputs=paper.inputs)
    falling = dataclasses.replace(whitened, decay_from=paper.decay_from)
    return {
        "recorded": recorded_recipe(norm),
        "mended": report,  # initialized from data, centered, normalized
        "quiet": dataclasses.replace(report, sigma=QUIET),
        "whitened": whitened,  # the noise of 0.15 is in proportion there
        "falling": falling,  # the rate, and beta1 with it
        "paper": paper,
    }


def first_epochs(norm, epochs=3):
    """Training losses of the first epochs, and with what they came."""
    recipe = dataclasses.replace(recorded_recipe(norm), epochs=epochs)
    training = Training(recipe, fetch_cifar10())
    start_as_recorded_(training.model)
    losses = [row.train_loss for row in training.epochs()]
    kind = training.device.type
    return {"norm": norm, "seed": recipe.seed, "width": recipe.width} | {
        "device": kind,
        "torch": torch.__version__,
        "train_loss": losses,
    }


if __name__ == "__main__":
    print(json.dumps(first_epochs("wn")))
