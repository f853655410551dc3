"""A step of the build: what the page's HTML lacks, and where code stands.

Folded code gets a small bar below what it shows. Lists that a screen
reader would stumble on; a comma alone at the beginning of a line, after a
formula.
"""

import ast
import re
from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.writers.html5 import HTML5Translator

PARAMETERS = re.compile(
    r'<dl>\n((?:<dd><em class="sig-param">.*</em>,?</dd>\n)+)</dl>'
)
FORMULA = re.compile(
    r'([(\[]*)(<span class="math[^>]*>\\\([^<]*\\\)</span>)([,.;:?!)\]]*)'
)


def without_imports(code: str) -> str:
    """What follows the imports that the code begins with."""
    for node in ast.parse(code).body:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            break
        end, lines = node.end_lineno or 0, code.split("\n")
        code = "\n".join([""] * end + lines[end:])
    return code.strip("\n")


def purpose(code: str, tags: Any = (), html: str = "") -> str:
    """What folded code does, from its first comment or what it shows.

    Where the output is not compared the first comment says why.
    """
    code = without_imports(code)
    if code.startswith("# ") and "nbval-ignore-output" not in tags:
        return "code: " + code.split("\n", 1)[0][2:].rstrip(".:")
    if "<table" in html:
        return "code: the table"
    shows = "<img" in html or "wn-figure" in html
    return "code: the figure" if shows else "code"


class Bar(nodes.Element):
    """Folded code, its `text` in sight."""


def open_bar(self: HTML5Translator, node: nodes.Element) -> None:
    self.body.append('<details class="wn-code"><summary>')
    self.body.append(f"{escape(node['text'])}</summary>\n")


def close_bar(self: HTML5Translator, node: nodes.Element) -> None:
    self.body.append("</details>\n")


class FoldedCode(SphinxPostTransform):
    """One bar below an output, for the folded cells that lead to it.

    Imports stand in the notebook only.
    """

    default_priority = 198  # before MyST-NB makes bars of its own
    formats = ("html",)

    def run(self, **options: Any) -> None:
        before: list[nodes.Node] = []
        found: Any = self.document.findall(folded)
        for cell in list(found):
            source, *outputs = cell.children
            block = next(source.findall(nodes.literal_block))
            told = block.astext()
            block.children = [nodes.Text(without_imports(told))]
            block.rawsource = block.astext()
            before += [source] if block.rawsource else []
            follower = cell.next_node(descend=False, siblings=True)
            if not outputs and follower and folded(follower):
                cell.parent.remove(
                    cell
                )  # its code stands with what follows
                continue
            shown = "".join(n.astext() for n in cell.findall(nodes.raw))
            shown += "<img" * bool(list(cell.findall(nodes.image)))
            text = purpose(told, cell["cell_metadata"].get("tags"), shown)
            bars = [Bar("", *before, text=text)] if before else []
            cell.children = []
            cell.extend([*outputs, *bars])
            before = []


def folded(node: nodes.Node) -> bool:
    """Whether it is a cell whose code is folded, and not its output."""
    if not isinstance(node, nodes.container) or not node.children:
        return False
    first = node.children[0]
    return (
        node.get("hide_mode") == "input"
        and isinstance(first, nodes.Element)
        and first.get("nb_element") == "cell_code_source"
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
    app.add_node(Bar, html=(open_bar, close_bar))
    app.add_post_transform(FoldedCode)
    app.connect("html-page-context", mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
