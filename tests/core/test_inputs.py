"""Scaling and ZCA whitening in closed form."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wnlib import inputs
from wnlib.inputs import ZCA, prepare, symmetric, unit

pytestmark = pytest.mark.usefixtures("one_thread")
laws = settings(max_examples=25, deadline=None, derandomize=True)
BYTES = torch.arange(256, dtype=torch.uint8)


def test_unit_and_symmetric_are_their_formulas():
    x = np.arange(256)
    np.testing.assert_allclose(unit(BYTES).numpy(), x / 255, rtol=1e-7)
    np.testing.assert_array_equal(symmetric(BYTES).numpy(), (x - 127.5) / 128)
    assert unit(BYTES).dtype == symmetric(BYTES).dtype == torch.float32
    assert (unit(BYTES)[0], unit(BYTES)[-1]) == (0, 1)
    assert (symmetric(BYTES).abs() < 1).all()
    assert symmetric(BYTES).sum() == 0


@pytest.fixture(scope="module")
def crops(sample):
    """6×6 crops of real images, more of them than they have dimensions."""
    return symmetric(sample.train_images[:1000, :, 8:14, 8:14]).double()


def covariance(images):
    x = images.flatten(1).numpy()
    return (x - x.mean(0)).T @ (x - x.mean(0)) / len(x)


def test_whitened_images_have_identity_covariance(crops):
    white = ZCA.fit(crops, 1e-12).whiten(crops)
    assert white.shape == crops.shape
    np.testing.assert_allclose(covariance(white), np.eye(108), atol=1e-6)
    np.testing.assert_allclose(white.flatten(1).mean(0), 0, atol=1e-9)


@pytest.mark.parametrize("regularization", [1e-5, 1e-2, 1.0])
def test_whitening_is_the_released_codes(crops, regularization):
    x = crops.flatten(1).numpy()
    m = x.mean(0)
    u, s, _ = np.linalg.svd((x - m).T @ (x - m) / len(x))
    matrix = u @ np.diag(1 / np.sqrt(s + regularization)) @ u.T
    zca = ZCA.fit(crops, regularization)
    white = zca.whiten(crops)
    np.testing.assert_allclose(white.flatten(1), (x - m) @ matrix, atol=1e-8)
    shrunk = u @ np.diag(s / (s + regularization)) @ u.T
    np.testing.assert_allclose(covariance(white), shrunk, atol=1e-8)
    torch.testing.assert_close(zca.unwhiten(white), crops, rtol=0, atol=1e-9)
    narrow = ZCA.fit(crops.float()).whiten(crops.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ZCA.fit(crops.float()).whiten(crops.float()), narrow)


def test_spectrum_is_ascending_and_not_negative():
    x = torch.randn(5, 12)  # of rank 4
    zca = ZCA.fit(x)
    assert (zca.eigenvalues >= 0).all()
    assert (zca.eigenvalues.diff() >= 0).all()
    assert zca.whiten(x).isfinite().all()


@laws
@given(st.integers(0, 10_000), st.integers(1, 5), st.floats(0.1, 10), st.floats(-5, 5))
def test_whitening_undoes_any_mixing(seed, dims, stretch, shift):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(60, dims, generator=generator, dtype=torch.float64) * stretch + shift
    white = ZCA.fit(x, 1e-13).whiten(x)
    np.testing.assert_allclose(covariance(white), np.eye(dims), atol=1e-6)


def of_size(data, count):
    images = data.train_images[:40, :, :4, :4].repeat(-(-count // 40), 1, 1, 1)[:count]
    return dataclasses.replace(data, train_images=images, digest=f"{count}")


def test_the_last_set_is_fitted_once_with_the_regularization_of_its_size(tiny):
    few, many = of_size(tiny, 50), of_size(tiny, 3100)
    assert [ZCA.of(data).regularization for data in (many, few)] == [1e-5, 1e-2]
    assert ZCA.of(few, 0.5).regularization == 0.5
    assert torch.equal(ZCA.of(few).mean, ZCA.fit(symmetric(few.train_images)).mean)
    assert ZCA.of(dataclasses.replace(few), 0.1).mean is ZCA.of(few).mean


@pytest.mark.parametrize("how", ["unit", "symmetric", "zca"])
def test_prepared_images_are_what_the_network_sees(tiny, monkeypatch, how):
    monkeypatch.setattr(inputs, "PART", 7)
    few = dataclasses.replace(of_size(tiny, 60), test_images=tiny.train_images[:9, :, 4:8, :4])
    zca = ZCA.of(few)
    expected = {"unit": unit, "symmetric": symmetric, "zca": lambda x: zca.whiten(symmetric(x))}
    for prepared, images in zip(
        prepare(few, how), (few.train_images, few.test_images), strict=True
    ):
        assert prepared.dtype == torch.float32
        assert prepared.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(prepared, expected[how](images))
