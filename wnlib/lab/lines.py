"""What the command line says of a run: a line for people, or JSON for machines."""

import json
import math
from typing import Any

from wnlib.lab.runs import Row, Run
from wnlib.recipe import Recipe


def epoch_line(name: str, recipe: Recipe, row: Row) -> str:
    """One epoch."""
    return (
        f"{name} epoch {row.epoch:>3} of {recipe.epochs}: training loss "
        f"{row.train_loss:.4f}, test error {100 * row.test_error:.2f} %, {row.seconds:.1f} s"
    )


def end_line(name: str, run: Run) -> str:
    """One run that has ended."""
    s = run.summary()
    return (
        f"{name}: {run.state}; test error {100 * s.final_error:.2f} %, best "
        f"{100 * s.best_error:.2f} % in epoch {s.best_epoch}"
    )


def json_line(value: Any) -> str:
    """Any of what `json.dumps` takes; NaN and infinity, which JSON does not have, are null."""
    return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
