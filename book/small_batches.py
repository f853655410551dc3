"""What a small minibatch does to a normalization: one small network.

python book/small_batches.py prints the record of the chapter "What to
use"; `make record NAME=small-batches` repeats it, in about ten minutes.
"""

import itertools
import json
import statistics
import sys

import torch
from torch import nn
from torch.nn import functional as F

from wnlib import data_dependent_init_, load_cifar10, weight_norm
from wnlib.inputs import symmetric

METHODS = ("plain", "weight norm", "batch norm", "group norm")
SIZES = (2, 4, 8, 32, 128)  # images per minibatch
RATES = (0.0003, 0.001, 0.003)  # of Adam; each method has its best
SEEDS = (0, 1, 2)
EPOCHS = 5


def network(method, channels=(24, 48, 48)):
    """Three strided convolutions, each followed by what `method` says."""
    parts, before = [], 3
    for after in channels:
        conv = nn.Conv2d(before, after, 3, stride=2, padding=1)
        norm = {
            "batch norm": nn.BatchNorm2d(after),
            "group norm": nn.GroupNorm(4, after),
        }.get(method, nn.Identity())
        parts += [conv, norm, nn.LeakyReLU(0.1)]
        before = after
    parts += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10)]
    model = nn.Sequential(*parts)
    if method == "weight norm":
        for part in model:
            if isinstance(part, nn.Conv2d | nn.Linear):
                weight_norm(part)
    return model


def losses(method, size, rate, seed, data, epochs=EPOCHS):
    """Training loss of the last epoch, and test error, a fraction."""
    torch.manual_seed(seed)
    images, labels = symmetric(data.train_images), data.train_labels
    model = network(method)
    data_dependent_init_(model, images[:500])
    adam = torch.optim.Adam(model.parameters(), rate)
    model.train()
    seen = []
    for _ in range(epochs):
        seen.clear()
        for chosen in torch.randperm(len(images)).split(size):
            loss = F.cross_entropy(model(images[chosen]), labels[chosen])
            adam.zero_grad()
            loss.backward()
            adam.step()
            seen.append(loss.item())
    model.eval()
    with torch.no_grad():
        guess = model(symmetric(data.test_images)).argmax(1)
    error = (guess != data.test_labels).double().mean().item()
    return statistics.fmean(seen), error


def measure():
    """All of them; each method at the rate with its least training loss."""
    data, rows = load_cifar10(), []
    for method, size in itertools.product(METHODS, SIZES):
        tried = []
        for rate in RATES:
            runs = [losses(method, size, rate, s, data) for s in SEEDS]
            loss = statistics.fmean(loss for loss, _ in runs)
            errors = [error for _, error in runs]
            tried.append({"rate": rate, "loss": loss, "errors": errors})
        best = min(tried, key=lambda one: one["loss"])
        rows.append({"method": method, "size": size, **best})
        print(rows[-1], file=sys.stderr)
    return {
        "images": len(data.train_images),
        "tested on": len(data.test_images),
        "epochs": EPOCHS,
        "rates": RATES,
        "rows": rows,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(measure()))
