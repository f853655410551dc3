"""What ZCA whitening does to images and to a spectrum, by its regularization."""

import base64
from io import BytesIO
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import traitlets
from PIL import Image
from torch import Tensor
from wnlib.data import CLASSES, Cifar10
from wnlib.inputs import ZCA, symmetric

from figures.base import Figure, rounded
from figures.plots import Plot

REGULARIZATIONS = (1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5)


class Whitening(Figure):
    """Training and test images, raw and ZCA-whitened, beside the variances along all directions.

    Attributes:
        strength: which of `REGULARIZATIONS` is shown, from 0.
        part: "training" or "test": whose images are shown.
    """

    script = "whitening"

    strength = traitlets.Int(2, min=0, max=len(REGULARIZATIONS) - 1).tag(sync=True)
    part = traitlets.Enum(("training", "test"), "training").tag(sync=True)
    title = traitlets.Unicode(
        "Weaken the regularization: which images drown, training or test?"
    ).tag(sync=True)
    caption = traitlets.Unicode(
        "Images as they are and whitened, each drawn within three of its own standard deviations; "
        "then the variance along each direction of image space, sorted, before whitening (thin) "
        "and after (thick). Whitening turns a variance s into s/(s + r). Directions without "
        "training variance stay empty in the training images, but not in the test images."
    ).tag(sync=True)

    def __init__(self, data: Cifar10, columns: int = 3, **kwargs: Any) -> None:
        """From a data set: its whitening (cached), its first images of some classes.

        Args:
            data: the images; the whitening is fitted to the training images.
            columns: how many images of each part, each of another class.
            kwargs: traits.
        """
        zca = ZCA.of(data)
        parts = {
            name: symmetric(images[[int((labels == 3 * c).nonzero()[0]) for c in range(columns)]])
            for name, images, labels in (
                ("training", data.train_images, data.train_labels),
                ("test", data.test_images, data.test_labels),
            )
        }
        values = zca.eigenvalues.double().clone()
        empty = max(len(values) - len(data.train_images) + 1, 0)
        values[:empty] = 0  # what stands there is rounding
        test = (symmetric(data.test_images).flatten(1) - zca.mean) @ zca.eigenvectors
        variances = {"training": values, "test": test.double().square().mean(0)}
        edges = np.unique(np.geomspace(1, len(values) - empty + 1, 41).astype(int)).tolist()
        edges += [len(values) + 1] if empty else []
        # A mean over neighbors: single weak directions are an accident of the eigensolver.
        means = {
            name: [float(v.flip(0)[a - 1 : b - 1].mean()) for a, b in pairwise(edges)]
            for name, v in variances.items()
        }
        spreads = [
            [float((v / (values + r)).mean().sqrt()) for v in variances.values()]
            for r in REGULARIZATIONS
        ]
        content = {
            "edges": edges,
            "variances": rounded(means, 3),
            "spreads": rounded(spreads, 3),
            "regularizations": list(REGULARIZATIONS),
            "classes": [CLASSES[3 * c] for c in range(columns)],
            "sprite": _sprite(_rows(zca, torch.cat(list(parts.values())))),
        }
        super().__init__(data=content, **kwargs)

    def picture(self) -> Plot:
        """Raw and whitened images of the part that is shown."""
        columns, size = len(self.data["classes"]), 33
        encoded = self.data["sprite"].partition(",")[2]
        sprite = np.asarray(Image.open(BytesIO(base64.b64decode(encoded))).convert("RGB"))
        left = columns * size * (self.part == "test")
        r = REGULARIZATIONS[self.strength]

        def draw(axes: np.ndarray) -> None:
            for ax, row in zip(axes.flat, (0, self.strength + 1), strict=True):
                ax.imshow(sprite[row * size : row * size + 32, left : left + columns * size - 1])
                ax.set(xticks=[], yticks=[], title=f"whitened, r = {r:g}" if row else "raw")
                ax.grid(False)
                ax.spines[:].set_visible(False)

        names = ", ".join(self.data["classes"])
        alt = f"Some {self.part} images ({names}): raw, and whitened with r = {r:g}, edges on gray."
        return Plot(draw, alt, size=(6.4, 1.6), grid=(1, 2))


def _rows(zca: ZCA, x: Tensor) -> list[Tensor]:
    """Images (N, 3, 32, 32) raw, then whitened each way; all in [0, 1]."""
    rows = [(x + 1) / 2]
    # A few images: their coordinates six times cost less than the (D, D) matrix once.
    coordinates = (x.flatten(1) - zca.mean) @ zca.eigenvectors
    for r in REGULARIZATIONS:
        scaled = coordinates * (zca.eigenvalues + r).rsqrt()
        white = (scaled @ zca.eigenvectors.T).view(x.shape)
        size = white.square().mean((1, 2, 3), keepdim=True).sqrt()
        rows.append((white / (6 * size) + 0.5).clamp(0, 1))
    return rows


def _sprite(rows: list[Tensor]) -> str:
    """One picture of all, a pixel between neighbors, of few colors; as an address."""
    lines = [
        torch.nn.functional.pad(row, (0, 1, 0, 1)).permute(2, 0, 3, 1).flatten(1, 2) for row in rows
    ]
    pixels = (torch.cat(lines) * 255).round().byte().numpy()  # (33 rows, 33 N, 3)
    file = BytesIO()
    Image.fromarray(pixels).quantize(255, Image.Quantize.MEDIANCUT).save(file, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
