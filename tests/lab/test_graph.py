"""Steps by a graph are the plain steps, and give way to them where a graph fails."""

from contextlib import nullcontext
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
import wnlib.graph
from wnlib.graph import WARM_UP, Steps, obstacle, put_right

from wnlib import Recipe, train
from wnlib.train import build, build_optimizer, set_rates, training_step

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
RECIPE = Recipe.paper("wn_mobn").replace(width=2, batch_size=5, init_images=10, epochs=4)


class Replay:
    """What a graph does, on a CPU: the step as it was captured, on its own tensors."""

    made = 0

    def __init__(self, model, optimizer, scaler, x, y):
        type(self).made += 1
        self.parts, self.x, self.y = (model, optimizer, scaler), x.clone(), y.clone()
        [group] = optimizer.param_groups
        self.betas, self.out = group["betas"], None

    def step(self, x, y):
        self.x.copy_(x)
        self.y.copy_(y)
        [group] = self.parts[1].param_groups
        now, group["betas"] = group["betas"], self.betas
        out = training_step(*self.parts, self.x, self.y)
        group["betas"] = now
        if self.out is None:
            self.out = out
        for kept, new in zip(self.out, out, strict=True):
            kept.copy_(new)
        return self.out


class Idle(Replay):
    """A graph that forgot the update: its first loss is right."""

    def step(self, x, y):
        before = [p.detach().clone() for p in self.parts[0].parameters()]
        out = super().step(x, y)
        with torch.no_grad():
            for p, value in zip(self.parts[0].parameters(), before, strict=True):
                p.copy_(value)
        return out


class Other(Replay):
    """A graph that takes every step on the images that it was captured with, less their sign."""

    def step(self, x, y):
        return super().step(-self.x, y)


class Refused(Replay):
    """A graph that cannot be captured, and leaves the generators elsewhere."""

    def __init__(self, *parts):
        torch.rand(7)
        raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors")


@pytest.fixture
def graphs(monkeypatch):
    """As if a CPU had graphs, of the kind that it is told."""

    def of(kind):
        kind.made = 0
        monkeypatch.setattr(wnlib.graph, "obstacle", lambda device: None)
        monkeypatch.setattr(wnlib.graph, "aside", nullcontext)
        monkeypatch.setattr(wnlib.graph, "Graph", kind)

    return of


@pytest.fixture
def taken(monkeypatch):
    """The Steps of every training."""
    made = []

    class Watched(Steps):
        def __init__(self, *parts):
            super().__init__(*parts)
            made.append(self)

    monkeypatch.setattr(import_module("wnlib.train"), "Steps", Watched)
    return made


def _rows(data):
    return [row._replace(seconds=0.0) for row in train(RECIPE, data)]


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Replay, None),
        (Idle, "its steps lead elsewhere than plain ones"),
        (Other, "its steps lead elsewhere than plain ones"),
        (Refused, "it cannot be captured: operation not permitted when stream is capturing"),
    ],
)
def test_training_is_the_same_with_a_graph_and_without(tiny, graphs, taken, kind, why):
    plain = _rows(tiny)
    graphs(kind)
    assert _rows(tiny) == plain
    without, with_graph = taken
    assert without.plain == "only CUDA has graphs"
    assert with_graph.plain == why
    # β₁ changes after half of the epochs, and is a constant of a graph.
    assert kind.made == {Replay: 2, Idle: 1, Other: 1, Refused: 0}[kind]


def test_the_first_steps_are_plain(tiny, graphs):
    graphs(Replay)
    torch.manual_seed(0)
    model = build(RECIPE)
    optimizer = build_optimizer(RECIPE, model)
    steps = Steps(model, optimizer, torch.amp.GradScaler("cpu", enabled=False))
    x, y = torch.randn(5, 3, 32, 32), torch.arange(5)
    for count in range(WARM_UP + 2):
        assert (steps.graph is None) == (count <= WARM_UP)
        loss, logits = steps(x, y)
        assert (loss.shape, logits.shape) == ((), (5, 10))
    assert steps.graph is not None
    assert steps(x, y)[0] is steps(x, y)[0]  # a graph's own tensor


def test_obstacles(monkeypatch):
    assert obstacle(CPU) == "only CUDA has graphs"
    for native, expected in (
        (False, "fp16 has a scaler, which decides step by step"),
        (True, None),
    ):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, n=native: n
        )
        assert obstacle(CUDA) == expected


def test_a_capture_that_fails_is_put_right(monkeypatch):
    """Without a GPU: what is asked of torch, whose own part only a GPU shows (below)."""
    asked = []
    stream = SimpleNamespace(device=torch.device("cuda", 1))
    taken = SimpleNamespace(graphsafe_set_state=lambda state: asked.append(("state", state)))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda s: asked.append(("stream", s)))
    monkeypatch.setattr(torch.cuda, "default_generators", [None, taken])
    fresh = SimpleNamespace(graphsafe_get_state=lambda: "fresh")
    monkeypatch.setattr(torch, "Generator", lambda device: {stream.device: fresh}[device])
    with put_right():
        pass
    assert asked == []
    with pytest.raises(RuntimeError, match="capturing"), put_right():
        raise RuntimeError("capturing")
    assert asked == [("stream", stream), ("state", "fresh")]


def test_a_learning_rate_on_the_device_stays_where_it_is():
    model = torch.nn.Linear(2, 1)
    rate = torch.tensor(1.0)
    optimizer = torch.optim.Adam(model.parameters(), rate, fused=True, capturable=True)
    set_rates(optimizer, RECIPE, 3)
    [group] = optimizer.param_groups
    assert group["lr"] is rate
    assert rate.item() == pytest.approx(RECIPE.lr_at(3))
    assert group["betas"] == (0.5, 0.999)


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")


@on_a_gpu
def test_training_goes_on_after_a_capture_that_fails(tiny, monkeypatch):
    def asks(*parts):
        loss, logits = training_step(*parts)
        loss.item()  # what no graph can hold
        return loss, logits

    recipe = RECIPE.replace(epochs=20)
    stream = torch.cuda.current_stream()
    monkeypatch.setattr(wnlib.graph, "training_step", asks)
    rows = list(train(recipe, tiny, device="cuda"))
    assert rows[-1].train_loss < rows[0].train_loss
    assert torch.cuda.current_stream() == stream


@on_a_gpu
def test_a_graph_is_captured_and_learns(tiny):
    rows = list(train(RECIPE.replace(epochs=20), tiny, device="cuda"))
    assert rows[-1].train_loss < rows[0].train_loss
    model = build(RECIPE).cuda().to(memory_format=torch.channels_last)
    steps = Steps(
        model, build_optimizer(RECIPE, model), torch.amp.GradScaler("cuda", enabled=False)
    )
    if steps.plain is None:
        for _ in range(WARM_UP + 3):
            steps(torch.randn(5, 3, 32, 32).cuda(), torch.arange(5).cuda())
        assert steps.graph is not None, steps.plain
