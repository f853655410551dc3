"""Deep Q-learning, on the small Breakout: network, memory, target, loop.

As in Mnih et al. (2015): a network Q(s, ·), a slow copy of it for the
targets, a memory of what happened, and actions that are random with a
falling probability.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyond.breakout import ACTIONS, SIZE, Breakout
from wnlib import Norm, weight_norm

GAMMA = 0.99
GAMES = 16  # side by side
EVERY = 4  # frames an update
BATCH = 32
EXPLORE = 0.5  # the part of the frames in which exploration falls to 0.05
ROW = 4_000  # frames a row of the record
MEMORY = 20_000  # frames
FIRST = 1_000  # frames before the first update
COPY = 250  # updates between two copies


def q_network(norm: Norm | str, units: int = 64) -> nn.Sequential:
    """Boards (N, 4, 10, 10) to action values (N, 3), torch's own start."""
    norm = Norm(norm)
    layers = [
        nn.Conv2d(4, 16, 3),
        nn.Linear(16 * (SIZE - 2) ** 2, units),
        nn.Linear(units, ACTIONS),
    ]
    if norm.weight_normalized:
        layers = [weight_norm(layer) for layer in layers]
    bn = norm is Norm.BN
    conv, hidden, out = layers
    return nn.Sequential(
        conv,
        nn.BatchNorm2d(16) if bn else nn.Identity(),
        nn.ReLU(),
        nn.Flatten(),
        hidden,
        nn.BatchNorm1d(units) if bn else nn.Identity(),
        nn.ReLU(),
        out,
    )


def targets(reward: Tensor, done: Tensor, following: Tensor) -> Tensor:
    """r + γ max Q(s', ·), or r alone where the game ended.

    reward (N,), done (N,) of bool, following (N, actions).
    """
    return reward + GAMMA * following.amax(1) * ~done


class Memory:
    """The last `size` frames, kept as bytes."""

    def __init__(self, size: int) -> None:
        shape = (size, 4, SIZE, SIZE)
        self.before = torch.zeros(shape, dtype=torch.uint8)
        self.after = torch.zeros(shape, dtype=torch.uint8)
        self.action = torch.zeros(size, dtype=torch.int64)
        self.reward = torch.zeros(size)
        self.done = torch.zeros(size, dtype=torch.bool)
        self.written = 0

    def add(self, before, action, reward, done, after) -> None:
        """As many frames as there are games; each a tensor (games, …)."""
        at = (self.written + torch.arange(len(action))) % len(self.action)
        self.before[at], self.after[at] = before.byte(), after.byte()
        self.action[at], self.reward[at], self.done[at] = (
            action,
            reward,
            done,
        )
        self.written += len(action)

    def sample(
        self, count: int, draw: torch.Generator
    ) -> tuple[Tensor, ...]:
        """(before, action, reward, done, after) of random frames."""
        most = min(self.written, len(self.action))
        at = torch.randint(most, (count,), generator=draw)
        table = (
            self.before,
            self.action,
            self.reward,
            self.done,
            self.after,
        )
        before, *rest, after = (t[at] for t in table)
        return before.float(), *rest, after.float()


class Played(NamedTuple):
    """Some frames of training."""

    frames: int  #: so far
    games: int  #: that ended in these frames
    mean_return: float  #: bricks a game in them, NaN if none ended
    loss: float  #: mean of the updates
    value: float  #: mean of max Q in the last minibatch


def epsilon(frame: int, frames: int) -> float:
    """How often the action is random: from 1 down to 0.05."""
    return max(0.05, 1 - 0.95 * frame / (EXPLORE * frames))


def learn(
    norm: Norm | str,
    rate: float,
    seed: int,
    frames: int,
    batch: int = BATCH,
    row: int = ROW,
) -> Iterator[tuple[Played, nn.Module]]:
    """Play and learn; every `row` frames what happened, and the network."""
    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(seed)
    chance = np.random.default_rng(seed)
    net, slow = (q_network(norm) for _ in range(2))
    slow.load_state_dict(net.state_dict())
    slow.eval()  # batch norm's target network uses running statistics
    adam = torch.optim.Adam(net.parameters(), rate, fused=True)
    game, memory = Breakout(GAMES, seed), Memory(MEMORY)
    boards, running = game.boards(), np.zeros(GAMES)
    ended, losses, top, updates = [], [], 0.0, 0
    for frame in range(GAMES, frames + 1, GAMES):
        action = acted(net, boards)
        random = chance.random(GAMES) < epsilon(frame, frames)
        action[random] = chance.integers(ACTIONS, size=int(random.sum()))
        reward, done = game.step(action)
        running += reward
        ended += running[done].tolist()
        running[done] = 0
        after = game.boards()
        seen = action, reward, done
        memory.add(boards, *map(torch.from_numpy, seen), after)
        boards = after
        for _ in range(GAMES // EVERY if frame >= FIRST else 0):
            found = memory.sample(batch, draw)
            error, top = update(net, slow, adam, *found)
            losses.append(error)
            updates += 1
            if updates % COPY == 0:
                slow.load_state_dict(net.state_dict())
        if frame % row == 0:
            mean = float(np.mean(ended)) if ended else float("nan")
            error = float(np.mean(losses)) if losses else float("nan")
            yield Played(frame, len(ended), mean, error, top), net
            ended, losses = [], []


@torch.no_grad()
def acted(net: nn.Module, boards: Tensor) -> np.ndarray:
    """The best action of each board, (N,), by running statistics."""
    net.eval()
    best = net(boards).argmax(1).numpy()
    net.train()
    return best


def update(net, slow, adam, before, action, reward, done, after):
    """One step of Adam on Huber's loss; the loss, and the mean of max Q."""
    with torch.no_grad():
        target = targets(reward, done, slow(after))
    values = net(before)  # (N, actions)
    guess = values.gather(1, action[:, None])[:, 0]
    loss = F.smooth_l1_loss(guess, target)
    adam.zero_grad()
    loss.backward()
    adam.step()
    return loss.item(), values.detach().amax(1).mean().item()
