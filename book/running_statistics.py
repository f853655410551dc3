"""Test errors with the running statistics of training, and with new ones.

python book/running_statistics.py RUN ... measures trained networks, from
the checkpoints in their folders, and prints the record of the chapter on
the report. `make record NAME=statistics` trains them first.
"""

import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from wnlib import load_cifar10
from wnlib.inputs import prepare
from wnlib.lab import Run
from wnlib.model import GaussianNoise
from wnlib.training import build, evaluate

IMAGES = 10_000  # training images: of them the new statistics are


def estimate_anew_(model, images):
    """Running statistics of these images, without noise and dropout."""
    for part in model.modules():
        if isinstance(part, GaussianNoise):
            part.sigma = 0.0
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    update_bn(images.split(500), model)


def trained(folder):
    """The run in a folder, and the network from its checkpoint."""
    run = Run.load(folder)
    path = Path(folder) / "checkpoint.pt"
    state = torch.load(path, weights_only=True, map_location="cpu")
    model = build(run.recipe)
    model.load_state_dict(state["model"])
    return run, model


def measure(folder, data):
    """One trained network: what it was, and its errors, fractions."""
    run, model = trained(folder)
    train_x, test_x = prepare(data, run.recipe.inputs)
    clean, test = train_x[:IMAGES], (test_x, data.test_labels)
    trained_on = clean, data.train_labels[:IMAGES]
    errors = {
        "training, running": evaluate(model, *trained_on)[1],
        "test, running": evaluate(model, *test)[1],
    }
    estimate_anew_(model, clean)
    return {
        "norm": str(run.norm),
        "recipe": run.recipe.name,
        "width": run.recipe.width,
        "epochs": len(run.rows),
        "seed": run.recipe.seed,
        "data": data.name,
        "commit": run.provenance.get("commit"),
        "in training": run.rows[-1].train_error,
        **errors,
        "training, anew": evaluate(model, *trained_on)[1],
        "test, anew": evaluate(model, *test)[1],
    }


if __name__ == "__main__":
    try:
        cifar10 = load_cifar10(full=True)
        found = [measure(folder, cifar10) for folder in sys.argv[1:]]
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"running_statistics: {error}")
    print(json.dumps(found))
