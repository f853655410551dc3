"""Everything that defines a training run, in one frozen place."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from wnlib.inputs import Inputs
from wnlib.layers import Norm, Plain, Scale


@dataclass(frozen=True)
class Recipe:
    """One training run. `Recipe.paper` and `Recipe.report` fill it in as their sources have it.

    The defaults are the paper's: Section 5.1, or its released code (github.com/openai/weightnorm,
    folder lasagne) where that says more than the text. In parentheses: the section, or "code".
    A value that no run can have is a ValueError.
    """

    norm: Norm  #: one of the five configurations
    name: str = "paper"  #: where the settings come from
    width: int = 96  #: channels of the first three layers, half those of the others
    scale: Scale = "linear"  #: weight norm's g, or s with g = exp(s) (2)
    plain: Plain = "divided"  #: init divides W, or sets a g beside it

    inputs: Inputs = "zca"  #: symmetric, then ZCA whitening (5.1; its 1e-5 is the code's)
    noise: Literal["gaussian", "uniform"] = "gaussian"  #: on the inputs, in training (5.1)
    sigma: float = 0.15  #: the noise's standard deviation (5.1)
    dropout: float = 0.5  #: after each of the two poolings (code)
    bn_eps: float = 1e-6  #: added to batch norm's variance (code)
    init_images: int = 500  #: minibatch of data-dependent initialization, 0 for none (code)

    epochs: int = 200  #: passes over the training images (5.1)
    batch_size: int = 100  #: images a step (5.1)
    lr: float = 0.003  #: Adam's learning rate (5.1)
    decay_from: float = 0.5  #: part of the epochs after which lr falls to 0, 1 for never (5.1)
    beta1: float = 0.9  #: Adam's β₁, before that (5.1)
    late_beta1: float = 0.5  #: and after (5.1)
    adam_eps: float = 1e-4  #: the code adds 1e-8 under the root, torch adds eps outside of it
    seed: int = 0  #: of all generators of the run

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", Norm(self.norm))
        scales = get_args(Scale)[: 1 + self.norm.weight_normalized]
        plains = get_args(Plain)[: 1 + (self.norm in (Norm.NONE, Norm.MOBN))]
        for field, holds, what in (
            ("scale", self.scale in scales, f"{' or '.join(scales)} with {self.norm.label}"),
            ("plain", self.plain in plains, f"{' or '.join(plains)} with {self.norm.label}"),
            ("width", 0 < self.width <= 10**5, "from 1 to 100,000"),
            ("epochs", 0 < self.epochs <= 10**5, "from 1 to 100,000"),
            ("batch_size", 0 < self.batch_size <= 10**5, "from 1 to 100,000"),
            ("lr", 0 < self.lr < math.inf, "a number above 0"),
            ("seed", 0 <= self.seed < 2**64, "a whole number from 0 to 2⁶⁴ − 1"),
        ):
            if not holds:
                raise ValueError(f"{field} is {what}, not {getattr(self, field)!r}")

    @classmethod
    def paper(cls, norm: Norm | str) -> "Recipe":
        """The paper's settings: only "normal" has a lower rate (5.1), and a frozen g (code)."""
        if Norm(norm) is Norm.NONE:
            return cls(Norm.NONE, lr=0.0003, plain="frozen")
        return cls(Norm(norm), lr=0.003)

    @classmethod
    def report(cls, norm: Norm | str) -> "Recipe":
        """The report's settings, from its text and its released code, without that code's slips."""
        norm = Norm(norm)
        return cls(
            norm,
            name="report",
            inputs="unit",  # images / 255, no whitening (Section 5)
            lr=0.001,  # constant (7)
            decay_from=1.0,
            adam_eps=1e-8,  # TensorFlow's default (code)
            bn_eps=1e-3,  # (code)
            init_images=500 if norm.weight_normalized else 0,  # only with weight norm (6.C, code)
        )

    def replace(self, **changes: Any) -> "Recipe":
        """A copy with some values changed; the schedule follows the number of epochs."""
        return dataclasses.replace(self, **changes)

    def lr_at(self, epoch: int) -> float:
        """The learning rate of epoch e from 0: of 200, lr · min(2 − e/100, 1), as in the code."""
        rest = self.epochs * (1 - self.decay_from)
        return self.lr * min((self.epochs - epoch) / rest, 1.0) if rest else float(self.lr)

    def beta1_at(self, epoch: int) -> float:
        """Adam's β₁ of an epoch, counted from 0."""
        return self.beta1 if epoch < self.epochs * self.decay_from else self.late_beta1
