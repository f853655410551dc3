"""Connect-4 against a network: what each column leads to is shown once the reader has chosen."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import traitlets
from matplotlib.axes import Axes
from wnlib.layers import Norm

from figures.base import Figure
from figures.plots import COLORS, Plot


class Connect4(Figure):
    """Positions in which the reader moves and a network answers; the page solves them by itself.

    Args:
        positions: pairs (stones of the player to move, all stones), each a board of 49 bits, cell
            (column, row) bit 7 column + row. The solver takes long for fewer than 24 stones.
        weights: of a residual tower without normalization, 16-bit, one after the other: stem,
            blocks, a 1 x 1 convolution to 4 channels, the policy's layer; of each the weight and
            then the bias. What follows is not read.
        width: its channels.
        blocks: its residual blocks.
        traits: the first state.

    Attributes:
        position: the place of one.
        moves: the columns played since, one digit each, the reader's first.
    """

    script = "connect4"

    position = traitlets.Int(0, min=0).tag(sync=True)
    moves = traitlets.Unicode().tag(sync=True)
    title = traitlets.Unicode(
        "Play a column: can you find the move that the solver finds? Can the network?"
    ).tag(sync=True)
    caption = traitlets.Unicode(
        "You are blue. After your move the columns show what each of them led to for you if both "
        "play perfectly, and the network’s probability of it; the best is in bold."
    ).tag(sync=True)

    def __init__(
        self,
        positions: Sequence[tuple[int, int]],
        weights: np.ndarray,
        *,
        width: int,
        blocks: int,
        **traits: Any,
    ) -> None:
        text = base64.b64encode(weights.astype("<f2").tobytes()).decode()
        data = {
            # As text: JSON's numbers are exact to 53 bits, and some readers' are not.
            "positions": [[str(mine), str(mask)] for mine, mask in positions],
            "tower": {"width": width, "blocks": blocks, "weights": text},
        }
        super().__init__(**{"data": data} | traits)

    def picture(self) -> Plot:
        """The position of the first state, before any move."""
        mine, mask = map(int, self.data["positions"][self.position])
        cells = [(c, r) for c in range(7) for r in range(6)]

        def draw(axes: Axes) -> None:
            for board, norm in ((mine, Norm.WN), (mask ^ mine, Norm.BN)):
                there = [cell for cell in cells if board >> 7 * cell[0] + cell[1] & 1]
                columns, rows = ([cell[k] for cell in there] for k in (0, 1))
                axes.scatter(columns, rows, 330, color=COLORS[norm])
            axes.set(xlim=(-0.6, 6.6), ylim=(-0.6, 5.6), aspect="equal", yticks=[])
            axes.set_xticks(range(7))
            axes.grid(False)

        count = mask.bit_count()
        return Plot(draw, f"A Connect-4 position of {count} stones, blue to move.", size=(4, 3.6))
