"""Drawings of the network: the whole, what a unit sees, dropout."""

from itertools import chain

import torch
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

from wnlib import Norm
from wnlib.lab.plots import COLOURS

BLUE, ORANGE = COLOURS[Norm.WN], COLOURS[Norm.BN]
GREEN, GREY = COLOURS[Norm.WN_MOBN], COLOURS[Norm.NONE]


def network(model, images):
    """The function that draws ConvPool-CNN-C, part by part, on axes.

    Args:
        model: a ConvPoolCNNC; names, kernels and shapes are read off it.
        images: the pictures of the first row by their names, each
            (3, 32, 32) in [0, 1].

    Parts that act in training only have a dashed border.
    """
    shapes = _shapes(model)
    parts = [name for name, _ in model.named_children()][1:]
    rows = [parts[i : i + 5] for i in range(0, len(parts), 5)]

    def draw(axes):
        axes.set(xlim=(-0.05, 5.05), ylim=(4.08, -0.1))
        axes.set_axis_off()
        for k, (name, image) in enumerate(images.items()):
            x = 0.08 + 1.02 * k
            box = (x, x + 0.76, 0.76, 0)
            pixels = image.permute(1, 2, 0).numpy()
            axes.imshow(pixels, extent=box, aspect="auto", zorder=2)
            axes.text(x + 0.38, 0.82, name, ha="center", va="top")
            if k:
                _arrow(axes, (x - 0.24, 0.38), (x - 0.02, 0.38))
            if name.startswith("+"):
                border = {
                    "fill": False,
                    "ec": ORANGE,
                    "ls": "--",
                    "lw": 1.6,
                }
                edge = Rectangle((x, 0), 0.76, 0.76, zorder=3, **border)
                axes.add_patch(edge)
        axes.set(xlim=(-0.05, 5.05), ylim=(4.08, -0.1))
        dashed = FancyBboxPatch(
            (3.22, 0.52),
            0.26,
            0.12,
            ls="--",
            fc="none",
            ec=ORANGE,
            **_ROUND,
        )
        axes.add_patch(dashed)
        notes = "blue: weights, normalized;\na conv, then leaky ReLU"
        axes.text(3.18, -0.02, notes, va="top", linespacing=1.4)
        axes.text(3.6, 0.58, "in training only", va="center")
        for i, row in enumerate(rows):
            y = 1.28 + 1.02 * i
            _turn(axes, y, 2.5 if i == 0 else 4.45)
            for k, name in enumerate(row):
                _part(axes, k + 0.05, y, name, getattr(model, name))
                shape = "×".join(map(str, shapes[name]))
                middle = k + 0.45
                axes.text(middle, y + 0.6, shape, ha="center", va="top")
                if k:
                    _arrow(axes, (k - 0.13, y + 0.27), (k + 0.03, y + 0.27))

    return draw


_ROUND = {"boxstyle": "round,pad=0.02,rounding_size=0.05", "lw": 1.4}


def _shapes(model):
    """What each part puts out: sides first, then channels."""
    found, handles = {}, []
    for name, part in model.named_children():

        def look(_part, _inputs, out, name=name):
            found[name] = (*out.shape[2:], out.shape[1])

        handles.append(part.register_forward_hook(look))
    training = model.training
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 32, 32))
    model.train(training)
    for handle in handles:
        handle.remove()
    return found


def _part(axes, x, y, name, part):
    """One box: what it is, and what there is to know of it."""
    color, style = BLUE, "-"
    if name.startswith("conv"):
        side, padding = part.layer.kernel_size[0], part.layer.padding[0]
        detail = f"{side} × {side}"
        if side > 1 and not padding:
            detail += "\nno padding"
    elif name.startswith("pool"):
        side = part.kernel_size
        name, detail, color = "max pool", f"{side} × {side}", GREEN
    elif name.startswith("drop"):
        name, detail = "dropout", f"p = {part.p:g}"
        color, style = ORANGE, "--"
    elif name == "gap":
        name, detail, color = "average", "all pixels", GREEN
    else:
        detail = "logits"
    box = FancyBboxPatch(
        (x, y), 0.8, 0.54, ls=style, fc=(color, 0.16), ec=color, **_ROUND
    )
    axes.add_patch(box)
    heights = (0.13, 0.37) if "\n" in detail else (0.19, 0.4)
    for text, height, weight in zip(
        (name, detail), heights, ("bold", "normal"), strict=True
    ):
        at = x + 0.4, y + height
        look = {"ha": "center", "va": "center", "linespacing": 1.0}
        axes.text(*at, text, weight=weight, **look)


def _arrow(axes, start, end):
    look = {"arrowstyle": "-|>", "color": GREY, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=look)


def _turn(axes, y, from_x):
    """From the end of a row to the beginning of the next, at y."""
    corners = [from_x, from_x, 0.45], [y - 0.27, y - 0.18, y - 0.18]
    axes.plot(*corners, color=GREY, lw=1.2)
    _arrow(axes, (0.45, y - 0.18), (0.45, y - 0.03))


def field(fields, image, slopes):
    """The function that draws what a unit sees, computed and measured.

    Args:
        fields: side in pixels by the layer's name.
        image: (3, 32, 32), in [0, 1].
        slopes: size of the unit's derivative by each pixel, (H, W).
    """

    def draw(axes):
        seen, measured = axes.flat
        frame = {"fill": False, "ec": BLUE, "lw": 1.6}
        seen.imshow(
            image.permute(1, 2, 0).numpy(), extent=(0, 32, 32, 0), alpha=0.6
        )
        for name, side in fields.items():
            corner = 16 - side / 2
            box = Rectangle((corner, corner), side, side, **frame)
            seen.add_patch(box)
            tab = {"boxstyle": "round,pad=0.15", "fc": BLUE, "ec": "none"}
            label = f"{name}: {side} × {side}"
            look = {"ha": "center", "va": "center", "size": "small"}
            seen.text(16, corner, label, color="white", bbox=tab, **look)
        seen.set(title="computed: one unit of each layer")
        rows, columns = (slopes > 0).nonzero(as_tuple=True)
        top, left = int(rows.min()), int(columns.min())
        high, wide = (
            int(rows.max()) + 1 - top,
            int(columns.max()) + 1 - left,
        )
        x, y = 16 - wide / 2, 16 - high / 2
        part = slopes[top : top + high, left : left + wide]
        around = (x, x + wide, y + high, y)
        root = (part / part.max()).sqrt().numpy()
        measured.imshow(root, extent=around)
        measured.add_patch(Rectangle((x, y), wide, high, **frame))
        measured.set(title="measured: derivative by each pixel")
        for ax in axes.flat:
            ax.set(xlim=(0, 32), ylim=(32, 0), xticks=[], yticks=[])
            ax.grid(False)

    return draw


def dropout(masks, titles):
    """The function that draws a layer of units between inputs and outputs.

    Args:
        masks: for each picture, which hidden units are kept, as booleans.
        titles: one for each picture.
    """

    def draw(axes):
        for ax, mask, title in zip(axes.flat, masks, titles, strict=True):
            layers = [[True] * 3, list(mask), [True] * 2]
            places = [
                [
                    (layer, 0.5 + i - len(units) / 2)
                    for i in range(len(units))
                ]
                for layer, units in enumerate(layers)
            ]
            for layer in (0, 1):
                ends = zip(
                    places[layer + 1], layers[layer + 1], strict=True
                )
                for end, there in ends:
                    starts = zip(places[layer], layers[layer], strict=True)
                    for start, kept in starts:
                        if there and kept:
                            xs, ys = zip(start, end, strict=True)
                            ax.plot(xs, ys, color=GREY, lw=1, zorder=1)
            units = zip(chain(*places), chain(*layers), strict=True)
            for (x, y), kept in units:
                look = {"fc": BLUE} if kept else {"fc": "none", "ls": "--"}
                color = BLUE if kept else ORANGE
                ax.add_patch(Circle((x, y), 0.2, ec=color, lw=1.4, **look))
                if not kept:
                    ends = [x - 0.14, x + 0.14], [y - 0.14, y + 0.14]
                    ax.plot(*ends, color=ORANGE)
                    ax.plot(ends[0], ends[1][::-1], color=ORANGE)
            ax.set(title=title, aspect="equal", xlim=(-0.4, 2.4))
            ax.set_axis_off()

    return draw
