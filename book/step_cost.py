"""What a training step costs: the five, and the usual PyTorch script.

python book/step_cost.py times them on the sample and prints a table,
with --full on all of CIFAR-10 and prints the record of chapter 6. What
is compared takes turns, so that a slow spell of the machine hits all of
it: times are medians over the rounds, ratios medians of their ratios.
"""

import json
import statistics
import sys
import time
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import DataLoader
from torchvision import transforms

from wnlib import Norm, Recipe, load_cifar10
from wnlib.inputs import symmetric
from wnlib.lab import fetch_cifar10
from wnlib.lab.estimates import seconds_of, steps
from wnlib.lab.grid import speed_up_process
from wnlib.lab.records import provenance
from wnlib.training import find_device, layout

WIDTHS = (24, 96)
BATCHES = (10, 30, 100, 300, 1000)  # at the smaller width
GROWING = (12, 24, 48, 96)  # widths, at the paper's minibatch of 100
TURN = 4800  # images times width of a turn, which so are equally long


def usual_network(w):
    """ConvPool-CNN-C with weight normalization out of torch's parts."""

    def conv(fan_in, fan_out, kernel, padding=0):
        layer = nn.Conv2d(fan_in, fan_out, kernel, padding=padding)
        return [weight_norm(layer), nn.LeakyReLU(0.1)]

    return nn.Sequential(
        *conv(3, w, 3, 1), *conv(w, w, 3, 1), *conv(w, w, 3, 1),
        nn.MaxPool2d(2), nn.Dropout(0.5),
        *conv(w, 2 * w, 3, 1), *conv(2 * w, 2 * w, 3, 1),
        *conv(2 * w, 2 * w, 3, 1), nn.MaxPool2d(2), nn.Dropout(0.5),
        *conv(2 * w, 2 * w, 3), *conv(2 * w, 2 * w, 1),
        *conv(2 * w, 2 * w, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        weight_norm(nn.Linear(2 * w, 10)),
    )  # fmt: skip


def usual_steps(width, data, device, workers=2):
    """Steps as people usually write them: DataLoader, transforms, fp32,
    eager. One a `next`."""
    half = (0.5, 0.5, 0.5)
    transform: Any = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(half, half)]
    )
    pixels = data.train_images.permute(0, 2, 3, 1).numpy()  # (N, 32, 32, 3)

    def collate(chosen):  # what torchvision's CIFAR10 does image by image
        images = [transform(Image.fromarray(pixels[i])) for i in chosen]
        return torch.stack(images), data.train_labels[chosen]

    places: Any = range(len(pixels))
    loader = DataLoader(
        places, 100, shuffle=True, collate_fn=collate,
        num_workers=workers, persistent_workers=workers > 0,
        multiprocessing_context="fork" if workers else None,
    )  # fmt: skip
    model = usual_network(width).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    while True:
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            x = x + 0.15 * torch.randn_like(x)
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield


def take_turns(ways, device, rounds, count=4):
    """Seconds a step of each way, one number a round after the first,
    which warms up."""
    seconds = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            next(way)  # lets workers, if any, fill their queues first
            taken = seconds_of(way, device, count)
            if turn:
                seconds[name].append(taken)
    return seconds


def ratio(these, those):
    return statistics.median(
        a / b for a, b in zip(these, those, strict=True)
    )


def inputs(data, device):
    """At most 10,000 images, not whitened: a step takes as long."""
    images = symmetric(data.train_images[:10_000])
    images = images.to(device, memory_format=layout(device))
    return images, data.train_labels[:10_000].to(device)


def beside_the_usual(width, data, device, rounds):
    """Images a second with weight norm, of the usual script ("plain")
    and of wnlib."""
    recipe = Recipe.paper("wn").replace(width=width)
    ours = steps(recipe, *inputs(data, device))
    ways = {"plain": usual_steps(width, data, device), "wnlib": ours}
    s = take_turns(ways, device, rounds)
    rates = {
        name: 100 / statistics.median(each) for name, each in s.items()
    }
    return {"width": width, **rates, "ratio": ratio(s["plain"], s["wnlib"])}


def five(width, data, device, batch, rounds):
    """Milliseconds a step of the five, and what each costs over "none"."""
    ways = {}
    for norm in Norm:
        recipe = Recipe.paper(norm).replace(width=width, batch_size=batch)
        ways[str(norm)] = steps(recipe, *inputs(data, device))
    count = min(max(1, TURN // (width * batch)), 4)
    s = take_turns(ways, device, rounds, count)
    ms = {name: 1e3 * statistics.median(each) for name, each in s.items()}
    over = {name: ratio(each, s["none"]) for name, each in s.items()}
    return {"width": width, "batch": batch, "ms": ms, "over_none": over}


def measure(
    data, device, widths=WIDTHS, growing=GROWING, batches=BATCHES, rounds=5
):
    """All of it, as records/bench.json has it; numbers of four digits."""
    start, few = time.perf_counter(), -(-rounds // 2)
    where = data, device
    result = {
        "version": 1,
        "provenance": provenance(data, device),
        "steps": [beside_the_usual(w, *where, rounds) for w in widths],
        "configurations": [
            five(w, *where, 100, 3 * rounds) for w in widths
        ],
        "growth": {
            "batch": [five(widths[0], *where, b, few) for b in batches],
            "width": [five(w, *where, 100, few) for w in growing],
        },
    }
    result["provenance"]["wall_seconds"] = time.perf_counter() - start
    text = json.dumps(result)
    return json.loads(text, parse_float=lambda t: float(f"{float(t):.4g}"))


def show(result):
    """Milliseconds a step of the five; images a second beside the usual."""
    print("ms a step".ljust(24) + "".join(f"{norm!s:>9}" for norm in Norm))
    growth = result["growth"]
    for row in result["configurations"] + growth["batch"] + growth["width"]:
        cells = "".join(f"{each:>9.1f}" for each in row["ms"].values())
        print(f"width {row['width']:<4} minibatch {row['batch']:<4}{cells}")
    for row in result["steps"]:
        print(
            f"width {row['width']}, weight norm, images a second: "
            f"{row['wnlib']:.0f} here, {row['plain']:.0f} the usual script"
        )


if __name__ == "__main__":
    speed_up_process()
    full = "--full" in sys.argv[1:]
    data = fetch_cifar10() if full else load_cifar10()
    result = measure(data, find_device())
    print(json.dumps(result)) if full else show(result)
