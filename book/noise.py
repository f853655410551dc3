"""The noise that a minibatch's statistics add in a network, layer by layer.

python book/noise.py RUN ... measures trained networks, from the
checkpoints in their folders, and prints the record of chapter 3.
`make record NAME=noise` trains them first.
"""

import json
import sys

import torch

from running_statistics import trained
from wnlib import load_cifar10
from wnlib.inputs import prepare
from wnlib.lab import Run

IMAGES, MINIBATCH, DRAWS, VALUES = 2000, 100, 2000, 8


def kurtosis(x):
    """Of each column of (N, C); 3 for a Gaussian."""
    x = (x - x.mean(0)) / x.std(0, correction=0)
    return x.pow(4).mean(0)


@torch.no_grad()
def layer_noise(model, images, n=MINIBATCH, draws=DRAWS):
    """Kurtosis of pre-activations and of their noise, for each layer.

    The pre-activations of `images` (N, 3, 32, 32), input noise and
    dropout off, are standardized by channel. A minibatch of n of them has
    a mean and a standard deviation that are a little off: mean-only batch
    norm adds the one as noise, batch norm both. A layer's figure is the
    median over its channels.
    """
    model.eval()
    outputs, table = {}, {}
    for name, block in model.named_children():
        if hasattr(block, "layer"):
            block.layer.register_forward_hook(
                lambda _, __, t, name=name: outputs.update({name: t})
            )
    for name, block in model.named_children():
        images = block(images)
        if name in outputs:
            table[name] = _noise(outputs.pop(name).float(), n, draws)
    return table


def _noise(t, n, draws):
    torch.manual_seed(0)
    t = t.flatten(2) if t.ndim > 2 else t[..., None]  # (N, C, P)
    std, mean = torch.std_mean(t, (0, 2), correction=0, keepdim=True)
    z = ((t - mean) / std).double()
    first, second = z.mean(2), z.square().mean(2)  # (N, C)
    mean_only, batch_norm = [], []
    for _ in range(draws):
        chosen = torch.randint(len(z), (n,))
        mu = first[chosen].mean(0)  # (C,)
        sigma = (second[chosen].mean(0) - mu**2).sqrt()
        pixels = torch.randint(z.shape[2], (VALUES,))
        some = z[chosen[:VALUES], :, pixels]  # (VALUES, C)
        mean_only.append(-mu)
        batch_norm.append((some - mu) / sigma - some)
    found = {
        "pre-activation": z.transpose(1, 2).flatten(0, 1),  # (N P, C)
        "mean-only BN": torch.stack(mean_only),
        "batch norm": torch.cat(batch_norm),
    }
    return {k: float(kurtosis(v).nanmedian()) for k, v in found.items()}


def measure(folder, data, draws=DRAWS):
    """One trained network: what it was, and its table."""
    run, model = trained(folder)
    images = prepare(data, run.recipe.inputs)[0][:IMAGES]
    table = layer_noise(model, images, draws=draws)
    return {
        "norm": str(run.norm),
        "width": run.recipe.width,
        "epochs": len(run.rows),
        "seed": run.recipe.seed,
        "data": data.name,
        "commit": run.provenance.get("commit"),
        "kurtosis": {
            layer: {k: round(v, 3) for k, v in row.items()}
            for layer, row in table.items()
        },
    }


def main(folders):
    if not folders:
        print("usage: python book/noise.py RUN ...", file=sys.stderr)
        return 2
    try:
        for folder in folders:
            Run.load(folder)  # before a download that may take minutes
        data = load_cifar10(full=True)
        networks = [measure(folder, data) for folder in folders]
    except (OSError, RuntimeError, ValueError) as error:
        print(f"noise: {error}", file=sys.stderr)
        return 2
    record = {
        "schema": 1,
        "what": "kurtosis, the median over channels",
        "images": IMAGES,
        "minibatch": MINIBATCH,
        "draws": DRAWS,
        "torch": torch.__version__,
        "networks": networks,
    }
    print(json.dumps(record, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
