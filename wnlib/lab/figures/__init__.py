"""Figures to play with: widgets where there is a kernel, live HTML where there is none."""

from wnlib.lab.figures.activations import Activations
from wnlib.lab.figures.connect4 import Connect4
from wnlib.lab.figures.convolution import ConvolutionArithmetic
from wnlib.lab.figures.curvature import Curvature
from wnlib.lab.figures.curves import FiveCurves
from wnlib.lab.figures.frames import Frames
from wnlib.lab.figures.geometry import Geometry
from wnlib.lab.figures.initialization import Initialization
from wnlib.lab.figures.noise import BatchNoise
from wnlib.lab.figures.rates import Rates
from wnlib.lab.figures.smoothing import Smoothing
from wnlib.lab.figures.whitening import Whitening

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
