"""A step of the build: the figures' scripts join the static files."""

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from figures.scripts import site_script
from figures.train import panel_script

NAME = "figures.js"
LATER = "train.js"  # a page loads it when a reader asks to train


def write(app: Sphinx) -> None:
    """Put them where the theme's own scripts will be."""
    if app.builder.format == "html":
        folder = Path(app.outdir) / "_static"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / NAME).write_text(site_script(), encoding="utf-8")
        (folder / LATER).write_text(panel_script(), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", write)
    # Before MathJax, which takes a second of its own.
    app.add_js_file(NAME, priority=200, loading_method="defer")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
