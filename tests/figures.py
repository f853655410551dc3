"""One of each figure, as the book makes them: what tests with and without a browser go through."""

from collections.abc import Callable

from wnlib import widgets
from wnlib.data import load_cifar10
from wnlib.widgets.base import Figure

FIGURES: dict[str, Callable[[], Figure]] = {
    "Activations": widgets.Activations,
    "ConvolutionArithmetic": widgets.ConvolutionArithmetic,
    "Curvature": widgets.Curvature,
    "Whitening": lambda: widgets.Whitening(load_cifar10()),
}
