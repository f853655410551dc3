"""A step of the build: what the page's HTML lacks.

Lists that a screen reader would stumble on; a comma alone at the
beginning of a line, after a formula.
"""

import re
from typing import Any

from sphinx.application import Sphinx

PARAMETERS = re.compile(
    r'<dl>\n((?:<dd><em class="sig-param">.*</em>,?</dd>\n)+)</dl>'
)
FORMULA = re.compile(
    r'([(\[]*)(<span class="math[^>]*>\\\([^<]*\\\)</span>)([,.;:?!)\]]*)'
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
    parameters definitions without a term. Between a formula and the sign
    after it a browser would break a line.
    """
    body = context.get("body", "").replace(
        'role="doc-biblioentry"', 'role="listitem"'
    )
    body = PARAMETERS.sub(_lines, body)
    context["body"] = FORMULA.sub(_unbroken, body)


def _lines(found: re.Match[str]) -> str:
    return (
        found[1]
        .replace("<dd>", '<span class="sig-line">')
        .replace("</dd>", "</span>")
    )


def _unbroken(found: re.Match[str]) -> str:
    if not found[1] and not found[3]:
        return found[0]
    return f'<span class="wn-unbroken">{found[0]}</span>'


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("html-page-context", mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
