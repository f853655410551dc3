"""Breakout on ten by ten cells, many games side by side.

The idea is MinAtar's (Young & Tian, 2019), the rules and the code are our
own. Three rows of bricks, a paddle of one cell in the bottom row, a ball
that moves by one cell along a diagonal each frame.

- Actions: 0 stays, 1 moves the paddle left, 2 right; walls stop it.
- The ball bounces off the side walls and off the top.
- A brick in its next cell breaks, pays 1, and sends it back vertically.
- The paddle sends it back where it stands in the column that the ball
  leaves or in the one that it enters. Else the game ends.
- With the last brick gone, three new rows appear.
- The ball starts in a random column, in a random direction.
- With probability STICKY the last action is repeated instead of the new
  one, so that no sequence of moves can be learned by heart.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

SIZE, ACTIONS, STICKY = 10, 3, 0.1
WALL = slice(1, 4)  # the rows of the bricks


class Breakout:
    """`games` games at once. Row 0 is the top.

    A game that ends begins again at once; the boards that `step` gives
    are of the new game, while `done` tells of the old one.
    """

    def __init__(
        self, games: int, seed: int, sticky: float = STICKY
    ) -> None:
        self.draw = np.random.default_rng(seed)
        self.sticky = sticky
        (
            self.row,
            self.column,
            self.down,
            self.right,
            self.paddle,
            self.last,
        ) = (np.zeros(games, int) for _ in range(6))
        self.trail = np.zeros((games, 2), int)  # where the ball came from
        self.bricks = np.zeros((games, SIZE, SIZE), bool)
        self.begin(np.ones(games, bool))

    def begin(self, which: np.ndarray) -> None:
        """Start these games anew, which: (games,) of bool."""
        n = int(which.sum())
        self.bricks[which] = False
        self.bricks[which, WALL] = True
        self.row[which] = 4
        self.column[which] = self.draw.integers(SIZE, size=n)
        self.down[which] = 1
        self.right[which] = self.draw.choice([-1, 1], n)
        self.paddle[which] = SIZE // 2
        self.last[which] = 0
        self.trail[which] = np.stack([self.row, self.column], 1)[which]

    def boards(self) -> Tensor:
        """(games, 4, 10, 10): paddle, ball, where it came from, bricks."""
        n = np.arange(len(self.row))
        seen = np.zeros((len(n), 4, SIZE, SIZE), np.float32)
        seen[n, 0, SIZE - 1, self.paddle] = 1
        seen[n, 1, self.row, self.column] = 1
        seen[n, 2, self.trail[:, 0], self.trail[:, 1]] = 1
        seen[:, 3] = self.bricks
        return torch.from_numpy(seen)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One frame of every game: rewards (games,), done (games,)."""
        n = np.arange(len(self.row))
        repeat = self.draw.random(len(n)) < self.sticky
        self.last = np.where(repeat, self.last, actions)
        move = np.array([0, -1, 1])[self.last]
        self.paddle = np.clip(self.paddle + move, 0, SIZE - 1)
        self.trail = np.stack([self.row, self.column], 1)

        column = self.column + self.right
        side = (column < 0) | (column >= SIZE)
        self.right = np.where(side, -self.right, self.right)
        column = np.where(side, self.column, column)  # a cell's rest there
        row = self.row + self.down
        top = row < 0
        hit = ~top & self.bricks[n, row.clip(0), column]
        self.bricks[n[hit], row[hit], column[hit]] = False
        caught = (row == SIZE - 1) & (
            (column == self.paddle) | (self.column == self.paddle)
        )
        done = (row == SIZE - 1) & ~caught
        back = top | hit | caught
        self.down = np.where(back, -self.down, self.down)
        self.row = np.where(back, self.row, row)
        self.column = column
        # Whoever is sent back into a brick's cell stands beside the wall.
        empty = ~self.bricks.any((1, 2)) & (self.row > 3)
        self.bricks[empty, WALL] = True
        self.begin(done)
        return hit.astype(np.float32), done


def film(
    player: Callable[[Breakout], np.ndarray], seed: int, most: int = 400
) -> tuple[list[str], list[str]]:
    """One game from its first frame until the ball is lost.

    Of each frame 100 digits, row by row: 0 empty, 1 where the ball came
    from, 2 a brick, 3 the paddle, 4 the ball; and a note of what was
    broken so far. A game that is longer than `most` frames is cut off.
    """
    game, boards, notes = Breakout(1, seed), [], []
    broken, lost = 0, False
    while not lost and len(boards) < most:
        paddle, ball, trail, bricks = game.boards()[0].int()
        cells = torch.stack([trail, 2 * bricks, 3 * paddle, 4 * ball])
        cells = cells.amax(0).flatten()
        boards.append("".join(map(str, cells.tolist())))
        notes.append(f"frame {len(boards)}: {broken} bricks")
        reward, done = game.step(player(game))
        broken, lost = broken + int(reward[0]), bool(done[0])
    notes[-1] += ", and the ball is lost" if lost else ", and it goes on"
    return boards, notes
