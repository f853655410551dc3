"""What a training step costs: beside the usual script, and by configuration."""

import statistics
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations

from wnlib.data import Cifar10
from wnlib.lab.bench import baseline
from wnlib.lab.bench.timing import Say, inputs, ratio, steps, take_turns
from wnlib.layers import Norm
from wnlib.recipe import Recipe
from wnlib.train import build

BATCH = 100  # the paper's
BATCHES = (10, 30, 100, 300, 1000)
TURN = 4800  # images times width that a turn takes, so that turns are of about the same length


def compare_steps(
    width: int,
    data: Cifar10,
    device: torch.device,
    *,
    rounds: int = 5,
    block: int = 4,
    workers: int = 2,
    say: Say = lambda text: None,
) -> dict[str, float]:
    """A full step with weight norm, beside that of the usual script; images a second of each.

    Both in this process, so the memory that `wnlib.train.keep_memory` keeps is there for both.
    """
    recipe = Recipe.paper(Norm.WN).replace(width=width)
    ways = {
        "plain": baseline.steps(width, data, device, BATCH, workers),
        "wnlib": steps(build(recipe), recipe, *inputs(data, device)),
    }
    seconds = take_turns(ways, device, rounds, block, lambda text: say(f"width {width}: {text}"))
    return {
        "width": width,
        **{name: BATCH / statistics.median(each) for name, each in seconds.items()},
        "ratio": ratio(seconds["plain"], seconds["wnlib"]),
    }


def compare_configurations(
    width: int,
    data: Cifar10,
    device: torch.device,
    *,
    batch: int = BATCH,
    rounds: int = 5,
    torch_wn: bool = True,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """A step of each configuration, and of "torch_wn": weight norm by torch's parametrization.

    Returns:
        Milliseconds of each, and what each costs over "none".
    """
    images, labels = inputs(data, device)
    ways = {}
    for name in [*map(str, Norm), *["torch_wn"] * torch_wn]:
        norm = Norm.NONE if name == "torch_wn" else Norm(name)
        recipe = Recipe.paper(norm).replace(width=width, batch_size=batch)
        model = build(recipe)
        if name == "torch_wn":
            for layer in model.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    parametrizations.weight_norm(layer)
        ways[name] = steps(model, recipe, images, labels)
    block = min(max(1, TURN // (width * batch)), 4)
    what = f"width {width}, {batch} images a step"
    seconds = take_turns(ways, device, rounds, block, lambda text: say(f"{what}: {text}"))
    return {
        "width": width,
        "batch": batch,
        "ms": {name: 1e3 * statistics.median(each) for name, each in seconds.items()},
        "over_none": {name: ratio(each, seconds["none"]) for name, each in seconds.items()},
    }


def growth(
    narrow: int, wide: int, data: Cifar10, device: torch.device, *, rounds: int, say: Say
) -> dict[str, list[dict[str, Any]]]:
    """The configurations against batch size in the narrow network, and against width up to wide."""
    options: dict[str, Any] = {"rounds": rounds, "torch_wn": False, "say": say}
    batches = [b for b in BATCHES if b <= len(data.train_images)]
    widths = [wide // part for part in (8, 4, 2, 1) if wide >= part]
    return {
        "batch": [
            compare_configurations(narrow, data, device, batch=b, **options) for b in batches
        ],
        "width": [compare_configurations(w, data, device, **options) for w in widths],
    }
