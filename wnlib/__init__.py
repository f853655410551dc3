"""Weight normalization, as derived in the book; what one does with it is in `wnlib.lab`."""

__version__ = "0.2.0"

from wnlib.data import load_cifar10
from wnlib.init import data_dependent_init_
from wnlib.layers import MeanOnlyBatchNorm, Norm, weight_norm
from wnlib.model import ConvPoolCNNC
from wnlib.training import Recipe, Training, epochs, train

__all__ = [
    "ConvPoolCNNC",
    "MeanOnlyBatchNorm",
    "Norm",
    "Recipe",
    "Training",
    "data_dependent_init_",
    "epochs",
    "load_cifar10",
    "train",
    "weight_norm",
]
