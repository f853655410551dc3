"""Something that was recorded frame by frame: a canvas as it is painted, a game as it is played."""

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import traitlets
from PIL import Image

from figures.base import Figure
from figures.plots import Plot


class Film(NamedTuple):
    """Frames (F, H, W) of places in a palette, and what is said of each."""

    label: str
    frames: np.ndarray
    notes: Sequence[str]


class Frames(Figure):
    """Films to play or to step through, one at a time; all have frames of the same size.

    Args:
        films: by key.
        palette: colors, "#rrggbb" or "#rrggbbaa".
        name: what a frame is, such as "Step".
        alt: what is seen in a frame, for those who don't see it.
        height: of a frame on the page at most, in pixels.
        rate: of frames, a second.
        traits: the first state.

    Raises:
        ValueError: frames of several shapes, or a color of another form.

    Attributes:
        film: the key of one.
        frame: the place of one in it; the last, if it has fewer.
    """

    script = "frames"

    film = traitlets.Unicode().tag(sync=True)
    frame = traitlets.Int(0, min=0).tag(sync=True)

    def __init__(
        self,
        films: Mapping[str, Film],
        palette: Sequence[str],
        *,
        name: str,
        alt: str,
        height: int = 260,
        rate: float = 8,
        **traits: Any,
    ) -> None:
        shapes = {film.frames.shape[1:] for film in films.values()}
        if len(shapes) != 1:
            raise ValueError(f"all frames have one shape, not {sorted(shapes)}")
        if odd := [color for color in palette if len(color) not in (7, 9)]:
            raise ValueError(f"a color is #rrggbb or #rrggbbaa, not {odd[0]}")
        [(h, w)] = shapes
        data = {
            "size": [w, h],
            "name": name,
            "alt": alt,
            "height": height,
            "rate": rate,
            "films": {
                key: {
                    "label": film.label,
                    "notes": list(film.notes),
                    "sprite": _sprite(film.frames, palette),
                }
                for key, film in films.items()
            },
        }
        super().__init__(**{"data": data, "film": next(iter(films))} | traits)

    def picture(self) -> Plot:
        """The frame of the first state."""
        film, (w, h) = self.data["films"][self.film], self.data["size"]
        at = min(self.frame, len(film["notes"]) - 1)
        sprite = Image.open(BytesIO(base64.b64decode(film["sprite"].partition(",")[2])))
        seen = np.asarray(sprite.convert("RGBA"))[h * at : h * (at + 1)]

        def draw(axes: Any) -> None:
            axes.imshow(seen, interpolation="nearest")
            axes.axis("off")

        scale = min(7 / w, self.data["height"] / 100 / h)
        text = f"{self.data['alt']} {film['label']}: {film['notes'][at]}"
        return Plot(draw, text, size=(max(scale * w, 1.5), scale * h))


def _sprite(frames: np.ndarray, palette: Sequence[str]) -> str:
    """The frames below each other, as a PNG's data URI."""
    f, h, w = frames.shape
    image = Image.fromarray(frames.reshape(f * h, w).astype(np.uint8), "P")
    colors = [bytes.fromhex(color[1:].ljust(8, "f")) for color in palette]
    image.putpalette(b"".join(color[:3] for color in colors))
    file = BytesIO()
    image.save(file, "PNG", optimize=True, transparency=bytes(color[3] for color in colors))
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
