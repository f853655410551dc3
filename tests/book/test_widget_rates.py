"""The figures of rates and of frames: what they store, and what is read off it."""

import base64
from io import BytesIO

import numpy as np
import pytest
from drawn import frames, rates
from figures import Frames
from figures.frames import Film
from PIL import Image


def test_each_at_its_best_rate():
    figure = rates()
    assert [at for _, at in figure.chosen()] == [0, 0]
    figure.comparison = "best"
    # The plain one ends lowest at the second rate, where the other has diverged.
    assert [at for _, at in figure.chosen()] == [1, 0]
    figure.comparison, figure.rate = "one", 0.01
    assert [at for _, at in figure.chosen()] == [1, 1]
    assert "nan" in figure.picture().alt


def test_a_diverged_run_is_stored_as_missing():
    _, other = rates().data["lines"]
    assert other["runs"][1] == [[9.0, None, None]] * 2


def test_the_page_reads_the_same(javascript):
    lines = rates().data["lines"]
    found = javascript("rates", "lines.map((l) => [m.ends(l), m.bestRate(l, true)])", lines=lines)
    assert found == [[[6.5, 4.25], 1], [[4.6, None], 0]]
    assert javascript("rates", "m.bestRate(line, false)", line=lines[0]) == 0
    assert javascript("rates", "[m.mean([]), m.mean([1, null]), m.mean([1, 2])]") == [
        None,
        None,
        1.5,
    ]


def test_a_sprite_holds_the_frames_in_their_colors():
    film = frames().data["films"]["across"]
    image = Image.open(BytesIO(base64.b64decode(film["sprite"].partition(",")[2])))
    pixels = np.asarray(image.convert("RGBA")).reshape(4, 4, 5, 4)
    assert image.size == (5, 16)
    for k, frame in enumerate(pixels):
        assert np.argwhere(frame[..., 3]).tolist() == [[0, k]]
        assert frame[0, k].tolist() == [0xD5, 0x5E, 0x00, 255]


def test_films_of_two_shapes_are_refused():
    films = {n: Film(n, np.zeros((2, 3, int(n))), ["", ""]) for n in ("4", "5")}
    with pytest.raises(ValueError, match="all frames have one shape"):
        Frames(films, ["#000000"], name="Step", alt="nothing")


def test_a_color_in_short_is_refused():
    films = {"a": Film("a", np.zeros((2, 3, 4)), ["", ""])}
    with pytest.raises(ValueError, match="a color is #rrggbb or #rrggbbaa, not #8884"):
        Frames(films, ["#000000", "#8884"], name="Step", alt="nothing")
