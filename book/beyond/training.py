"""One loop for both generative models; it yields rows and can be resumed.

All bounds are upper bounds of -log p(x), in nats an image: lower is better.
"""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from beyond import draw, vae
from beyond.mnist import Mnist, binarized

MODELS = {"draw": draw, "vae": vae}
TESTED = 1000  # test images, every tenth: the first half of them is easier


@dataclass(frozen=True)
class Plan:
    """All that defines a run, but the data.

    Attributes:
        model: "draw" or "vae".
        start: one of the model's STARTS: parameterization, initialization.
        lr: Adam's or Adamax's rate, constant.
        seed: of the weights, the minibatches and the noise.
        updates: how many minibatches.
        every: updates from one row to the next.
        batch: images a minibatch.
    """

    model: str
    start: str
    lr: float
    seed: int = 0
    updates: int = 240
    every: int = 20
    batch: int = 100


class Row(NamedTuple):
    """The state of a run after so many updates. What is unknown is NaN."""

    update: int
    train_bound: float  #: mean over the minibatches since the last row
    test_bound: float  #: of the test images, one draw of the latents
    seconds: float  #: since the last row


class Training:
    """A run in progress: a model, its optimizer and one generator.

    Attributes:
        model: what is trained.
        average: what is tested. For the VAE, a Polyak average of `model`:
            after t updates it moves by 9 / (t + 9) of the way, so that it
            holds about the last ninth of a run of any length. For DRAW it
            is the model itself.
        rows: so far.
        ended: "", "finished" or "diverged at update k".
    """

    def __init__(self, plan: Plan, data: Mnist) -> None:
        self.plan, self.data = plan, data
        module = MODELS[plan.model]
        self.model = module.build(plan.start, plan.seed, data)
        self.optimizer = module.OPTIMIZER(
            self.model.parameters(), lr=plan.lr
        )
        averaged = plan.model == "vae"
        self.average = copy.deepcopy(self.model) if averaged else self.model
        self.generator = torch.Generator().manual_seed(plan.seed + 1)
        fixed = torch.Generator().manual_seed(0)  # the same for every run
        test = data.test[:: max(1, len(data.test) // TESTED)]
        self.test = binarized(test, fixed)
        self.rows: list[Row] = []

    @property
    def ended(self) -> str:
        if not self.rows:
            return ""
        last = self.rows[-1]
        if not math.isfinite(last.train_bound) or math.isnan(
            last.test_bound
        ):
            return f"diverged at update {last.update}"
        return "finished" if last.update == self.plan.updates else ""

    def step(self) -> float:
        """One update; the bound of its minibatch, before it."""
        chosen = torch.randint(
            len(self.data.train),
            (self.plan.batch,),
            generator=self.generator,
        )
        x = binarized(self.data.train[chosen], self.generator)
        loss = self.model.bound(x, self.generator).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def _average(self, t: int) -> None:
        if self.average is not self.model:
            pairs = zip(
                self.average.parameters(),
                self.model.parameters(),
                strict=True,
            )
            for mean, now in pairs:
                mean.lerp_(now, 9 / (t + 9))

    @torch.no_grad()
    def evaluate(self) -> float:
        """The bound of the test images, with the same noise at each row."""
        noise = torch.Generator().manual_seed(1)
        parts = [self.average.bound(x, noise) for x in self.test.split(100)]
        return torch.cat(parts).mean().item()

    def rows_to_come(self) -> Iterator[Row]:
        """Train on from `rows`, to the end; a row each `every` updates."""
        while not self.ended:
            begun = time.perf_counter()
            first = self.rows[-1].update if self.rows else 0
            last = min(first + self.plan.every, self.plan.updates)
            total = 0.0
            for t in range(first + 1, last + 1):
                total += self.step()
                if not math.isfinite(total):
                    break
                self._average(t)
            test = self.evaluate() if math.isfinite(total) else math.nan
            seconds = time.perf_counter() - begun
            row = Row(t, total / (t - first), test, seconds)
            self.rows.append(row)
            yield row

    def state_dict(self) -> dict:
        """Tensors and plain values only."""
        return {
            "rows": [tuple(row) for row in self.rows],
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on from there: on a CPU the same rows, bit for bit."""
        self.rows = [Row(*row) for row in state["rows"]]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])


def train(plan: Plan, data: Mnist) -> Training:
    """A whole run."""
    training = Training(plan, data)
    for _ in training.rows_to_come():
        pass
    return training
