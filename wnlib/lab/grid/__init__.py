"""A grid of runs: what to train, who trains it, how it goes, and what several seeds tell."""

from wnlib.lab.grid.display import Display
from wnlib.lab.grid.plans import Plan, Setting, plan_grid
from wnlib.lab.grid.run import WorkerError, run_grid
from wnlib.lab.grid.spread import summarize, summary_text
from wnlib.lab.grid.workers import cluster, processes, share_of_threads

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
