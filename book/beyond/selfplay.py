"""Search guided by a network (PUCT), self-play, and matches.

As in AlphaGo Zero: the policy head proposes, the value head judges, and
the search's visits are a better policy, which the network then learns.
Many games are searched side by side, so that one call of the network
judges a position of each.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyond import connect4

EXPLORATION = 1.5
NOISE = 0.25  # its share in the root's probabilities, as in AlphaGo Zero
Position = tuple[int, int]  # mine, mask


@dataclass
class Node:
    """A position in the search's tree; sums are the mover's to it."""

    prior: float
    visits: int = 0
    total: float = 0.0
    children: dict[int, "Node"] = field(default_factory=dict)


def over(position: Position) -> float | None:
    """What the player to move got, -1 or 0; None if the game goes on."""
    mine, mask = position
    if connect4.wins(mask ^ mine):  # the last stone won
        return -1.0
    return 0.0 if mask == connect4.BOARD else None


def pictures(positions: Sequence[Position]) -> Tensor:
    """What a network sees of them, (N, 2, 6, 7)."""
    mine, mask = zip(*positions, strict=True)
    return connect4.planes(
        np.array(mine, np.uint64), np.array(mask, np.uint64)
    )


@torch.no_grad()
def judge(
    model: nn.Module, positions: Sequence[Position]
) -> tuple[list[dict[int, float]], list[float]]:
    """Of each position its legal columns' probabilities, and its value."""
    logits, values = model(pictures(positions))
    rooms = [connect4.legal(mask) for _, mask in positions]
    probabilities = logits.softmax(1).tolist()
    sums = [
        sum(row[c] for c in room)
        for row, room in zip(probabilities, rooms, strict=True)
    ]
    priors = [
        {c: row[c] / total for c in room}
        for row, room, total in zip(probabilities, rooms, sums, strict=True)
    ]
    return priors, values.tolist()


def search(
    model: nn.Module,
    positions: Sequence[Position],
    visits: int,
    draw: np.random.Generator | None = None,
) -> Tensor:
    """How often each column was visited, (N, 7). No game may be over.

    With a generator a quarter of each root's probabilities is drawn, so
    that self-play tries what the network has dismissed.
    """
    roots = [Node(1.0) for _ in positions]
    for visit in range(visits + 1):  # the first one opens the roots
        if visit == 1 and draw is not None:
            for root in roots:
                noise = draw.dirichlet([1.0] * len(root.children))
                for child, part in zip(
                    root.children.values(), noise, strict=True
                ):
                    child.prior += NOISE * (part - child.prior)
        ways = [_down(*pair) for pair in zip(roots, positions, strict=True)]
        worths = [over(end) for _, end in ways]
        open_ = [i for i, worth in enumerate(worths) if worth is None]
        if open_:
            ends = [ways[i][1] for i in open_]
            for i, priors, worth in zip(
                open_, *judge(model, ends), strict=True
            ):
                leaf = ways[i][0][-1]
                leaf.children = {c: Node(p) for c, p in priors.items()}
                worths[i] = worth
        for (path, _), worth in zip(ways, worths, strict=True):
            _back(path, worth)
    counts = torch.zeros(len(positions), connect4.COLUMNS)
    for row, root in zip(counts, roots, strict=True):
        for column, child in root.children.items():
            row[column] = child.visits
    return counts


def _down(node: Node, position: Position) -> tuple[list[Node], Position]:
    """From a root to a leaf: the nodes on the way, the leaf's position."""
    path = [node]
    while node.children:
        column = _best(node)
        node, position = (
            node.children[column],
            connect4.play(*position, column),
        )
        path.append(node)
    return path, position


def _back(path: list[Node], worth: float) -> None:
    """Add a leaf's worth, to the player to move there, along its way."""
    for node in reversed(path):
        node.visits += 1
        node.total -= worth  # the node belongs to the one who moved to it
        worth = -worth


def _best(node: Node) -> int:
    """The column with the highest mean value plus bonus for the unknown."""
    bonus = EXPLORATION * math.sqrt(node.visits)

    def score(column: int) -> float:
        child = node.children[column]
        mean = child.total / child.visits if child.visits else 0.0
        return mean + bonus * child.prior / (1 + child.visits)

    return max(node.children, key=score)


def self_play(
    model: nn.Module, games: int, visits: int, seed: int, opening: int = 8
) -> list[tuple[Position, Tensor, float]]:
    """Positions, the search's policy (7,), and who won, to each.

    The first `opening` moves are drawn from the visits, the rest the best.
    """
    draw, columns = np.random.default_rng(seed), connect4.COLUMNS
    now: list[Position] = [(0, 0)] * games
    seen: list[list] = [[] for _ in range(games)]
    playing = list(range(games))
    while playing:
        counts = search(model, [now[i] for i in playing], visits, draw)
        for i, row in zip(playing, counts, strict=True):
            policy = row / row.sum()
            seen[i].append((now[i], policy))
            column = int(row.argmax())
            if len(seen[i]) <= opening:
                chances = policy.double() / policy.double().sum()
                column = int(draw.choice(columns, p=chances))
            now[i] = connect4.play(*now[i], column)
        playing = [i for i in playing if over(now[i]) is None]
    rows = []
    for game, end in zip(seen, now, strict=True):
        worth = over(end)  # to who is to move
        for position, policy in reversed(game):
            worth = -worth
            rows.append((position, policy, worth))
    return rows


def learn(
    model: nn.Module,
    rate: float,
    seed: int,
    rounds: int,
    games: int,
    visits: int,
    updates: int,
    kept: int = 20,
) -> Iterator[float]:
    """Play, learn from the last `kept` rounds, play; a round's mean loss.

    Adam, minibatches of 64 positions: cross-entropy with the search's
    visits and squared error of the value, as in AlphaGo Zero.
    """
    adam = torch.optim.Adam(model.parameters(), rate)
    draw = torch.Generator().manual_seed(seed)
    memory: list[list] = []
    for number in range(rounds):
        model.eval()
        rows = self_play(model, games, visits, seed=1_000 * seed + number)
        memory = [*memory[1 - kept :], rows]
        all_rows = chain.from_iterable(memory)
        positions, policies, worths = zip(*all_rows, strict=True)
        boards, policy = pictures(positions), torch.stack(policies)
        worth = torch.tensor(worths)
        model.train()
        total = 0.0
        for _ in range(updates):
            chosen = torch.randint(len(worth), (64,), generator=draw)
            logits, value = model(boards[chosen])
            loss = F.cross_entropy(logits, policy[chosen])
            loss = loss + F.mse_loss(value, worth[chosen])
            adam.zero_grad()
            loss.backward()
            adam.step()
            total += loss.item()
        yield total / updates


def match(
    first: nn.Module,
    second: nn.Module,
    starts: Sequence[Position],
    visits: int,
) -> list[float]:
    """1, ½ or 0 a start for `first`, who is to move there.

    All starts have as many stones, and no game is over.
    """
    now, scores = list(starts), [0.5] * len(starts)
    playing, turn = list(range(len(starts))), 0
    while playing:
        model = (first, second)[turn].eval()
        counts = search(model, [now[i] for i in playing], visits)
        for i, row in zip(playing, counts, strict=True):
            now[i] = connect4.play(*now[i], int(row.argmax()))
            if over(now[i]) == -1:
                scores[i] = 1.0 - turn
        playing = [i for i in playing if over(now[i]) is None]
        turn = 1 - turn
    return scores


class Blind(nn.Module):
    """Equal columns and value zero: a search without a network."""

    def forward(self, boards: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(boards), 7), torch.zeros(len(boards))


def score(first: nn.Module, second: nn.Module, visits: int) -> float:
    """The share of points of `first`: each opening, with either side."""
    starts = openings()
    begun = match(first, second, starts, visits)
    other = match(second, first, starts, visits)
    return (sum(begun) + len(other) - sum(other)) / (2 * len(starts))


def openings() -> list[Position]:
    """All 49 positions of two stones."""
    columns = range(connect4.COLUMNS)
    return [
        connect4.play(*connect4.play(0, 0, a), b)
        for a in columns
        for b in columns
    ]
