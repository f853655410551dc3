"""What a small minibatch does to a normalization: one small network.

python book/small_batches.py FOLDER prints the record of the chapter "What
to use", and goes on where it was stopped: what is done stays in FOLDER.
`make record NAME=small-batches` does that, in an hour.

Of the 50,000 training images 5,000 are held out, and choose the rate: of
three around one that grows with the root of the minibatch, and of more
where the best lies at an edge. Two more seeds then train at the best.
"""

import argparse
import functools
import itertools
import json
import math

import torch
from joblib import Memory, Parallel, delayed
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from wnlib import MeanOnlyBatchNorm, data_dependent_init_, weight_norm
from wnlib.inputs import symmetric
from wnlib.lab import fetch_cifar10
from wnlib.training import evaluate

BOTH = "WN + mean-only BN"
METHODS = ("plain", "weight norm", "batch norm", "group norm", BOTH)
SIZES = (2, 4, 8, 32, 128)  # images per minibatch
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1)  # of Adam
HELD_OUT = 5000
EPOCHS = 2


def network(method, channels=(24, 48, 48)):
    """Three strided convolutions, each followed by what `method` says."""
    parts, before = [], 3
    for after in channels:
        conv = nn.Conv2d(before, after, 3, stride=2, padding=1)
        norm = {
            "batch norm": nn.BatchNorm2d(after),
            "group norm": nn.GroupNorm(4, after),
            BOTH: MeanOnlyBatchNorm(after),
        }.get(method, nn.Identity())
        parts += [conv, norm, nn.LeakyReLU(0.1)]
        before = after
    parts += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10)]
    model = nn.Sequential(*parts)
    if method in ("weight norm", BOTH):
        for part in model:
            if isinstance(part, nn.Conv2d | nn.Linear):
                weight_norm(part)
    return model


@functools.cache
def cifar10():
    """Images and labels: to train on, held out, to test on."""
    data = fetch_cifar10()
    x, y = symmetric(data.train_images), data.train_labels
    train, held_out = (
        (x[:-HELD_OUT], y[:-HELD_OUT]),
        (x[-HELD_OUT:], y[-HELD_OUT:]),
    )
    return train, held_out, (symmetric(data.test_images), data.test_labels)


def trained(method, size, rate, seed, epochs=EPOCHS):
    """Train one network; its errors, fractions, by the images they are of.

    The rate is constant for half of the steps, then falls to zero.
    Running statistics are those of 5,000 training images, estimated anew
    after the training. "test, running" is the test error with those that
    the training left.
    """
    torch.set_num_threads(1)
    train, held_out, test = cifar10()
    torch.manual_seed(seed)
    images, labels = train
    model = network(method)
    data_dependent_init_(model, images[:500])
    adam = torch.optim.Adam(model.parameters(), rate, fused=True)
    steps = epochs * (len(images) // size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda step: min(1, 2 * (1 - step / steps))
    )
    for _ in range(epochs):
        model.train()
        for chosen in torch.randperm(len(images)).split(size):
            if len(chosen) == size:
                loss = F.cross_entropy(
                    model(images[chosen]), labels[chosen]
                )
                adam.zero_grad()
                loss.backward()
                adam.step()
                schedule.step()
    errors = {"test, running": evaluate(model, *test)[1]}
    some = images[:HELD_OUT], labels[:HELD_OUT]
    update_bn(some[0].split(500), model)
    return errors | {
        "training": evaluate(model, *some)[1],
        "held out": evaluate(model, *held_out)[1],
        "test": evaluate(model, *test)[1],
    }


def at_best_rate(method, size, trained):
    """Its best rate, the held-out errors that chose it, three seeds."""
    tried = {}

    def attempt(k):
        if k not in tried:
            tried[k] = trained(method, size, RATES[k], 0)
        return tried[k]["held out"]

    # Nearest to 0.001, the rate for 32 images, times the root of the size.
    scaled = 1e-3 * math.sqrt(size / 32)
    best = min(
        range(len(RATES)), key=lambda k: abs(math.log(RATES[k] / scaled))
    )
    while True:
        near = [
            k for k in (best - 1, best, best + 1) if 0 <= k < len(RATES)
        ]
        lowest = min(near, key=attempt)
        if lowest == best:
            break
        best = lowest
    seeds = [
        tried[best],
        *(trained(method, size, RATES[best], s) for s in (1, 2)),
    ]
    return {
        "method": method,
        "size": size,
        "rate": RATES[best],
        "tried": {RATES[k]: tried[k]["held out"] for k in sorted(tried)},
        **{of: [one[of] for one in seeds] for of in seeds[0]},
    }


def measure(folder, jobs=2):
    """Each method at each size; small ones first, which take longest."""
    kept = Memory(folder, verbose=0).cache(trained)
    cells = itertools.product(SIZES, METHODS)
    work = [
        delayed(at_best_rate)(method, size, kept) for size, method in cells
    ]
    return {
        "held out": HELD_OUT,
        "epochs": EPOCHS,
        "rows": Parallel(jobs, verbose=10)(work),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="where what is done is kept")
    from small_batches import measure  # workers cannot import __main__

    print(json.dumps(measure(parser.parse_args().folder)))
