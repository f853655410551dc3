"""A step of the build: what the page's HTML lacks.

Lists that a screen reader would stumble on; tables whose numbers do not
line up; a comma alone at the beginning of a line, after a formula.
"""

import re
from typing import Any

from sphinx.application import Sphinx

PARAMETERS = re.compile(
    r'<dl>\n((?:<dd><em class="sig-param">.*</em>,?</dd>\n)+)</dl>'
)
TABLE = re.compile(r'<table class="wn-table">.*?</table>', re.S)
CELL = re.compile(r"<(t[hd])([^>]*)>([^<]*)(?=</\1>)")
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
    body = TABLE.sub(_aligned, body)
    context["body"] = FORMULA.sub(_unbroken, body)


def _lines(found: re.Match[str]) -> str:
    return (
        found[1]
        .replace("<dd>", '<span class="sig-line">')
        .replace("</dd>", "</span>")
    )


def _aligned(found: re.Match[str]) -> str:
    """Name the columns that hold numbers, with their headers."""
    rows = [CELL.findall(row) for row in found[0].split("</tr>")[1:-1]]
    texts = zip(*([cell[2] for cell in row] for row in rows), strict=True)
    numbers = [
        any(column) and all(re.match(r"[-+]?\d|$", cell) for cell in column)
        for column in texts
    ]

    def row(line: str) -> str:
        columns = iter(numbers)
        return CELL.sub(
            lambda cell: (
                f'<{cell[1]}{cell[2]} class="wn-number">{cell[3]}'
                if next(columns)
                else cell[0]
            ),
            line,
        )

    return "</tr>".join(map(row, found[0].split("</tr>")))


def _unbroken(found: re.Match[str]) -> str:
    if not found[1] and not found[3]:
        return found[0]
    return f'<span class="wn-unbroken">{found[0]}</span>'


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("html-page-context", mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
