"""Draw the five recorded curves for the README, light and dark.

python tools/picture.py
"""

from pathlib import Path

from wnlib.lab import load_runs, plot_test_error

ROOT = Path(__file__).parent.parent


def main() -> None:
    runs = load_runs(ROOT / "book" / "runs" / "width24-paper-40")
    plot = plot_test_error(runs, "Five normalizations, one network, CIFAR-10")
    for theme in ("light", "dark"):
        plot.save(ROOT / "book" / "_static" / f"five-curves-{theme}.png", theme)


if __name__ == "__main__":
    main()
