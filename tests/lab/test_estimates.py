"""Estimates: of the runs that are asked for, without a trace in the caller's generator."""

import re

import pytest
import torch

from wnlib import Recipe, Training
from wnlib.lab import estimate
from wnlib.lab.estimates import steps

pytestmark = pytest.mark.usefixtures("one_thread")


def test_hours_are_those_of_all_epochs_and_nothing_is_drawn(tiny):
    state = torch.get_rng_state()
    recipe = Recipe.paper("wn").replace(width=2, epochs=3, batch_size=10)
    said = estimate(recipe, tiny, "cpu")
    assert torch.equal(torch.get_rng_state(), state)
    stepping = 5 * 3 * 4 * said.ms_per_step / 1e3 / 3600  # four steps an epoch
    assert said.hours == pytest.approx(stepping * (40 + 20 / 3) / 40)
    runs = r"5 runs of 3 epochs, width 2, on 40 images: about \d+ min, an estimate from a few steps"
    assert re.match(rf"cpu, \w+: [\d.]+ ms per step\. {runs}", repr(said))
    with pytest.raises(ValueError, match="there is no device 'tpu' here"):
        estimate(recipe, tiny, "tpu")


def test_every_minibatch_is_whole(tiny, monkeypatch):
    """Also where it does not divide the images: as in a training, which leaves the rest out."""
    seen = []
    monkeypatch.setattr(Training, "step", lambda _, *batch: seen.append([*map(len, batch)]))
    images, labels = tiny.train_images.float(), tiny.train_labels
    way = steps(Recipe.paper("none").replace(width=1, batch_size=15), images, labels)
    for _ in range(8):
        next(way)
    assert seen == [[15, 15]] * 8
