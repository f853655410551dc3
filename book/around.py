"""A step of the build: what stands around a page.

Where it opens and can be taken along, what search engines and previews of
links are told, and the page for an address that is none.
"""

import re
from html import escape
from pathlib import Path
from typing import Any

import repository
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

KAGGLE = "https://kaggle.com/kernels/welcome?src="
ARCHIVE = "weight-normalization.zip"  # `make offline`
PICTURE = "_static/five-curves-light.png"
LENGTH = 200  # characters of a description that are shown anywhere
LOST = """<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <meta name="color-scheme" content="light dark">
    <meta name="robots" content="noindex">
    <base href="{base}">
    <title>No such page - {title}</title>
    <style>
      body {{
        max-width: 40em; margin: 3em auto; padding: 0 1em;
        font: 1.1em/1.6 sans-serif;
      }}
      a {{ color: light-dark(#0a5a8c, #8cc8f0) }}
    </style>
  </head>
  <body>
    <h1>There is no such page</h1>
    <p>Chapters have been renamed and reordered. The book's pages:</p>
    <ul>
{pages}
    </ul>
  </body>
</html>
"""


def address(app: Sphinx, config: Config) -> None:
    """The site's own, or else the one that follows from the repository."""
    source = config.html_theme_options["repository_url"]
    if not config.html_baseurl:
        name = source.removeprefix("https://github.com/")
        config.html_baseurl = repository.site(name)
    archive = f"{source}/archive/refs/heads/{repository.BRANCH}.zip"
    config.html_context["downloads"] = {
        "Pages, to read offline": f"{config.html_baseurl}{ARCHIVE}",
        "Notebooks, to run": archive,
    }


def describe(doctree: nodes.document) -> str:
    """The first sentences that need no formula, cut to what is shown."""
    said = ""
    for paragraph in doctree.findall(nodes.paragraph):
        if not isinstance(paragraph.parent, nodes.section):
            continue
        paragraph = paragraph.deepcopy()
        for formula in list(paragraph.findall(nodes.math)):
            formula.replace_self(nodes.Text("$"))
        text = " ".join(paragraph.astext().split())
        text = re.sub(r"\s*\[[^]]*\]", "", text)  # citations
        sentences = re.split(r"(?<=[.?!]) ", text)
        said = " ".join(
            [said, *(s for s in sentences if "$" not in s)]
        ).strip()
        if len(said) > LENGTH:
            return re.sub(r"\W*\s\S*$", "", said[:LENGTH]) + " …"
        if len(said) > LENGTH / 3:
            break
    return said


def fill(
    app: Sphinx,
    page: str,
    template: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Meta tags, and links to where the page runs."""
    base = app.config.html_baseurl
    source = app.config.html_theme_options["repository_url"]
    branch = app.config.html_theme_options["repository_branch"]
    opened = f"/blob/{repository.BRANCH}/"
    for group in context.get("header_buttons", []):
        if group.get("label") == "launch-buttons":
            for button in group["buttons"]:
                button["url"] = button["url"].replace(
                    f"/blob/{branch}/", opened
                )
            group["buttons"].append(
                {
                    "type": "link",
                    "text": "Kaggle",
                    "tooltip": "Launch on Kaggle",
                    "icon": "fab fa-kaggle",
                    "url": f"{KAGGLE}{source}{opened}{page}.ipynb",
                }
            )
    if doctree is None:
        return
    said = describe(doctree)
    tags = {
        "og:title": re.sub("<[^>]*>", "", context["title"]),
        "og:type": "article",
        "og:url": base + app.builder.get_target_uri(page),
        "og:site_name": app.config.html_title,
        "og:image": base + PICTURE,
        "og:image:alt": "Test error by epoch of five normalizations.",
        "og:description": said,
    }
    meta = [
        f'<meta property="{name}" content="{escape(text)}">'
        for name, text in tags.items()
        if text
    ]
    meta.append('<meta name="twitter:card" content="summary_large_image">')
    if said:
        meta.append(f'<meta name="description" content="{escape(said)}">')
    context["metatags"] = "\n".join((context.get("metatags", ""), *meta))


def lost(app: Sphinx, exception: Exception | None) -> None:
    """The page that GitHub Pages answers with where there is none."""
    if exception or app.builder.format != "html":
        return
    root = app.config.root_doc
    names = [root, *dict.fromkeys(_below(app, root))]
    pages = "\n".join(
        f'      <li><a href="{app.builder.get_target_uri(name)}">'
        f"{escape(app.env.titles[name].astext())}</a></li>"
        for name in names
    )
    text = LOST.format(
        base=escape(app.config.html_baseurl),
        title=escape(app.config.html_title),
        pages=pages,
    )
    (Path(app.outdir) / "404.html").write_text(text, encoding="utf-8")


def _below(app: Sphinx, name: str) -> list[str]:
    found = app.env.toctree_includes.get(name, [])
    return [page for one in found for page in (one, *_below(app, one))]


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", address)
    app.connect("html-page-context", fill, priority=900)
    app.connect("build-finished", lost)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
