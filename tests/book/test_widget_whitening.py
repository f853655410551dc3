"""The whitening figure: what it stores is what whitening gives, computed another way."""

import base64
from io import BytesIO

import numpy as np
import pytest
import torch
from figures import Whitening
from figures.whitening import REGULARIZATIONS
from PIL import Image

from wnlib.inputs import ZCA, prepare, symmetric


@pytest.fixture(scope="module")
def figure(sample):
    return Whitening(sample)


def test_spreads_are_those_of_whitened_images(figure, sample):
    train, test = prepare(sample, "zca")
    stored = figure.data["spreads"][REGULARIZATIONS.index(ZCA.of(sample).regularization)]
    rms = [float(x.square().mean().sqrt()) for x in (train, test)]
    assert stored == pytest.approx(rms, rel=0.01)


def test_variances_are_means_over_bins(figure, sample):
    edges, kept = figure.data["edges"], figure.data["variances"]
    assert edges[0] == 1
    assert edges[-1] == 3073
    x = symmetric(sample.train_images).flatten(1).double().numpy()
    variance = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2 / len(x)
    for a, b, stored in list(zip(edges, edges[1:], kept["training"], strict=False))[:20]:
        assert stored == pytest.approx(variance[a - 1 : b - 1].mean(), rel=0.01)
    assert kept["training"][-1] == 0  # 2,000 images do not span the rest
    widths = np.diff(edges)
    total = symmetric(sample.test_images).flatten(1) - torch.from_numpy(x.mean(0)).float()
    total = float(total.double().square().mean(0).sum())
    assert widths @ np.array(kept["test"]) == pytest.approx(total, rel=0.01)


def test_sprite_holds_raw_and_whitened_images(figure, sample):
    data = base64.b64decode(figure.data["sprite"].partition(",")[2])
    sprite = np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(float)
    columns = 2 * len(figure.data["classes"])
    assert sprite.shape == (33 * (len(REGULARIZATIONS) + 1), 33 * columns, 3)
    first = int((sample.train_labels == 0).nonzero()[0])
    raw = sample.train_images[first].permute(1, 2, 0).numpy()
    assert np.abs(sprite[:32, :32] - raw).mean() < 6  # of 255: the palette is small
    strong, weak = (sprite[33 * k : 33 * k + 32, :32].std() for k in (0, 5))
    assert weak < strong


@pytest.mark.parametrize("part", ["training", "test"])
def test_picture_follows_the_state(sample, part):
    plot = Whitening(sample, part=part, strength=4).picture()
    assert f"{part} images" in plot.alt
    assert "r = 0.0001" in plot.alt
    plot.figure()


def test_variance_after_whitening(javascript):
    cases = [[2.0, 2.0, 0.5], [0.3, 0, 1e-5], [0, 0, 0.1]]
    found = javascript("whitening", "cases.map((c) => m.whitened(...c))", cases=cases)
    assert found == pytest.approx([s / (t + r) for s, t, r in cases])


def test_steps_leave_out_what_a_log_axis_cannot_show(javascript):
    found = javascript("whitening", "m.steps([1, 3, 9], [4, 0])")
    assert found == [[1, 4], [3, 4], [3, None], [9, None]]
