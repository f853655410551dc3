"""The network counted and drawn: the whole, what a unit sees, dropout."""

from itertools import chain, groupby

import torch
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle
from torch import nn

from figures.plots import COLORS
from wnlib import Norm

BLUE, ORANGE = COLORS[Norm.WN], COLORS[Norm.BN]
GREEN, GRAY = COLORS[Norm.WN_MOBN], COLORS[Norm.NONE]


def counts(model, image):
    """By layer: parameters, multiply-adds and outputs, of one image.

    Any model will do that has its weights in blocks with a `layer`.

    Args:
        model: is left in evaluation mode.
        image: (1, C, H, W).
    """
    found, handles = {}, []
    for name, block in model.named_children():
        if not hasattr(block, "layer"):
            continue  # noise, pooling, dropout

        def look(block, inputs, out, name=name):
            weight = block.layer.weight  # (C', C, F, F) or (C', C)
            places = out[0, 0].numel()  # W' W', or 1
            own = sum(p.numel() for p in block.parameters())
            found[name] = own, weight.numel() * places, out[0].numel()

        handles.append(block.register_forward_hook(look))
    with torch.no_grad():
        model.eval()(image)
    for handle in handles:
        handle.remove()
    return found


def network(model, images):
    """The function that draws ConvPool-CNN-C, part by part, on axes.

    Args:
        model: a ConvPoolCNNC; names, kernels and shapes are read off it.
        images: the pictures of the first row by their names, each
            (3, 32, 32) in [0, 1].

    Three boxes a row at most: a phone shows it at two thirds of its size.
    Parts that act in training only have a dashed border.
    """
    shapes = _shapes(model)
    parts = [name for name, _ in model.named_children()][1:]
    rows = [
        list(row)
        for _, row in groupby(parts, lambda n: n.startswith("conv"))
    ]

    def draw(axes):
        axes.set_axis_off()
        for k, (name, image) in enumerate(images.items()):
            x = k + 0.2
            box = (x, x + 0.56, 0.56, 0)
            pixels = image.permute(1, 2, 0).numpy()
            axes.imshow(pixels, extent=box, aspect="auto", zorder=2)
            axes.text(
                x + 0.28, 0.59, name, size=11.5, ha="center", va="top"
            )
            if k:
                _arrow(axes, (x - 0.4, 0.28), (x - 0.04, 0.28))
            if name.startswith("+"):
                look = {"fill": False, "ec": ORANGE, "ls": "--", "lw": 1.6}
                edge = Rectangle((x, 0), 0.56, 0.56, zorder=3, **look)
                axes.add_patch(edge)
        y, end = 0.94, len(images) - 0.52
        for row in rows:
            high = (
                0.5
                if any(_unpadded(getattr(model, n)) for n in row)
                else 0.36
            )
            _turn(axes, y, end)
            for k, name in enumerate(row):
                shape = "×".join(map(str, shapes[name]))
                box = k + 0.05, y, high
                _part(axes, box, name, getattr(model, name), shape)
                if k:
                    middle = y + high / 2
                    _arrow(axes, (k - 0.13, middle), (k + 0.03, middle))
            if row is rows[1]:
                notes = "blue: weights;\ndashed: in\ntraining only"
                axes.text(2.05, y + high / 2, notes, va="center", size=10.5)
            y, end = y + high + 0.17, len(row) - 0.55
        axes.set(xlim=(-0.02, 2.92), ylim=(y - 0.12, -0.03))

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


def _unpadded(part):
    """Whether a kernel stays inside of the image, as only conv7 does."""
    layer = getattr(part, "layer", None)
    return (
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size[0] > 1
        and not layer.padding[0]
    )


def _part(axes, box, name, part, shape):
    """One box: what it is, what there is to know of it, what comes out."""
    color, style = BLUE, "-"
    if name.startswith("conv"):
        side = part.layer.kernel_size[0]
        detail = f"{name}  {side}×{side}"
        if _unpadded(part):
            detail += "\nno padding"
    elif name.startswith("pool"):
        detail, color = (
            f"max pool {part.kernel_size}×{part.kernel_size}",
            GREEN,
        )
    elif name.startswith("drop"):
        detail, color, style = f"dropout {part.p:g}", ORANGE, "--"
    elif name == "gap":
        detail, color = "average", GREEN
    else:
        detail = name
    x, y, high = box
    look = {"ls": style, "fc": (color, 0.16), "ec": color, **_ROUND}
    axes.add_patch(FancyBboxPatch((x, y), 0.8, high, **look))
    look = {"ha": "center", "va": "center", "linespacing": 1.25}
    axes.text(x + 0.4, y + high / 2, f"{detail}\n{shape}", size=11, **look)


def _arrow(axes, start, end):
    look = {"arrowstyle": "-|>", "color": GRAY, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=look)


def _turn(axes, y, from_x):
    """From the end of a row to the beginning of the next, at y."""
    corners = [from_x, from_x, 0.45], [y - 0.15, y - 0.1, y - 0.1]
    axes.plot(*corners, color=GRAY, lw=1.2)
    _arrow(axes, (0.45, y - 0.1), (0.45, y - 0.01))


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
        seen.set(title="computed:\none unit of each layer")
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
        measured.set(title="measured:\nderivative by each pixel")
        for ax in axes.flat:
            ax.set(xlim=(0, 32), ylim=(32, 0))
            ax.axis("off")

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
                            ax.plot(xs, ys, color=GRAY, lw=1, zorder=1)
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
