"""The paper's four games, for whoever has a GPU and hours.

ale-py brings emulator and games. Its license is the GPL, so the book does
without it: `learn` installs it when it is called, and not before.
"""

import subprocess
import sys
from functools import partial
from importlib.util import find_spec

import torch
from torch import nn

from beyond import dqn
from wnlib import Norm, weight_norm
from wnlib.training import find_device

ACTIONS = {"breakout": 4, "enduro": 9, "seaquest": 18, "space_invaders": 6}
MEMORY = 100_000  # frames, 6 GB; Mnih et al. had a million


class Atari:
    """`dqn.GAMES` games side by side; four gray pictures are a board."""

    def __init__(self, name, seed):
        from ale_py import AtariVectorEnv

        how = {"reward_clipping": False, "autoreset_mode": "SameStep"}
        self.env = AtariVectorEnv(name, dqn.GAMES, **how)
        self.seen = torch.tensor(self.env.reset(seed=seed)[0])

    def boards(self):  # uint8 (games, 4, 84, 84)
        return self.seen

    def step(self, actions):
        seen, reward, lost, cut, _ = self.env.step(actions)
        self.seen = torch.tensor(seen)  # of the next game where one ended
        return reward.astype("float32"), lost | cut


class Bytes(nn.Module):
    def forward(self, x):
        return x / 255


def q_network(norm: Norm | str, actions: int) -> nn.Sequential:
    """Mnih et al.'s: boards (N, 4, 84, 84) to values (N, actions)."""
    shapes = (4, 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1)
    layers = [nn.Conv2d(*shape) for shape in shapes]
    layers += [nn.Linear(3136, 512), nn.Linear(512, actions)]
    if Norm(norm).weight_normalized:
        layers = [weight_norm(layer) for layer in layers]
    *convs, hidden, out = layers
    relus = [part for conv in convs for part in (conv, nn.ReLU())]
    head = nn.Flatten(), hidden, nn.ReLU(), out
    return nn.Sequential(Bytes(), *relus, *head)


def learn(game: str, norm: Norm | str, rate: float, seed: int, frames: int):
    """`dqn.learn` on one of `ACTIONS`, on the best device; ten rows."""
    if game not in ACTIONS:
        raise ValueError(f"the game is one of {', '.join(ACTIONS)}")
    if find_spec("ale_py") is None:
        pip = [sys.executable, "-m", "pip", "install", "-q"]
        if subprocess.run([*pip, "ale-py", "gymnasium"]).returncode:
            raise SystemExit(
                "pip could not install ale-py: is there a network?"
            )
    network = partial(q_network, actions=ACTIONS[game])
    task = dqn.Task(partial(Atari, game), network, MEMORY, 10_000, 2_500)
    how = {"row": max(frames // 10 // 16, 1) * 16, "device": find_device()}
    return dqn.learn(norm, rate, seed, frames, task=task, **how)
