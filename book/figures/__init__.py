"""Figures to play with: widgets where there is a kernel, live HTML where there is none."""

from figures.activations import Activations
from figures.connect4 import Connect4
from figures.convolution import ConvolutionArithmetic
from figures.curvature import Curvature
from figures.curves import FiveCurves
from figures.frames import Frames
from figures.geometry import Geometry
from figures.initialization import Initialization
from figures.noise import BatchNoise
from figures.rates import Rates
from figures.smoothing import Smoothing
from figures.whitening import Whitening

__all__ = [
    "Activations",
    "BatchNoise",
    "Connect4",
    "ConvolutionArithmetic",
    "Curvature",
    "FiveCurves",
    "Frames",
    "Geometry",
    "Initialization",
    "Rates",
    "Smoothing",
    "Whitening",
]
