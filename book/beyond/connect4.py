"""Connect-4 on two integers, solved exactly; 8,000 positions with answers.

python book/beyond/connect4.py makes positions.npz again, in a minute.

The board is seven columns of six cells. Cell (column, row) is bit
7 * column + row; the seventh bit of a column stays empty, so that no line
runs from one column into the next. A position is two such boards: the
stones of the player to move, `mine`, and all stones, `mask`.
"""

import hashlib
import random
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

COLUMNS, ROWS = 7, 6
BOTTOM = sum(1 << 7 * column for column in range(COLUMNS))
BOARD = BOTTOM * ((1 << ROWS) - 1)
COLUMN = [((1 << ROWS) - 1) << 7 * column for column in range(COLUMNS)]
MIDDLE_FIRST = [COLUMN[c] for c in (3, 2, 4, 1, 5, 0, 6)]  # in most lines
UP, ACROSS, RISING, FALLING = 1, 7, 8, 6  # to the next cell in a line
PATH = Path(__file__).with_name("positions.npz")
SHA256 = "85e58287c7b72b036040e06866aeac87427f0e4ffa82a115b0b9d04b931b4a7f"


def legal(mask: int) -> list[int]:
    """The columns with room."""
    return [c for c in range(COLUMNS) if (mask & COLUMN[c]) != COLUMN[c]]


def play(mine: int, mask: int, column: int) -> tuple[int, int]:
    """The position after a stone in a column, seen by the other player."""
    after = mask | (mask + (1 << 7 * column)) & COLUMN[column]
    return mask ^ mine, after


def wins(stones: int) -> bool:
    """Whether four of these stones stand in a line."""
    for step in (UP, ACROSS, RISING, FALLING):
        pairs = stones & stones >> step
        if pairs & pairs >> 2 * step:
            return True
    return False


def threats(stones: int, mask: int) -> int:
    """The empty cells that would complete a line of four of these."""
    found = stones << 1 & stones << 2 & stones << 3
    for step in (ACROSS, RISING, FALLING):
        up, down = stones << step, stones >> step
        up2, down2 = stones << 2 * step, stones >> 2 * step
        found |= up & up2 & (stones << 3 * step | down)
        found |= down & down2 & (stones >> 3 * step | up)
    return found & (BOARD ^ mask)


def reaches(
    mine: int, mask: int, worth: int, known: dict[int, bool]
) -> bool:
    """Whether the player to move can get `worth`, 0 or 1, or more.

    Alpha-beta search with the window closed to one question: I get 1 if a
    move leaves the other without 0, and 0 if one leaves him without 1.
    `known` keeps what was found. Nobody may have won yet.
    """
    cells = mask + BOTTOM & BOARD  # the next free one of each column
    if not cells:
        return worth == 0
    if threats(mine, mask) & cells:
        return True
    theirs = threats(mask ^ mine, mask)
    forced = theirs & cells
    if forced & forced - 1:  # two at once: only one can be stopped
        return False
    cells = (forced or cells) & ~(
        theirs >> 1
    )  # nor prepare a cell for them
    key = 2 * (mine + mask) + worth  # differs from question to question
    if key not in known:
        stones = [cells & c for c in MIDDLE_FIRST if cells & c]
        stones.sort(key=lambda s: -threats(mine | s, mask | s).bit_count())
        known[key] = any(
            not reaches(mask ^ mine, mask | stone, 1 - worth, known)
            for stone in stones
        )
    return known[key]


def value(mine: int, mask: int, known: dict[int, bool]) -> int:
    """1, 0 or -1: what the player to move gets if both play perfectly."""
    if reaches(mine, mask, 1, known):
        return 1
    return 0 if reaches(mine, mask, 0, known) else -1


def move_values(
    mine: int, mask: int, known: dict[int, bool]
) -> dict[int, int]:
    """What each legal column leads to, for the player to move."""
    found = {}
    for column in legal(mask):
        theirs, after = play(mine, mask, column)
        won = wins(after ^ theirs)
        found[column] = 1 if won else -value(theirs, after, known)
    return found


def mirrored(board: int) -> int:
    """The board seen from behind."""
    columns = range(COLUMNS)
    return sum((board >> 7 * c & 127) << 7 * (6 - c) for c in columns)


def shown(mine: int, mask: int) -> str:
    """The board as text: x is the player to move, o the other."""
    rows = []
    for row in reversed(range(ROWS)):
        bits = [1 << 7 * column + row for column in range(COLUMNS)]
        rows.append(
            " ".join(".ox"[(b & mask != 0) + (b & mine != 0)] for b in bits)
        )
    return "\n".join([*rows, "0 1 2 3 4 5 6"])


_BITS = np.array(
    [[7 * c + r for c in range(COLUMNS)] for r in reversed(range(ROWS))]
)


def planes(mine: np.ndarray, mask: np.ndarray) -> Tensor:
    """Boards (N,) as pictures (N, 2, 6, 7): my stones, their stones."""
    bits = _BITS.astype(np.uint64)
    both = np.stack([mine, mask ^ mine], 1).astype(np.uint64)  # (N, 2)
    cells = both[:, :, None, None] >> bits & np.uint64(1)
    return torch.from_numpy(cells.astype(np.float32))


class Positions(NamedTuple):
    """Positions with their answers, N of them."""

    mine: np.ndarray  #: (N,) uint64
    mask: np.ndarray  #: (N,) uint64
    good: Tensor  #: (N, 7) whether the column keeps the position's value
    legal: Tensor  #: (N, 7) whether the column has room
    value: Tensor  #: (N,) 1, 0 or -1 for the player to move

    @property
    def boards(self) -> Tensor:
        """(N, 2, 6, 7), what a network sees."""
        return planes(self.mine, self.mask)

    def part(self, chosen: slice | Tensor) -> "Positions":
        """Some of them."""
        return Positions(*(column[chosen] for column in self))


def load(path: Path = PATH) -> Positions:
    """The positions that come with the book.

    Raises:
        ValueError: the file is not the one that the book was made with.
    """
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ValueError(f"{path.name} is not the book's; make it again")
    with np.load(path, allow_pickle=False) as file:
        stones, answer = file["stones"], file["answer"]  # (N, 14), (N, 2)
    mine, mask = _joined(stones[:, :7]), _joined(stones[:, 7:])
    moves = np.arange(COLUMNS, dtype=np.uint8)
    good = (answer[:, :1] >> moves & 1).astype(bool)
    tops = np.array([7 * c + ROWS - 1 for c in range(COLUMNS)], np.uint64)
    room = (mask[:, None] >> tops & np.uint64(1)) == 0
    worth = torch.from_numpy(answer[:, 1].astype(np.float32) - 1)
    good, room = torch.from_numpy(good), torch.from_numpy(room)
    return Positions(mine, mask, good, room, worth)


def _joined(columns: np.ndarray) -> np.ndarray:
    """Seven bytes, a column each, as one board: (N, 7) to (N,)."""
    shifts = 7 * np.arange(COLUMNS, dtype=np.uint64)
    return (columns.astype(np.uint64) << shifts).sum(1, dtype=np.uint64)


def random_position(
    draw: random.Random, plies: int
) -> tuple[int, int] | None:
    """After so many random moves; a line of four that threatens is stopped.

    None if a move could complete a line all the same.
    """
    mine = mask = 0
    for _ in range(plies):
        cells = mask + BOTTOM & BOARD
        forced = threats(mask ^ mine, mask) & cells
        columns = [
            c for c in legal(mask) if not forced or forced & COLUMN[c]
        ]
        mine, mask = play(mine, mask, draw.choice(columns))
        if threats(mine, mask) & mask + BOTTOM:
            return None
    return mine, mask


def make(count: int, seed: int = 0) -> list[tuple[int, int, int, int]]:
    """(mine, mask, good columns as bits, value + 1), shuffled by the draw.

    Kept are positions of 28 to 36 stones in which the move matters: some
    legal moves keep the position's value and some do not, and no move wins
    at once. Of a position and its mirror image only one is kept.
    """
    draw, known = random.Random(seed), {}
    seen, rows = set(), []
    while len(rows) < count:
        found = random_position(draw, draw.randrange(28, 37))
        if found is None:
            continue
        mine, mask = found
        key = min(mine + mask, mirrored(mine) + mirrored(mask))
        if key in seen:
            continue
        seen.add(key)
        values = move_values(mine, mask, known)
        best = max(values.values())
        good = sum(1 << c for c, worth in values.items() if worth == best)
        if min(values.values()) < best:
            rows.append((mine, mask, good, best + 1))
        if len(known) > 2_000_000:  # about 200 MB
            known.clear()
    return rows


def write(path: Path, rows: list[tuple[int, int, int, int]]) -> str:
    """Write them compressed; returns the file's SHA-256."""
    bytes_of = [
        [board >> 7 * c & 127 for board in row[:2] for c in range(COLUMNS)]
        for row in rows
    ]
    np.savez_compressed(
        path,
        stones=np.array(bytes_of, np.uint8),
        answer=np.array([row[2:] for row in rows], np.uint8),
    )
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else PATH
    print(write(target, make(8_000)))
