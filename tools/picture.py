"""Draw the five recorded curves at the paper's width for the README, light and dark."""

import sys
from pathlib import Path

from matplotlib.axes import Axes

from wnlib.lab import load_runs

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "book"))
from figures.plots import Plot, plot_test_error  # noqa: E402


def main() -> None:
    runs = load_runs(ROOT / "book" / "runs" / "width96-paper-40")
    whole = plot_test_error(runs, "One network in five versions, CIFAR-10")

    def draw(axes: Axes) -> None:
        whole.draw(axes)
        axes.set_ylim(5, 40)  # a run that diverges leaves it

    plot = Plot(draw, whole.alt)
    for theme in ("light", "dark"):
        plot.save(ROOT / "book" / "_static" / f"five-curves-{theme}.png", theme)


if __name__ == "__main__":
    main()
