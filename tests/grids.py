"""Who trains a grid in tests, and who is told of it."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from wnlib.lab.grid import Display
from wnlib.lab.runs import Row, Run
from wnlib.recipe import Recipe


class Inline(Executor):
    """Trains in this very process, before `submit` returns."""

    def submit(self, fn: Callable[..., Run], *args: Any) -> Future[Run]:
        future: Future[Run] = Future()
        try:
            future.set_result(fn(*args))
        except Exception as error:
            future.set_exception(error)
        return future


class Notes(Display):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.rows: list[tuple[str, int]] = []
        self.ends: list[str] = []

    def row(self, name: str, recipe: Recipe, row: Row) -> None:
        self.rows.append((name, row.epoch))

    def end(self, name: str, result: Run | Exception) -> None:
        self.ends.append(name)
