"""Training steps on a GPU as one CUDA graph: launched whole, with no Python between the kernels."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wnlib.lab.resume import read_generators, write_generators
from wnlib.step import autocast_type, training_step

WARM_UP = 3  # plain steps before a graph is captured: kernels are chosen, memory is found


class Steps:
    """Takes training steps as `training_step` does; in bf16 on a GPU by a graph of one.

    A graph is kept if two of its steps lead where two plain ones do, from the same weights and with
    the same noise. Where there is none, all steps are plain.

    Attributes:
        plain: why there is no graph; None while one is at work or still to be captured.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
    ) -> None:
        self.parts = (model, optimizer, scaler)
        self.plain = obstacle(next(model.parameters()).device)
        self.betas: object = None
        self.warm = 0
        self.graph: Graph | None = None

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """One step on images x (B, 3, 32, 32) and labels y (B,), always of the same B.

        Returns:
            The mean cross-entropy, (), and the logits, (B, 10), both until the next step.
        """
        if self.plain is None:
            betas = self.parts[1].param_groups[0]["betas"]
            if betas != self.betas:  # a graph has them as constants
                self.betas, self.warm, self.graph = betas, 0, None
            if self.graph is None and self.warm == WARM_UP:
                self.graph, self.plain = self._captured(x, y)
            if self.graph is not None:
                return self.graph.step(x, y)
            self.warm += 1
            with aside():
                return training_step(*self.parts, x, y)
        return training_step(*self.parts, x, y)

    def _captured(self, x: Tensor, y: Tensor) -> tuple["Graph | None", str | None]:
        tensors = list(self._tensors())
        before = [tensor.clone() for tensor in tensors]
        drawn = read_generators(x.device)

        def weights() -> Tensor:
            return torch.cat([p.detach().flatten() for p in self.parts[0].parameters()])

        def back() -> None:
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
            write_generators(drawn)

        start = weights()
        with aside():
            for _ in range(2):
                training_step(*self.parts, x, y)
        plain = weights()
        back()
        try:
            graph = Graph(*self.parts, x, y)
            for _ in range(2):
                graph.step(x, y)
            replayed = weights()
        except RuntimeError as error:
            return None, f"it cannot be captured: {str(error).partition(chr(10))[0]}"
        finally:
            back()
        # Kernels may add up in another order each time: not the same weights, but the same way.
        if not (replayed - plain).norm() < 0.5 * (plain - start).norm():
            return None, "its steps lead elsewhere than plain ones"
        return graph, None

    def _tensors(self) -> Iterator[Tensor]:
        """What a step changes: weights, running statistics, the optimizer's moments."""
        model, optimizer, _scaler = self.parts
        yield from model.state_dict().values()
        for state in optimizer.state.values():
            yield from state.values()


class Graph:
    """One training step, captured; weights, moments and learning rate are read where they lie.

    Raises:
        RuntimeError: the step does what a graph cannot hold.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        x: Tensor,
        y: Tensor,
    ) -> None:
        self.x, self.y = x.clone(), y.clone()
        self.graph = torch.cuda.CUDAGraph()
        optimizer.zero_grad(set_to_none=True)  # the gradients will lie in the graph's own memory
        with put_right(), torch.cuda.graph(self.graph):
            self.out = training_step(model, optimizer, scaler, self.x, self.y)

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Replay it on x and y; loss and logits are overwritten by the next step."""
        self.x.copy_(x)
        self.y.copy_(y)
        self.graph.replay()
        return self.out


@contextmanager
def aside() -> Iterator[None]:
    """On a stream of its own: from the default one nothing can be captured."""
    side, here = torch.cuda.Stream(), torch.cuda.current_stream()
    side.wait_stream(here)
    with torch.cuda.stream(side):
        yield
    here.wait_stream(side)


@contextmanager
def put_right() -> Iterator[None]:
    """What a capture that fails leaves in torch: its stream is current still, and the generator
    waits for its end, which never comes, and draws no more. Another state takes the place."""
    here = torch.cuda.current_stream()
    try:
        yield
    except RuntimeError:
        torch.cuda.set_stream(here)
        generator = torch.cuda.default_generators[here.device.index]
        generator.graphsafe_set_state(torch.Generator(here.device).graphsafe_get_state())
        raise


def obstacle(device: torch.device) -> str | None:
    """Why steps on that device cannot be captured, if they cannot."""
    if device.type != "cuda":
        return "only CUDA has graphs"
    if autocast_type(device) is not torch.bfloat16:
        return "fp16 has a scaler, which decides step by step"
    return None
