"""A step of the build: what stands around a page.

Where it opens and can be taken along, and what search engines and previews
of links are told. Both follow from where this clone comes from.
"""

import re
from html import escape
from typing import Any
from urllib.parse import urlsplit

import repository
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

KAGGLE = "https://kaggle.com/kernels/welcome?src="
PICTURE = "_static/five-curves-light.png"
LENGTH = 200  # characters of a description that are shown anywhere


def address(app: Sphinx, config: Config) -> None:
    """Buttons lead to the repository, if this clone has one on GitHub."""
    options, name = config.html_theme_options, repository.name(app.srcdir)
    if name is None:
        del options["launch_buttons"]
        return
    options["repository_url"] = f"https://github.com/{name}"
    options["repository_branch"] = "main"
    for kind in ("repository", "issues", "edit_page"):
        options[f"use_{kind}_button"] = True
    config.html_baseurl = config.html_baseurl or repository.site(name)
    config.notfound_urls_prefix = urlsplit(config.html_baseurl).path


def describe(doctree: nodes.document) -> str:
    """The first sentences that need no formula, cut to what is shown.

    (sphinxext-opengraph would show a formula's TeX.)
    """
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
    opened = f"/blob/{repository.BRANCH}/"
    for group in context.get("header_buttons", []):
        if group.get("label") == "launch-buttons":
            for button in group["buttons"]:
                button["url"] = button["url"].replace("/blob/main/", opened)
            source = app.config.html_theme_options["repository_url"]
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
        "og:site_name": app.config.html_title,
        "og:description": said,
        "description": said,
        "twitter:card": "summary_large_image",
    }
    if base := app.config.html_baseurl:
        tags["og:url"] = base + app.builder.get_target_uri(page)
        tags["og:image"] = base + PICTURE
        tags["og:image:alt"] = "Test error by epoch of five normalizations."
    meta = [
        f'<meta property="{name}" name="{name}" content="{escape(text)}">'
        for name, text in tags.items()
        if text
    ]
    context["metatags"] = "\n".join((context.get("metatags", ""), *meta))


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", address, priority=400)
    app.connect("html-page-context", fill, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
