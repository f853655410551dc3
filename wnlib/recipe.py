"""Everything that defines a training run, in one frozen place."""

import dataclasses
import sys
from dataclasses import dataclass
from reprlib import repr as short
from typing import Any, Literal, get_args

from wnlib.inputs import Inputs
from wnlib.layers import Norm

LARGEST = sys.float_info.max  # infinity is larger, and a whole number may be, too


@dataclass(frozen=True)
class Recipe:
    """One training run. `Recipe.paper` and `Recipe.report` fill it in as their sources have it.

    The defaults are the paper's: Section 5.1, or its released code (github.com/openai/weightnorm,
    folder lasagne) where that says more than the text. In parentheses: the section, or "code".

    Raises:
        ValueError: at construction, for a value that no run can have.
    """

    norm: Norm  #: one of the five configurations
    name: str = "paper"  #: where the settings come from
    width: int = 96  #: channels of the first three layers, half those of the others
    scale: Literal["linear", "exp"] = "linear"  #: weight norm's g, or s with g = exp(s) (2)
    plain: Literal["divided", "frozen"] = "divided"  #: init divides W, or sets a g beside it

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
        scales = ("linear", "exp") if self.norm.weight_normalized else ("linear",)
        plains = ("divided", "frozen") if self.norm in (Norm.NONE, Norm.MOBN) else ("divided",)
        name_rule = "a short name without slashes"
        for fields, kind, holds, what in (
            ("name", str, lambda s: 0 < len(s) <= 60 and s.isprintable(), name_rule),
            ("name", str, lambda s: not {*s} & {*"/\\"}, name_rule),
            ("inputs", str, get_args(Inputs).__contains__, f"one of {', '.join(get_args(Inputs))}"),
            ("noise", str, ("gaussian", "uniform").__contains__, "gaussian or uniform"),
            ("scale", str, scales.__contains__, f"{' or '.join(scales)} with {self.norm.label}"),
            ("plain", str, plains.__contains__, f"{' or '.join(plains)} with {self.norm.label}"),
            ("width epochs batch_size", int, lambda n: 0 < n <= 10**5, "from 1 to 100,000"),
            ("init_images", int, lambda n: n == 0 or 1 < n <= 10**5, "0 or from 2 to 100,000"),
            ("seed", int, lambda n: 0 <= n < 2**64, "a whole number from 0 to 2⁶⁴ − 1"),
            ("lr adam_eps bn_eps", float, lambda x: 0 < x <= LARGEST, "a number above 0"),
            ("sigma", float, lambda x: 0 <= x <= LARGEST, "a number from 0 up"),
            ("dropout beta1 late_beta1", float, lambda x: 0 <= x < 1, "in [0, 1)"),
            ("decay_from", float, lambda x: 0 <= x <= 1, "in [0, 1]"),
        ):
            for field in fields.split():
                value = getattr(self, field)
                known = isinstance(value, int | float if kind is float else kind)
                if not known or isinstance(value, bool) or not holds(value):
                    raise ValueError(f"{field} is {what}, not {short(value)}")

    @classmethod
    def paper(cls, norm: Norm | str) -> "Recipe":
        """The paper's: "normal" alone has a lower learning rate (5.1), and a frozen g (code)."""
        if Norm(norm) is Norm.NONE:
            return cls(Norm.NONE, lr=0.0003, plain="frozen")
        return cls(Norm(norm), lr=0.003)

    @classmethod
    def report(cls, norm: Norm | str) -> "Recipe":
        """The report's settings, from its text and its released code.

        Three slips of that code are not repeated: its batch norm never updates the moving variance,
        its mean-only BN is reached only with weight norm, and together with weight norm it
        subtracts the minibatch mean twice at the start.
        """
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
        """A copy with some values changed; the schedule follows the number of epochs.

        Raises:
            ValueError: a field that a recipe does not have, or an impossible value.
        """
        unknown = set(changes) - {field.name for field in dataclasses.fields(self)}
        if unknown:
            raise ValueError(f"a recipe has no {', '.join(sorted(unknown))}")
        return dataclasses.replace(self, **changes)

    def lr_at(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0: lr · min((E − e)/(E − E·decay_from), 1).

        With 200 epochs that is the released code's lr · min(2 − e/100, 1).
        """
        rest = self.epochs * (1 - self.decay_from)
        return self.lr * min((self.epochs - epoch) / rest, 1.0) if rest else float(self.lr)

    def beta1_at(self, epoch: int) -> float:
        """Adam's β₁ of an epoch, counted from 0."""
        return self.beta1 if epoch < self.epochs * self.decay_from else self.late_beta1
