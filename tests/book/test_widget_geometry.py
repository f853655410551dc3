"""The mathematics of the figure on v and w, beside weight_norm, autograd and torch.optim."""

import math

import numpy as np
import pytest
import torch
import traitlets
from figures import Geometry
from figures.geometry import CURVATURE
from torch import nn

from wnlib import weight_norm

H = torch.tensor(CURVATURE)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


OPTIMIZERS = {
    "sgd": lambda p, rate: torch.optim.SGD(p, rate),
    "momentum": lambda p, rate: torch.optim.SGD(p, rate, momentum=0.9),
    "adam": lambda p, rate: torch.optim.Adam(p, rate),
}


def layer_of(g, v):
    """A weight-normalized unit with two inputs, and its g and v."""
    layer = weight_norm(nn.Linear(2, 1, bias=False, dtype=torch.float64))
    both = layer.parametrizations.weight
    both.original0.data, both.original1.data = (
        tensor([[g]]),
        tensor([v]),
    )
    return layer, both.original0, both.original1


def loss_of(layer, minimum):
    off = layer.weight[0] - tensor(minimum)
    return off @ H @ off / 2


def descend(javascript, steps, **state):
    state = {"H": CURVATURE.tolist(), "noise": 0} | state
    return javascript("geometry", "m.descend(state, steps)", state=state, steps=steps)


@pytest.mark.parametrize(
    ("g", "v"),
    [(1.4, [0.8, -0.05]), (-0.7, [1.5, 2.0]), (0.0, [0.3, 0.4]), (1.2, [-1e-3, 2e-3])],
)
def test_gradients_are_those_of_autograd(javascript, g, v):
    minimum = [-0.4, 1.2]
    layer, g_, v_ = layer_of(g, v)
    loss_of(layer, minimum).backward()
    (at,) = descend(javascript, 0, g=g, v=v, minimum=minimum, optimizer="sgd", rate=0.3)
    assert at["w"] == pytest.approx(layer.weight[0].tolist(), rel=1e-12)
    assert at["pulled"]["g"] == pytest.approx(g_.grad.item(), rel=1e-9, abs=1e-12)
    assert at["pulled"]["v"] == pytest.approx(v_.grad[0].tolist(), rel=1e-9, abs=1e-12)
    # The projection: what is left of w's gradient across v, and nothing along it.
    w_grad = H @ (layer.weight[0].detach() - tensor(minimum))
    unit = tensor(v) / math.hypot(*v)
    M = torch.eye(2, dtype=unit.dtype) - torch.outer(unit, unit)
    assert at["gradient"] == pytest.approx(w_grad.tolist(), rel=1e-12)
    assert at["pulled"]["across"] == pytest.approx((M @ w_grad).tolist(), rel=1e-9, abs=1e-12)
    assert np.dot(at["pulled"]["v"], v) == pytest.approx(0, abs=1e-12)
    assert at["effective"] == pytest.approx(0.3 * g**2 / np.dot(v, v))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("noise", [0, 0.4])
def test_steps_are_those_of_torch(javascript, optimizer, noise):
    state = {"g": 1.4, "v": [0.8, -0.05], "minimum": [-0.4, 1.2], "rate": 0.3}
    steps = 25
    found = descend(javascript, steps, optimizer=optimizer, noise=noise, **state)
    random = javascript(
        "geometry",
        "(() => { const r = m.normals(); return n.map(() => r.next().value); })()",
        n=[0] * (2 * steps + 2),
    )
    pushes = tensor(random).view(-1, 2) * noise
    layer, g, v = layer_of(state["g"], state["v"])
    descent = OPTIMIZERS[optimizer]([g, v], state["rate"])
    moved = v.detach().square().sum().item()
    for at, push in zip(found, pushes, strict=True):
        assert at["g"] == pytest.approx(g.item(), rel=1e-9, abs=1e-11)
        assert at["v"] == pytest.approx(v[0].tolist(), rel=1e-9, abs=1e-11)
        assert at["w"] == pytest.approx(layer.weight[0].tolist(), rel=1e-9, abs=1e-11)
        assert at["norm"] == pytest.approx(v.norm().item(), rel=1e-9)
        assert at["told"] == pytest.approx(moved**0.5, rel=1e-9)
        before = v.detach().clone()
        descent.zero_grad()
        (loss_of(layer, state["minimum"]) + layer.weight[0] @ push).backward()
        descent.step()
        moved += (v.detach() - before).square().sum().item()


def test_pythagoras_is_exact_for_plain_descent_only(javascript):
    state = {"g": 1.4, "v": [0.8, -0.05], "minimum": [-0.4, 1.2], "rate": 0.3, "noise": 0.4}
    for optimizer, exact in (("sgd", True), ("momentum", False), ("adam", False)):
        found = descend(javascript, 60, optimizer=optimizer, **state)
        norm = np.array([at["norm"] for at in found])
        told = np.array([at["told"] for at in found])
        assert np.allclose(norm, told, rtol=1e-9) == exact
        if exact:
            assert np.all(np.diff(norm) >= 0)
            fixed = np.array([at["fixed"] for at in found])
            assert fixed == pytest.approx(0.3 * 1.4**2 / norm**2)
            assert np.all(np.diff(fixed) <= 0)
        else:
            assert norm[-1] > 1.5 * told[-1]  # and by far more, as the chapter measures


def test_where_v_is_zero_the_figure_does_as_the_layer(javascript):
    layer, g, v = layer_of(1.4, [0.0, 0.0])
    minimum = [-0.4, 1.2]
    loss_of(layer, minimum).backward()
    at, after = descend(javascript, 1, g=1.4, v=[0, 0], minimum=minimum, optimizer="sgd", rate=0.3)
    assert at["w"] == layer.weight[0].tolist() == [0, 0]
    assert at["effective"] is None
    assert at["pulled"]["g"] == g.grad.item() == 0
    assert at["pulled"]["v"] == pytest.approx(v.grad[0].tolist(), rel=1e-12)
    torch.optim.SGD([g, v], 0.3).step()
    assert after["v"] == pytest.approx(v[0].tolist(), rel=1e-12)
    assert after["norm"] > 0


def test_noise_is_normal_and_always_the_same(javascript):
    code = "(() => { const r = m.normals(); return n.map(() => r.next().value); })()"
    draws = javascript("geometry", code, n=[0] * 20_000)
    assert draws[:50] == javascript("geometry", code, n=[0] * 50)
    draws = np.array(draws)
    # Four standard errors each.
    assert abs(draws.mean()) < 4 / 20_000**0.5
    assert abs(draws.var() - 1) < 4 * (2 / 20_000) ** 0.5
    assert abs((draws**4).mean() - 3) < 4 * (96 / 20_000) ** 0.5
    assert abs((draws[::2] * draws[1::2]).mean()) < 4 / 10_000**0.5


def test_the_plane_reaches_what_is_in_it(javascript):
    reach = javascript(
        "geometry",
        "[[[0, 0]], [[1.9, 0]], [[0, -2]], [[5, 100]], [], [[NaN, 1]]].map(m.reach)",
    )
    assert reach[:2] == [2, 2]
    assert 2.1 <= reach[2] <= 3
    assert 105 <= reach[3] <= 1.5 * 105
    assert reach[4:] == [2, 2]


@pytest.mark.parametrize(
    "state", [{"v": (math.nan, 0)}, {"rate": 0}, {"step": 61}, {"optimizer": "lbfgs"}, {"v": (1,)}]
)
def test_a_state_that_cannot_be_drawn_is_refused(state):
    with pytest.raises(traitlets.TraitError):
        Geometry(**state)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("state", [{"v": (0, 0)}, {"g": 0}, {"v": (1e6, 1)}, {"minimum": (0, 0)}])
def test_the_edges_have_a_picture(state):
    assert "<img" in Geometry(**state).html()
