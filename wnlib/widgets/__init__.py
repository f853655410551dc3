"""Figures to play with: widgets where there is a kernel, live HTML where there is none."""

from wnlib.widgets.activations import Activations

__all__ = ["Activations"]
