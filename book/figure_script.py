"""A step of the build: the figures' one script joins the static files."""

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from figures.scripts import site_script

NAME = "figures.js"


def write(app: Sphinx) -> None:
    """Put it where the theme's own scripts will be."""
    if app.builder.format == "html":
        folder = Path(app.outdir) / "_static"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / NAME).write_text(site_script(), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", write)
    # Before MathJax, which takes a second of its own.
    app.add_js_file(NAME, priority=200, loading_method="defer")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
