"""The figure on minibatches' noise: its statistics beside scipy's, its draws beside theory."""

import numpy as np
import pytest
import scipy.stats
import torch
import traitlets
from figures import BatchNoise, epsilon
from figures.noise import LEVELS

SOURCES = {
    "gauss": ("gaussianQuantile", scipy.stats.norm()),
    "laplace": ("laplaceQuantile", scipy.stats.laplace(scale=0.5**0.5)),
}
every_source = pytest.mark.parametrize("source", SOURCES)


def mulberry32(seed):
    """The generator again, in whole numbers."""
    state, mask = seed, 2**32 - 1
    while True:
        state = (state + 0x6D2B79F5) & mask
        t = (state ^ state >> 15) * (1 | state) & mask
        t = (t + (t ^ t >> 7) * (61 | t) ^ t) & mask
        yield t ^ t >> 14


@pytest.mark.parametrize("seed", [0, 1, 999, 2**32 - 1])
def test_generator(javascript, seed):
    found = javascript(
        "noise",
        "(() => { const r = m.mulberry32(seed); return Array.from({ length: 200 }, r); })()",
        seed=seed,
    )
    again = mulberry32(seed)
    assert found == [next(again) for _ in range(200)]


@every_source
def test_quantiles(javascript, source):
    name, law = SOURCES[source]
    p = [1e-9, 1e-4, 0.02, 0.02425, 0.3, 0.5, 0.5 + 1e-9, 0.8, 0.98, 0.99999]
    found = javascript("noise", f"p.map(m.{name})", p=p)
    np.testing.assert_allclose(found, law.ppf(p), rtol=2e-8, atol=2e-9)


def test_known_quantiles_are_interpolated(javascript):
    levels, quantiles = [0, 0.25, 0.5, 1], [-2.0, -1.5, 0.5, 3.0]
    p = [0, 0.1, 0.25, 0.3, 0.5, 0.75, 1]
    found = javascript(
        "noise",
        "p.map((v) => m.knownQuantile(levels, quantiles, v))",
        levels=levels,
        quantiles=quantiles,
        p=p,
    )
    np.testing.assert_allclose(found, np.interp(p, levels, quantiles))


@every_source
def test_what_a_source_can_give(javascript, source):
    name, law = SOURCES[source]
    found = javascript("noise", f"m.moments(m.possible(m.{name}))")
    assert found["mean"] == pytest.approx(0, abs=1e-12)
    assert found["variance"] == pytest.approx(1, abs=1e-12)
    assert found["kurtosis"] == pytest.approx(3 + float(law.stats("k")), abs=0.05)


@pytest.mark.parametrize("size", [2, 3, 1001])
def test_moments(javascript, size):
    x = np.random.default_rng(size).gamma(2, 3, size)
    found = javascript("noise", "m.moments(x)", x=x.tolist())
    assert found["mean"] == pytest.approx(x.mean())
    assert found["variance"] == pytest.approx(x.var())
    assert found["kurtosis"] == pytest.approx(scipy.stats.kurtosis(x, fisher=False))


def test_moments_of_nothing_that_varies(javascript):
    found = javascript("noise", "m.moments([2, 2, 2])")
    assert found == {"mean": 2, "variance": 0, "kurtosis": None}  # 0 / 0


def test_first_order_is_that_of_the_chapter(javascript):
    for kappa in (1.0, 1.8, 3.0, 6.0, 30.0):
        found = javascript("noise", "m.firstOrder(kappa)", kappa=kappa)
        assert found["meanOnly"] == [1, 3]
        # A mixture of Gaussians of variance V(z)/n, V = 1 + z² (κ − 1)/4.
        second = 1 + (kappa - 1) / 2 + kappa * (kappa - 1) ** 2 / 16
        mean = 1 + (kappa - 1) / 4
        assert found["batchNorm"] == pytest.approx([mean, 3 * second / mean**2])


def drawn(javascript, source, n, seed, count):
    """What the figure draws, and the minibatches (count, n) that it must have drawn it from."""
    found = javascript(
        "noise",
        "(() => { const all = m.possible(m[name]), found = m.simulate(all, n, seed, count);"
        "for (const key in found) found[key] = Array.from(found[key]);"
        "return [found, Array.from(all)]; })()",
        name=SOURCES[source][0],
        n=n,
        seed=seed,
        count=count,
    )
    random, batches = mulberry32(seed), []
    for _ in range(count):
        words = [next(random) for _ in range((n + 1) // 2)]
        halves = [half for word in words for half in (word & 0xFFFF, word >> 16)]
        batches.append(halves[:n])
    return {k: np.array(v) for k, v in found[0].items()}, np.array(found[1])[np.array(batches)]


@every_source
@pytest.mark.parametrize(("n", "seed"), [(2, 0), (3, 1), (10, 7), (101, 2)])
def test_noise_is_that_of_the_definition(javascript, source, n, seed):
    found, z = drawn(javascript, source, n, seed, 50)
    mean, std = z.mean(1, keepdims=True), z.std(1, keepdims=True)
    np.testing.assert_allclose(found["meanOnly"], ((z - mean) - z)[:, 0], atol=1e-12)
    noise = (z - mean) / std - z
    np.testing.assert_allclose(found["batchNorm"], noise[:, :8].ravel(), atol=1e-6)


@every_source
@pytest.mark.parametrize("n", [10, 100])
def test_variance_and_tails_are_those_of_theory(javascript, source, n):
    found, kurtosis, told = javascript(
        "noise",
        "(() => { const all = m.possible(m[name]), k = m.moments(all).kurtosis;"
        "const found = m.simulate(all, n, 3);"
        "for (const key in found) found[key] = m.moments(found[key]);"
        "return [found, k, m.firstOrder(k)]; })()",
        name=SOURCES[source][0],
        n=n,
    )
    mean_only, batch_norm = found["meanOnly"], found["batchNorm"]
    assert n * mean_only["variance"] == pytest.approx(1, abs=0.05)
    # A mean of n independent values has the excess of one, divided by n.
    assert mean_only["kurtosis"] == pytest.approx(3 + (kurtosis - 3) / n, abs=0.2)
    assert n * batch_norm["variance"] == pytest.approx(told["batchNorm"][0], rel=0.15)
    assert batch_norm["kurtosis"] > mean_only["kurtosis"] + 0.3
    if source == "gauss":
        assert batch_norm["kurtosis"] == pytest.approx(11 / 3, abs=0.35)


def test_minibatches_that_do_not_vary(javascript):
    found = javascript(
        "noise",
        "(() => { const found = m.simulate(new Float64Array(65536).fill(0.7), 4, 0, 3);"
        "return Array.from(found.batchNorm); })()",
    )
    assert found == [-0.7] * 12  # nothing comes out, so all of the value is missing


def test_density(javascript):
    x = np.random.default_rng(0).normal(size=1000)
    found = javascript("noise", "Array.from(m.density(x, -2, 3, 20))", x=x.tolist())
    counts, _ = np.histogram(x, 20, (-2, 3))
    np.testing.assert_allclose(found, counts / 1000 / 0.25)


def test_enough_minibatches_for_a_tail_and_few_enough_for_a_frame(javascript):
    for n in (2, 10, 100, 1000):
        repeats = javascript("noise", "m.repeats(n)", n=n)
        assert repeats >= 1000
        assert repeats * n <= 1_000_000


def test_values_of_a_layer(javascript):
    torch.manual_seed(0)
    t = 7 + 3 * (0.3 * torch.randn(4000, 5)).exp()  # heavy and skew
    figure = BatchNoise(t)
    assert figure.source == "layer"
    z = ((t - t.mean(0)) / t.std(0, correction=0)).double().numpy().ravel()
    np.testing.assert_allclose(figure.data["quantiles"], np.quantile(z, LEVELS), atol=0.006)
    found = javascript(
        "noise",
        "m.moments(m.possible((p) => m.knownQuantile(d.levels, d.quantiles, p))).kurtosis",
        d=figure.data,
    )
    assert found == pytest.approx(scipy.stats.kurtosis(z, fisher=False), rel=0.1)


def test_without_values_there_are_two_sources():
    assert BatchNoise().data == {}
    with pytest.raises(ValueError, match="needs the values of a layer"):
        BatchNoise(source="layer")


@pytest.mark.parametrize("values", [torch.ones(5, 2), torch.tensor([[1.0], [float("nan")], [2.0]])])
def test_values_that_cannot_be_standardized(values):
    with pytest.raises(ValueError, match="finite, and to vary"):
        BatchNoise(values)


@pytest.mark.parametrize("state", [{"n": 1}, {"n": 1001}, {"source": "cauchy"}, {"seed": -1}])
def test_a_state_that_cannot_be_drawn_is_refused(state):
    with pytest.raises(traitlets.TraitError):
        BatchNoise(**state)


def test_the_first_picture_says_what_it_measured():
    alts = {s: BatchNoise(source=s, n=20).picture().alt for s in SOURCES}
    assert all("minibatches of 20" in alt for alt in alts.values())
    tails = {s: float(alt.split("kurtosis ")[2].rstrip(".")) for s, alt in alts.items()}
    assert tails["gauss"] == pytest.approx(11 / 3, abs=0.4)
    assert tails["laplace"] > 6


@pytest.mark.parametrize("eps", [1e-6, 0.1, 1.0, 2.0**10, 2.0**60])
def test_one_formula_leads_from_batch_norm_to_mean_only_batch_norm(eps):
    for sigma in epsilon.SIGMAS:
        assert epsilon.scale(sigma, eps) == pytest.approx(((1 + eps) / (sigma**2 + eps)) ** 0.5)
    ones, along = epsilon.kept(eps)
    assert ones == pytest.approx(0, abs=1e-12)
    assert along == pytest.approx(eps / (1 + eps))  # what is left along t − μ, where σ = 1
    if eps == 2.0**60:
        assert epsilon.noise(eps) == pytest.approx((1, 3), abs=0.05)
