"""A step of the build: lists that a screen reader would stumble on."""

import re
from typing import Any

from sphinx.application import Sphinx

PARAMETERS = re.compile(
    r'<dl>\n((?:<dd><em class="sig-param">.*</em>,?</dd>\n)+)</dl>'
)


def mend(
    app: Sphinx,
    page: str,
    template: str,
    context: dict[str, Any],
    doctree: object,
) -> None:
    """Entries of a bibliography become list items, parameters become lines.

    docutils gives the entries a role that no list has; Sphinx makes the
    parameters definitions without a term.
    """
    body = context.get("body", "").replace(
        'role="doc-biblioentry"', 'role="listitem"'
    )
    context["body"] = PARAMETERS.sub(_lines, body)


def _lines(found: re.Match[str]) -> str:
    return (
        found[1]
        .replace("<dd>", '<span class="sig-line">')
        .replace("</dd>", "</span>")
    )


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("html-page-context", mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
