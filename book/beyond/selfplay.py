"""Search guided by a network (PUCT), self-play, and matches.

As in AlphaGo Zero: the policy head proposes, the value head judges, and
the search's visits are a better policy, which the network then learns.
"""

import math
import random
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from beyond import connect4

EXPLORATION = 1.5
Position = tuple[int, int]  # mine, mask


@dataclass
class Node:
    """A position in the search's tree; sums are the mover's to it."""

    prior: float
    visits: int = 0
    total: float = 0.0
    children: dict[int, "Node"] = field(default_factory=dict)


@torch.no_grad()
def judge(model: nn.Module, position: Position) -> tuple[Tensor, float]:
    """A network's probabilities (7,) of the legal moves, and its value."""
    mine, mask = (np.array([board], np.uint64) for board in position)
    logits, value = model(connect4.planes(mine, mask))
    room = connect4.legal(position[1])
    chosen = torch.zeros(connect4.COLUMNS)
    chosen[room] = logits[0, room].softmax(0)
    return chosen, value.item()


def search(model: nn.Module, position: Position, visits: int) -> Tensor:
    """How often each column was visited, (7,). Nobody may have won yet."""
    root = Node(1.0)
    for _ in range(visits + 1):  # the first one opens the root
        _visit(model, root, position)
    counts = torch.zeros(connect4.COLUMNS)
    for column, child in root.children.items():
        counts[column] = child.visits
    return counts


def _visit(model: nn.Module, node: Node, position: Position) -> float:
    """Go down once; what the player to move can expect, in [-1, 1]."""
    mine, mask = position
    if connect4.wins(mask ^ mine):  # the last stone won
        worth = -1.0
    elif mask == connect4.BOARD:
        worth = 0.0
    elif not node.children:
        priors, worth = judge(model, position)
        columns = connect4.legal(mask)
        node.children = {c: Node(priors[c].item()) for c in columns}
    else:
        column = _best(node)
        after = connect4.play(mine, mask, column)
        worth = -_visit(model, node.children[column], after)
    node.visits += 1
    node.total -= worth  # the node belongs to the one who moved to it
    return worth


def _best(node: Node) -> int:
    """The column with the highest mean value plus bonus for the unknown."""
    bonus = EXPLORATION * math.sqrt(node.visits)

    def score(column: int) -> float:
        child = node.children[column]
        mean = child.total / child.visits if child.visits else 0.0
        return mean + bonus * child.prior / (1 + child.visits)

    return max(node.children, key=score)


def self_play(
    model: nn.Module, visits: int, seed: int, opening: int = 8
) -> list[tuple[Position, Tensor, float]]:
    """One game: positions, the search's policy (7,), and who won, to each.

    The first `opening` moves are drawn from the visits, the rest the best.
    """
    draw, seen = random.Random(seed), []
    mine = mask = 0
    while mask != connect4.BOARD and not connect4.wins(mask ^ mine):
        counts = search(model, (mine, mask), visits)
        seen.append(((mine, mask), counts / counts.sum()))
        if len(seen) <= opening:
            columns = range(connect4.COLUMNS)
            [column] = draw.choices(columns, counts.tolist())
        else:
            column = int(counts.argmax())
        mine, mask = connect4.play(mine, mask, column)
    worth = -1.0 if connect4.wins(mask ^ mine) else 0.0  # to who is to move
    rows = []
    for position, policy in reversed(seen):
        worth = -worth
        rows.append((position, policy, worth))
    return rows[::-1]


def match(
    first: nn.Module, second: nn.Module, start: Position, visits: int
) -> float:
    """1, ½ or 0 for `first`, who moves first from this position."""
    players, (mine, mask), turn = (first, second), start, 0
    while mask != connect4.BOARD:
        counts = search(players[turn], (mine, mask), visits)
        mine, mask = connect4.play(mine, mask, int(counts.argmax()))
        if connect4.wins(mask ^ mine):
            return 1.0 - turn
        turn = 1 - turn
    return 0.5
