"""How a grid of runs goes, said on the command line."""

import sys
from collections.abc import Mapping

from tqdm import tqdm

from wnlib.lab.lines import end_line, epoch_line
from wnlib.lab.runs import Row, Run
from wnlib.recipe import Recipe


class Display:
    """A line for each epoch and each run on standard output; on a terminal, one bar for all.

    Args:
        quiet: say nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.bar = tqdm(disable=True)
        self.runs = self.ended = self.pad = 0
        self.waiting: set[str] = set()

    def start(self, epochs: Mapping[str, int], done: int) -> None:
        """A grid begins: the epochs of each name, and how many of them are there already."""
        self.runs, self.pad = len(epochs), max(map(len, epochs))
        self.bar = tqdm(
            total=sum(epochs.values()),
            initial=done,
            disable=self.quiet or not sys.stderr.isatty(),
            unit="epoch",
            dynamic_ncols=True,
        )
        self._count()

    def row(self, name: str, recipe: Recipe, row: Row) -> None:
        """An epoch is over."""
        self._say(epoch_line(f"{name:>{self.pad}}", recipe, row))
        self.bar.update()

    def end(self, name: str, result: Run | Exception) -> None:
        """A run has ended, or failed."""
        if isinstance(result, Run):
            self._say(end_line(name, result))
            self.bar.total -= result.recipe.epochs - len(result.rows)  # of one that diverged
        else:
            self._say(f"{name}: failed; the others go on")
        self.ended += 1
        self._count()

    def busy(self, name: str) -> None:
        """Another training is at work on a run; said once."""
        if name not in self.waiting:
            self._say(f"{name}: another training is at work there; waiting for it")
        self.waiting.add(name)

    def tick(self) -> None:
        """Time goes by."""
        self.bar.refresh()

    def close(self) -> None:
        """Nothing more comes; what follows on the terminal stands below the bar."""
        self.bar.close()

    def _say(self, line: str) -> None:
        if not self.quiet:
            self.bar.write(line, file=sys.stdout)
            sys.stdout.flush()

    def _count(self) -> None:
        self.bar.set_description(f"{self.ended} of {self.runs} runs")
