"""Estimates: of the runs that are asked for, without a trace in the caller's generator."""

import re

import pytest
import torch

from wnlib import Norm, Recipe, Training
from wnlib.lab import estimate
from wnlib.lab.estimates import steps

pytestmark = pytest.mark.usefixtures("one_thread")


def test_hours_are_those_of_all_epochs_and_nothing_is_drawn(tiny):
    state = torch.get_rng_state()
    recipe = Recipe.paper("wn").replace(width=2, epochs=3, batch_size=10)
    said = estimate(recipe, [Norm.WN, Norm.BN], "cpu", tiny)
    assert torch.equal(torch.get_rng_state(), state)
    assert said.what == "2 runs of 3 epochs, width 2, on 40 images"
    stepping = 2 * 3 * 4 * said.ms_per_step / 1e3 / 3600  # four steps an epoch
    assert said.hours > stepping
    assert re.fullmatch(
        r"cpu, \w+: [\d.]+ ms per step\. 2 runs .* images: about .*, an "
        r"estimate from a few steps on this device\.",
        repr(said),
    )
    with pytest.raises(ValueError, match="there is no device"):
        estimate(recipe, device="tpu")


def test_steps_train_on_every_image_once_an_epoch(tiny, monkeypatch):
    seen = []
    monkeypatch.setattr(Training, "step", lambda _, x, y: seen.append(x.flatten(1).sum(1)))
    images, labels = tiny.train_images.float(), tiny.train_labels
    way = steps(Recipe.paper("none").replace(width=1, batch_size=10), images, labels)
    for _ in range(8):
        next(way)
    for epoch in (seen[:4], seen[4:]):
        expected = images.flatten(1).sum(1).sort().values
        torch.testing.assert_close(torch.cat(epoch).sort().values, expected)
