"""Weight normalization, as derived in the book; what one does with it is in `wnlib.lab`."""

import sys

__version__ = "0.2.0"

try:
    from wnlib.data import load_cifar10
    from wnlib.init import data_dependent_init_
    from wnlib.layers import MeanOnlyBatchNorm, Norm, weight_norm
    from wnlib.model import ConvPoolCNNC
    from wnlib.training import Recipe, Training, epochs, train
except KeyboardInterrupt:
    if sys.argv[:1] != ["-m"]:
        raise
    # `python -m wnlib` loads this first, and torch takes seconds: Ctrl-C is no error.
    print("wnlib: stopped", file=sys.stderr)
    raise SystemExit(2) from None

__all__ = [
    "ConvPoolCNNC", "MeanOnlyBatchNorm", "Norm", "Recipe", "Training", "data_dependent_init_",
    "epochs", "load_cifar10", "train", "weight_norm",
]  # fmt: skip
