"""The mathematics of the figure on curvature, beside numpy's."""

import math

import numpy as np
import pytest
import scipy.linalg
import traitlets
from figures import Curvature

BOWLS = [(1, 0), (1, 33), (3, 90), (10, 30), (100, 45), (100, 0), (37.5, 61)]
every_bowl = pytest.mark.parametrize(("kappa", "angle"), BOWLS)


def bowl(kappa, angle):
    turn = np.deg2rad(angle)
    vectors = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return vectors @ np.diag([1, kappa]) @ vectors.T


def matrix(kind, h):
    return {
        "plain": np.eye(2),
        "scaled": np.diag(np.diag(h) ** -0.5),
        "root": scipy.linalg.fractional_matrix_power(h, -0.5),
    }[kind]


def counted(h, a, start, eta, share, limit=20_000):
    """As the chapter counts: the step at which the distance is a share of the first."""
    w = np.array(start, float)
    goal = share * np.linalg.norm(w) * (1 + 1e-9)
    for step in range(limit + 1):
        if np.linalg.norm(w) <= goal:
            return step
        w = w - eta * a @ a.T @ h @ w
    return None


@every_bowl
def test_bowls_and_coordinates(javascript, kappa, angle):
    h = bowl(kappa, angle)
    found = javascript(
        "curvature",
        "[m.bowl(kappa, angle), Object.entries(m.COORDINATES)"
        ".map(([k, f]) => [k, f(m.bowl(kappa, angle))])]",
        kappa=kappa,
        angle=angle,
    )
    np.testing.assert_allclose(found[0], h, atol=1e-12 * kappa)
    for kind, a in found[1]:
        np.testing.assert_allclose(a, matrix(kind, h), atol=1e-12)


@every_bowl
@pytest.mark.parametrize("kind", ["plain", "scaled", "root"])
@pytest.mark.parametrize("fraction", [None, 0.3, 0.9, 1.1])
def test_descent_in_u_is_the_path_of_w(javascript, kappa, angle, kind, fraction):
    start, steps = [1.1, -0.4], 40
    plan, path, losses = javascript(
        "curvature",
        "(() => { const H = m.bowl(kappa, angle), A = m.COORDINATES[kind](H);"
        "const plan = m.plan(H, A, fraction), path = m.descend(H, A, start, plan.eta, steps);"
        "return [plan, path, m.losses(H, path)]; })()",
        kappa=kappa,
        angle=angle,
        kind=kind,
        fraction=fraction,
        start=start,
        steps=steps,
    )
    h = bowl(kappa, angle)
    a = matrix(kind, h)
    curvature = a.T @ h @ a
    low, high = np.linalg.eigvalsh(curvature)
    eta = 2 / (low + high) if fraction is None else 2 * fraction / high
    rho = max(abs(1 - eta * low), abs(1 - eta * high))
    assert plan["condition"] == pytest.approx(high / low, rel=1e-9)
    assert plan["eta"] == pytest.approx(eta, rel=1e-9)
    assert plan["rho"] == pytest.approx(rho, rel=1e-9, abs=1e-12)
    if fraction is None:
        assert plan["rho"] == pytest.approx((high / low - 1) / (high / low + 1), abs=1e-12)
    # Descent on u, with u's own curvature, and only then back to w.
    u = [np.linalg.solve(a, start)]
    for _ in range(steps):
        u.append(u[-1] - eta * curvature @ u[-1])
    w = np.array(u) @ a.T
    np.testing.assert_allclose(path, w, rtol=1e-7, atol=1e-11)
    f = (w @ h * w).sum(1) / 2
    np.testing.assert_allclose(losses, f / f[0], rtol=1e-6, atol=1e-12)
    # The pale band is a bound.
    assert np.all(np.array(losses) <= rho ** (2 * np.arange(steps + 1)) * (1 + 1e-9) + 1e-20)


@pytest.mark.parametrize(("kappa", "steps"), [(3, 20), (10, 69), (100, 691)])
def test_steps_are_those_of_the_chapter(javascript, kappa, steps):
    found = javascript(
        "curvature",
        "(() => { const H = m.bowl(kappa, 0), A = m.COORDINATES.plain(H), p = m.plan(H, A, null);"
        "return [m.stepsNeeded(H, A, [1, 1], p.eta), m.stepsTold(p.rho)]; })()",
        kappa=kappa,
    )
    assert found == [steps, steps]
    h = np.diag([1, kappa])
    assert counted(h, np.eye(2), [1, 1], 2 / (1 + kappa), 1e-6) == steps


@pytest.mark.parametrize("kind", ["plain", "scaled", "root"])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.95])
def test_steps_counted(javascript, kind, fraction):
    h = bowl(10, 20)
    a = matrix(kind, h)
    eta = 2 * fraction / np.linalg.eigvalsh(a.T @ h @ a)[-1]
    found = javascript(
        "curvature",
        "(() => { const H = m.bowl(10, 20), A = m.COORDINATES[kind](H);"
        "return m.stepsNeeded(H, A, [0.2, 1.2], m.plan(H, A, fraction).eta, 1e-3); })()",
        kind=kind,
        fraction=fraction,
    )
    assert found == counted(h, a, [0.2, 1.2], eta, 1e-3)


def test_what_never_arrives(javascript):
    def steps(kappa, start, fraction):
        return javascript(
            "curvature",
            "(() => { const H = m.bowl(kappa, 0), A = m.COORDINATES.plain(H);"
            "const p = m.plan(H, A, fraction);"
            "return [m.stepsNeeded(H, A, start, p.eta), m.stepsTold(p.rho)]; })()",
            kappa=kappa,
            start=start,
            fraction=fraction,
        )

    assert steps(10, [0.3, 1], 1.01) == [None, None]  # diverges
    assert steps(10, [0.3, 1], 1) == [None, None]  # goes to and fro forever
    assert steps(100, [0.3, 1], 0.001)[0] is None  # too slow to wait for
    assert steps(100, [0.3, 1], 0.001)[1] > 20_000
    alone = math.ceil(math.log(1e-6) / math.log(1 - 1.01 * 2 / 10))
    assert steps(10, [0.3, 0], 1.01) == [alone, None]  # lies in the one stable direction
    assert steps(10, [0, 0], 0.5)[0] == 0
    assert steps(1, [0.3, 1], 0.5) == [1, 1]


def test_the_plane_reaches_what_is_in_it(javascript):
    paths = "[[], [[[1, -1.2]]], [[[0, 0]], [[0.1, -2]]], [[[1e9, 0]]]]"
    small, inside, further, most = javascript("curvature", f"{paths}.map(m.reach)")
    assert small == inside == 1.3
    assert 2 < further < 3
    assert most == 8 * 1.3


def test_ticks_over_many_decades_leave_room(javascript):
    ticks = javascript("base", "m.logTicks(1e-12, 1e6)")
    assert ticks == [10.0**k for k in range(-12, 7, 2)]
    assert javascript("base", "m.logTicks(1, 1e4)") == [1, 10, 100, 1000, 10000]
    assert javascript("base", "m.logTicks(0.1, 3)") == [0.1, 0.2, 0.5, 1, 2]


def test_the_first_picture_says_which_bowl():
    assert "condition number 10" in Curvature().picture().alt
    assert "condition number 3" in Curvature(kappa=3).picture().alt
    assert "<img" in Curvature(start=(0, 0)).html()  # nothing to descend, but a picture


@pytest.mark.parametrize(
    "state",
    [{"kappa": 0}, {"kappa": float("nan")}, {"start": (1, float("inf"))}, {"rate": 0}],
)
def test_a_state_that_cannot_be_drawn_is_refused(state):
    with pytest.raises(traitlets.TraitError):
        Curvature(**state)
