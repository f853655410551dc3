"""The figure on the initialization: what it stores is what the five configurations do."""

import itertools

import numpy as np
import pytest
import torch
import traitlets
from drawn import initialized, measured
from figures import Initialization, initialization
from figures.initialization import INIT, KIND, LAYERS, LOOK, OTHERS, SIZES, measure

from wnlib import ConvPoolCNNC, Norm, data_dependent_init_
from wnlib.inputs import symmetric

pytestmark = pytest.mark.usefixtures("one_thread")
every_norm = pytest.mark.parametrize("norm", Norm)
SIZE = 20


@pytest.fixture(scope="module")
def figure():
    return initialized()


def before_activations(model, x, seed):
    """By layer: what is handed to the activation, (units, values)."""
    found = {}
    for name in LAYERS:
        part = getattr(model, name)
        if hasattr(part, "act"):
            part.act.register_forward_pre_hook(
                lambda _, inputs, name=name: found.update({name: inputs[0].clone()})
            )
    torch.manual_seed(seed)
    with torch.no_grad():
        found["dense"] = model(x)
    return {
        name: t.double().transpose(0, 1).flatten(1).numpy()
        for name, t in ((name, found[name]) for name in LAYERS)
    }


def images_of(sample):
    torch.manual_seed(0)
    order = torch.randperm(2000)[:1000]
    return symmetric(sample.train_images[order]), symmetric(sample.test_images[::2])


@every_norm
def test_every_configuration_is_as_the_one_of_its_kind(figure, sample, norm):
    images, others = images_of(sample)
    torch.manual_seed(0)
    model = ConvPoolCNNC(norm, 8)
    torch.manual_seed(INIT)
    data_dependent_init_(model, images[:SIZE])
    here = before_activations(model, others, LOOK)
    stored = figure.data["after"][KIND[norm]]
    stored = stored[min(SIZES.index(SIZE), len(stored) - 1)]
    for t, found in zip(here.values(), stored, strict=True):
        np.testing.assert_allclose(np.array(found["mean"]) / 100, t.mean(1), atol=0.006)
        np.testing.assert_allclose(np.array(found["std"]) / 100, t.std(1), atol=0.006)


@every_norm
def test_on_its_own_images_every_unit_is_even(sample, norm):
    images, _ = images_of(sample)
    torch.manual_seed(0)
    model = ConvPoolCNNC(norm, 8)
    torch.manual_seed(INIT)
    data_dependent_init_(model, images[:SIZE])
    for t in before_activations(model, images[:SIZE], INIT).values():
        np.testing.assert_allclose(t.mean(1), 0, atol=1e-3)
        np.testing.assert_allclose(t.std(1), 1, atol=0.01 if norm == "bn" else 1e-3)  # its ε


@every_norm
def test_before_is_the_draw(figure, sample, norm):
    _, others = images_of(sample)
    torch.manual_seed(0)
    here = before_activations(ConvPoolCNNC(norm, 8), others, LOOK)
    for t, found in zip(here.values(), figure.data["before"][KIND[norm]], strict=True):
        size = t.std(1).max()
        np.testing.assert_allclose(found["mean"], t.mean(1), rtol=0.006, atol=1e-3 * size)
        np.testing.assert_allclose(found["std"], t.std(1), atol=1e-3 * size)


def test_batch_norm_is_even_on_any_images(figure):
    (once,) = figure.data["after"]["batch"]
    for found in once:
        assert set(found["mean"]) == {0}
        assert set(found["std"]) == {100}


def test_means_are_centered_by_every_minibatch_or_by_none(figure):
    for centered, fixed in zip(
        *(figure.data["after"][k] for k in ("centered", "set")), strict=True
    ):
        assert all(set(found["mean"]) == {0} for found in centered)
        assert all(any(found["mean"]) for found in fixed)


def test_more_images_make_the_units_even(figure):
    """The noise of the dense layer's means falls about as the root of the number of images."""
    off = [np.square(sizes[-1]["mean"]).mean() ** 0.5 for sizes in figure.data["after"]["set"]]
    slope = np.polyfit(np.log(SIZES[:6]), np.log(off[:6]), 1)[0]
    assert -0.8 < slope < -0.25
    spread = [np.ptp(sizes[-1]["std"]) for sizes in figure.data["after"]["set"]]
    assert spread[0] > 3 * spread[-1]


def test_no_number_lies_where_rounding_could_go_either_way():
    """A machine that sums in another order gives the same figure."""
    found = measured()

    def edge(values, unit):
        return np.abs(values.numpy() / unit % 1 - 0.5).min()

    for layer in itertools.chain(*itertools.chain(*found["after"].values())):
        assert min(edge(layer["mean"], 0.01), edge(layer["std"], 0.01)) > 1e-4
    for layer in itertools.chain(*found["before"].values()):
        unit = 10 ** (np.floor(np.log10(float(layer["std"].max()))) - 3)
        assert min(edge(layer["mean"], unit), edge(layer["std"], unit)) > 1e-5


def test_threads_do_not_show(sample, monkeypatch):
    monkeypatch.setattr(initialization, "SIZES", (10, 50))
    one = initialization._short(measure(sample))
    torch.set_num_threads(2)
    two = initialization._short(measure(sample))
    torch.set_num_threads(1)
    assert one == two


def test_a_notebooks_own_draws_stay_as_they_are(sample, monkeypatch):
    monkeypatch.setattr(initialization, "SIZES", (10,))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    measure(sample)
    assert torch.equal(torch.rand(3), expected)


def test_too_few_images(tiny):
    with pytest.raises(ValueError, match="1000 training and 500 test images; tiny has 40 and 20"):
        Initialization(tiny)


@pytest.mark.parametrize("state", [{"norm": "ln"}, {"size": 11}, {"layer": 10}])
def test_a_state_that_was_not_measured_is_refused(sample, state):
    with pytest.raises(traitlets.TraitError):
        Initialization(sample, **state)


@every_norm
def test_picture_follows_the_state(sample, norm):
    plot = Initialization(sample, norm=norm, size=500).picture()
    assert norm.label in plot.alt
    assert "500 images" in plot.alt
    assert len(plot.figure().axes[0].patches) == 1 + 3 * 8 + 6 * 16 + 10


def test_numbers_that_are_read_off(javascript):
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=12), rng.gamma(3, size=12)
    found = javascript("initialization", "m.evenness(mean, std)", mean=[*mean], std=[*std])
    assert found["off"] == pytest.approx(np.square(mean).mean() ** 0.5)
    assert [found["low"], found["high"]] == pytest.approx([std.min(), std.max()])


@every_norm
def test_the_page_finds_the_state_that_was_measured(javascript, figure, norm):
    data = {k: figure.data[k] for k in ("kinds", "sizes", "after")}
    small = {
        kind: [layers[-1:] for layers in sizes] for kind, sizes in data["after"].items()
    }  # the dense layer's
    call = "[10, 1000, 11].map((size) => m.after(data, norm, size))"
    ten, most, none = javascript("initialization", call, data=data | {"after": small}, norm=norm)
    for found, place in ((ten, 0), (most, -1)):
        stored = small[KIND[norm]][place][0]
        assert found[0]["std"] == pytest.approx(np.array(stored["std"]) / 100)
    assert none is None
    assert figure.data["others"] == OTHERS


def test_nothing_was_measured(javascript):
    assert javascript("initialization", "m.after({}, 'wn', 10)") is None
