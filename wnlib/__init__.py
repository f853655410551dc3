"""Weight normalization, as derived in the book; what one does with it is in `wnlib.lab`."""

from wnlib.data import load_cifar10
from wnlib.init import data_dependent_init_
from wnlib.layers import MeanOnlyBatchNorm, Norm, weight_norm
from wnlib.model import ConvPoolCNNC
from wnlib.training import Recipe, Training, train

__version__ = "0.2.0"
__all__ = [
    "ConvPoolCNNC", "MeanOnlyBatchNorm", "Norm", "Recipe", "Training", "data_dependent_init_",
    "load_cifar10", "train", "weight_norm",
]  # fmt: skip
