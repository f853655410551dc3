"""One of each figure, as the book makes them: what tests with and without a browser go through."""

from collections.abc import Callable

from wnlib import widgets
from wnlib.widgets.base import Figure

FIGURES: dict[str, Callable[[], Figure]] = {
    "Activations": widgets.Activations,
    "ConvolutionArithmetic": widgets.ConvolutionArithmetic,
    "Curvature": widgets.Curvature,
}
