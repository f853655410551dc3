"""Figures to play with: widgets where there is a kernel, live HTML where there is none."""

from wnlib.widgets.activations import Activations
from wnlib.widgets.convolution import ConvolutionArithmetic
from wnlib.widgets.curvature import Curvature
from wnlib.widgets.curves import FiveCurves
from wnlib.widgets.geometry import Geometry
from wnlib.widgets.initialization import Initialization
from wnlib.widgets.noise import BatchNoise
from wnlib.widgets.smoothing import Smoothing
from wnlib.widgets.whitening import Whitening

__all__ = [
    "Activations",
    "BatchNoise",
    "ConvolutionArithmetic",
    "Curvature",
    "FiveCurves",
    "Geometry",
    "Initialization",
    "Smoothing",
    "Whitening",
]
