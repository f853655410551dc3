"""A grid of runs: what to train, who trains it, how it goes, and what several seeds tell."""

from wnlib.grid.display import Display
from wnlib.grid.plans import Plan, Setting, plan_grid
from wnlib.grid.run import WorkerError, run_grid
from wnlib.grid.spread import summarize, summary_text
from wnlib.grid.workers import cluster, processes, share_of_threads

__all__ = [
    "Display",
    "Plan",
    "Setting",
    "WorkerError",
    "cluster",
    "plan_grid",
    "processes",
    "run_grid",
    "share_of_threads",
    "summarize",
    "summary_text",
]
