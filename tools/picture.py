"""Draw the five recorded curves at the paper's width for the README, light and dark."""

import sys
from pathlib import Path

from matplotlib.axes import Axes

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "book"))
from figures.plots import Plot, plot_test_error  # noqa: E402
from gains import at_whole_width  # noqa: E402


def main() -> None:
    whole = plot_test_error(at_whole_width(), "One network in five versions, CIFAR-10")

    def draw(axes: Axes) -> None:
        whole.draw(axes)
        axes.set_ylim(5, 40)  # the first epochs leave it

    plot = Plot(draw, whole.alt)
    for theme in ("light", "dark"):
        plot.save(ROOT / "book" / "_static" / f"five-curves-{theme}.png", theme)


if __name__ == "__main__":
    main()
