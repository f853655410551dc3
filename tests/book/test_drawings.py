"""The drawings say what the network is: read off the model, not typed."""

from pathlib import Path

import pytest
import torch
from figures.plots import Plot

from wnlib import ConvPoolCNNC

BOOK = Path(__file__).parent.parent.parent / "book"


@pytest.fixture(scope="module")
def drawings(beside):
    """book/drawings.py, as the chapters import it."""
    return beside("drawings")


@pytest.mark.parametrize("width", [4, 96])
def test_network(drawings, width):
    model = ConvPoolCNNC("bn", width, dropout=0.25).train()
    draw = drawings.network(
        model, {"image": torch.rand(3, 32, 32), "+ noise": torch.ones(3, 32, 32)}
    )
    (axes,) = Plot(draw, "").figure().axes
    texts = [text.get_text() for text in axes.texts]
    sides = [32] * 3 + [16] * 5 + [8] * 2 + [6] * 3
    channels = [width] * 5 + [2 * width] * 8
    shapes = [f"{s}×{s}×{c}" for s, c in zip(sides, channels, strict=True)]
    boxes = [text.split("\n") for text in texts if "\n" in text and "blue" not in text]
    assert [box[-1] for box in boxes] == [*shapes, str(2 * width), "10"]
    names = [box[0].split()[0] for box in boxes if box[0].startswith("conv")]
    assert names == [f"conv{i}" for i in range(1, 10)]
    assert [box[0] for box in boxes].count("dropout 0.25") == 2
    assert sum(box[0].endswith("1×1") for box in boxes) == 2
    assert [box[0] for box in boxes if "no padding" in box] == ["conv7  3×3"]
    assert {"image", "+ noise"} <= set(texts)
    assert model.training


def test_field(drawings):
    slopes = torch.zeros(64, 64)
    slopes[20:50, 19:49] = 1
    draw = drawings.field({"conv1": 3, "conv7": 30}, torch.rand(3, 32, 32), slopes)
    seen, measured = Plot(draw, "", grid=(1, 2)).figure().axes
    assert [patch.get_width() for patch in seen.patches] == [3, 30]
    (frame,) = measured.patches
    assert (frame.get_x(), frame.get_y()) == (1, 1)
    assert (frame.get_width(), frame.get_height()) == (30, 30)


def test_dropout(drawings):
    draw = drawings.dropout([[1, 1], [1, 0]], ["all", "one"])
    both = Plot(draw, "", grid=(1, 2)).figure().axes
    assert [len(axes.patches) for axes in both] == [7, 7]  # 3 inputs, 2 units, 2 outputs
    assert [len(axes.lines) for axes in both] == [3 * 2 + 2 * 2, 3 + 2 + 2]  # and a cross
