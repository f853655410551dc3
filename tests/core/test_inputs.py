"""Scaling and ZCA whitening in closed form."""

import dataclasses

import numpy as np
import pytest
import torch

from wnlib import inputs
from wnlib.inputs import ZCA, prepare, symmetric


@pytest.mark.parametrize("regularization", [1e-5, 1e-2, 1.0])
def test_whitening_is_the_released_codes(sample, regularization):
    crops = symmetric(sample.train_images[:1000, :, 8:14, 8:14]).double()
    x = crops.flatten(1).numpy()
    u, s, _ = np.linalg.svd(np.cov(x.T, bias=True))
    matrix = u @ np.diag(1 / np.sqrt(s + regularization)) @ u.T
    zca = ZCA.fit(crops, regularization)
    np.testing.assert_allclose(zca.eigenvalues, s[::-1], atol=1e-12)
    np.testing.assert_allclose(zca.whiten(crops).flatten(1), (x - x.mean(0)) @ matrix, atol=1e-8)


def of_size(data, count):
    images = data.train_images[:40, :, :4, :4].repeat(-(-count // 40), 1, 1, 1)[:count]
    return dataclasses.replace(data, train_images=images, digest=f"{count}")


def test_the_last_set_is_fitted_once_with_the_regularization_of_its_size(tiny):
    few, many = of_size(tiny, 40), of_size(tiny, 3100)  # few have empty directions
    assert [ZCA.of(data).regularization for data in (many, few)] == [1e-5, 1e-2]
    assert ZCA.of(dataclasses.replace(few)) is ZCA.of(few)
    assert (ZCA.of(few).eigenvalues >= 0).all()


@pytest.mark.parametrize("how", ["unit", "symmetric", "zca"])
def test_prepared_images_are_what_the_network_sees(tiny, monkeypatch, how):
    few = dataclasses.replace(of_size(tiny, 60), test_images=tiny.train_images[:9, :, 4:8, :4])
    zca = ZCA.fit((few.train_images - 127.5) / 128, 1e-2)
    formula = {
        "unit": lambda x: x / 255,
        "symmetric": lambda x: (x - 127.5) / 128,
        "zca": lambda x: zca.whiten((x - 127.5) / 128),
    }[how]
    monkeypatch.setattr(inputs, "PART", 7)
    train, test = prepare(few, how)
    assert train.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(train, formula(few.train_images))
    torch.testing.assert_close(test, formula(few.test_images))
