"""A step of the build: notebooks that read well where MyST is not rendered.

Colab, Kaggle, GitHub and Jupyter show roles, labels and directives raw. The notebooks that are
written here have none: numbers are those of the built book, folded cells are forms. Code stays,
under a form's title. Links lead to the site in those that the site offers for download, and to
each other in `_build/notebooks` (or wherever no site is known).

What this file does not know is a warning, which fails the build.
"""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import nbformat
import repository
import setup_cell
from docutils import nodes
from markup import purpose, without_imports
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging

LOG = logging.getLogger(__name__)

FENCE = re.compile(r"^( *)(`{3,}|:{3,}|~{3,})(.*)\n((?:.*\n)*?)\1\2[`:~]* *$", re.MULTILINE)
DIRECTIVE = re.compile(r"\{([\w:-]+)\} *(.*)")
OPTION = re.compile(r":([\w-]+): *(.*)\n")
MATH = re.compile(r"^\$\$(.+?)\$\$(?: *\(([\w:-]+)\))? *$", re.MULTILINE | re.DOTALL)
# Code between backticks is passed over.
ROLE = re.compile(r"\{([\w:-]+)\}`([^`]+)`|`[^`\n]+`")
LINK = re.compile(r"`[^`\n]+`|(?<!!)\[([^]\n]*)\]\((?!https?:|mailto:)([^)\s]+)\)")
TERM = re.compile(r"^(\S.*)\n: +", re.MULTILINE)
# Comments, block breaks and targets: for the builder only.
DROPPED = re.compile(r"<!--[^>]*-->\n?|^%.*\n?|^\+\+\+.*\n?|^\([\w-]+\)=\n?", re.MULTILINE)
# Where any of this is left, outside of code and formulas, the text is not plain.
MYST = re.compile(
    r"\{[\w:-]+\}|^ *:{3,}|^ *[`~]{3,} *\{|^: |^\([\w-]+\)=|^%|^\+\+\+|\$\$ *\([\w:-]+\)"
    r"|\{\{|\[\^|<project:|\]\((?!https?:|mailto:|[\w-]+\.ipynb[)#])|!\[",
    re.MULTILINE,
)
CODE = re.compile(r"^( *)(`{3,}|~{3,})(?! *\{).*?^\1\2 *$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r"\$\$.*?\$\$(?! *\()|(?<!\$)\$[^$]+\$(?!\$)", re.DOTALL)
ADMONITIONS = {"admonition", "note", "warning", "tip", "hint", "important", "caution", "seealso"}
FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
HREF = re.compile(r'(<a\b[^>]*\bhref=")(?!https?:|mailto:|#)([^"]*)"')


def left_over(text: str) -> list[str]:
    """What a reader without MyST would see raw in this Markdown."""
    bare = FORMULA.sub("x", CODE.sub("x", text))
    return [found[0] for found in MYST.finditer(bare)]


class Page:
    """One notebook of a built book, whose links lead to the site at `home`, or to its like."""

    def __init__(self, app: Sphinx, name: str, home: str) -> None:
        self.app, self.name, self.home = app, name, home
        self.origin = repository.name(app.srcdir)

    def warn(self, text: str) -> None:
        LOG.warning("no plain form of %s: see tools/plain.py", text, location=self.name)

    def address(self, uri: str) -> str:
        """Of what this page links to; "" where only the site has it, and there is none."""
        if self.home or re.match("https?:|mailto:", uri):
            return urljoin(urljoin(self.home, self.app.builder.get_target_uri(self.name)), uri)
        page, _, place = uri.partition("#")
        name = str(Path(self.name).parent / page.removesuffix(".html"))
        written = self.app.project.path2doc(f"{name}.ipynb") in self.app.env.titles
        if not written or not str(self.app.env.doc2path(name)).endswith(".ipynb"):
            return ""
        return f"{Path(name).name}.ipynb{'#' * bool(place)}{place}"

    def notebook(self) -> Any:
        notebook = nbformat.read(self.app.env.doc2path(self.name), as_version=4)
        exercise = ""
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = self.markdown(cell.source)
                exercise = (re.findall(r"^\*\*(\d+)\.\*\*", cell.source, re.M) or [exercise])[-1]
            elif cell.cell_type == "code":
                self.code(cell, exercise)
        first = notebook.cells[0]
        title = self.app.config.html_title or self.app.config.project
        book = f"[{title}]({self.address('')})" if self.home else title
        first.source = re.sub(r"\A(# .+)\n", rf"\1\n\n*Also a page of {book}.*\n", first.source)
        return notebook

    def code(self, cell: Any, exercise: str) -> None:
        """A folded cell becomes a form; links in outputs lead to the site."""
        for output in cell.outputs:
            html = output.get("data", {}).get("text/html")
            if html:
                output.data["text/html"] = HREF.sub(
                    lambda found: f'{found[1]}{self.address(found[2]) or "#"}"', html
                )
        tags = set(cell.metadata.get("tags", []))
        if not FOLDED & tags and not setup_cell.is_one(cell):
            return
        cell.metadata["cellView"] = "form"
        cell.metadata["jupyter"] = {"source_hidden": True}
        if self.origin:
            cell.source = cell.source.replace(repository.PLACEHOLDER, self.origin)
        cell.source = f"# @title {form_title(cell, exercise)}\n{cell.source}"
        if "hide-cell" in tags:  # a solution: what it shows is hidden, too
            cell.metadata["jupyter"]["outputs_hidden"] = True
            if not any(tag.startswith("claim-") for tag in tags):  # which claims.ipynb reads
                cell.outputs, cell.execution_count = [], None

    def markdown(self, text: str) -> str:
        plain = self.blocks(DROPPED.sub("", text)).strip("\n")
        for found in left_over(plain):
            self.warn(repr(found))
        return plain

    def blocks(self, text: str) -> str:
        """Directives by themselves, everything between them, and other fences as they are."""
        parts, at = [], 0
        for fence in FENCE.finditer(text):
            parts.append(self.prose(text[at : fence.start()]))
            indent, _, opening, body = fence.groups()
            directive = DIRECTIVE.fullmatch(opening.strip())
            said = self.directive(directive[1], directive[2], body) if directive else fence[0]
            parts.append(re.sub("^(?=.)", indent, said, flags=re.M) if directive else said)
            at = fence.end()
        return "".join((*parts, self.prose(text[at:])))

    def directive(self, name: str, title: str, body: str) -> str:
        options = {}
        while option := OPTION.match(body):
            options[option[1]], body = option[2], body[option.end() :]
        if name not in ADMONITIONS | {"dropdown"}:
            self.warn(f"the directive {name}")
        title = title or name.capitalize()
        inner = self.blocks(body).strip("\n")
        if name == "dropdown" or "dropdown" in options.get("class", ""):
            return f"<details><summary>{self.prose(title)}</summary>\n\n{inner}\n\n</details>"
        # In a quotation the signs before the lines of a formula would become part of it.
        inner = MATH.sub(lambda found: " ".join(found[0].split("\n")), inner)
        return re.sub("^", "> ", f"**{self.prose(title)}**\n\n{inner}", flags=re.M)

    def prose(self, text: str) -> str:
        text = MATH.sub(lambda found: self.equation(found[1].strip("\n"), found[2]), text)
        text = ROLE.sub(lambda of: self.role(of[1], of[2]) if of[1] else of[0], text)
        text = LINK.sub(lambda of: self.link(of[1], of[2]) if of[2] else of[0], text)
        return TERM.sub(r"- **\1**: ", text)

    def equation(self, formula: str, label: str | None) -> str:
        if label:
            number = self.role("eq", label, linked=False).strip("()")
            formula = f"{formula}\n\\tag{{{number}}}"
        return f"$$\n{formula.strip()}\n$$"

    def link(self, text: str, target: str) -> str:
        """To another source file of the book, by its path from this one's."""
        path, _, anchor = target.partition("#")
        name = self.app.project.path2doc(str(Path(self.app.env.doc2path(self.name)).parent / path))
        if name not in self.app.env.titles:
            self.warn(f"the link to {target}")
            return text
        page = self.address(self.app.builder.get_relative_uri(self.name, name))
        text = text or self.app.env.titles[name].astext()
        return f"[{text}]({page}{'#' * bool(anchor)}{anchor})" if page else text

    def role(self, name: str, text: str, linked: bool = True) -> str:
        """What the built book shows for it: the domain that knows the role resolves it."""
        domain, _, kind = name.rpartition(":")
        domain = domain or {"eq": "math"}.get(name, "std")
        text = " ".join(text.split())
        explicit = re.fullmatch(r"(.+?) *<([^<>]+)>", text)
        title, target = explicit.groups() if explicit else (text, text)
        shown = nodes.literal("", title) if domain == "py" else nodes.inline("", title)
        reference = addnodes.pending_xref("", shown, reftype=kind, refdomain=domain)
        reference.attributes |= {"reftarget": target, "refexplicit": bool(explicit)}
        reference.attributes |= {"refdoc": self.name, "refwarn": True}
        env, found = self.app.env, None
        if domain in env.domains:
            found = env.domains[domain].resolve_xref(
                env, self.name, self.app.builder, kind, target, reference, shown
            )
        if found is None:
            self.warn(f"{{{name}}}`{text}`")
            return text
        return self.inline(found, linked)

    def inline(self, node: nodes.Node, linked: bool) -> str:
        """A resolved reference as Markdown; one into this notebook itself is only text."""
        if isinstance(node, nodes.Text):
            return node.astext()
        inner = "".join(self.inline(child, linked) for child in node.children)
        if isinstance(node, nodes.reference) and linked and "refuri" in node:
            address = self.address(node["refuri"])
            return f"[{inner}]({address})" if address else inner
        marks = {nodes.emphasis: "*", nodes.strong: "**", nodes.literal: "`", nodes.math: "$"}
        mark = marks.get(type(node), "")
        return f"{mark}{inner}{mark}"


def form_title(cell: Any, exercise: str) -> str:
    """What stands in place of the code."""
    if setup_cell.is_one(cell):
        return "Set-up: run this first"
    if "hide-cell" in cell.metadata.get("tags", []):
        return f"A solution of exercise {exercise}" if exercise else "A solution"
    if not without_imports(cell.source):
        return "Imports"
    shown = [output.get("data", {}) for output in cell.outputs]
    html = "".join(data.get("text/html", "") for data in shown)
    html += "<img" * any("image/png" in data for data in shown)
    return purpose(cell.source, cell.metadata.get("tags", []), html).capitalize()


def write(app: Sphinx, exception: Exception | None) -> None:
    """Put the plain notebooks where the site has its sources, and beside it."""
    if exception or app.builder.format != "html":
        return
    site = Path(app.outdir)
    for name in sorted(app.env.found_docs):
        if str(app.env.doc2path(name)).endswith(".ipynb"):
            published = site / "_sources" / f"{name}.ipynb"
            local = site.parent / "notebooks" / published.name
            local.parent.mkdir(exist_ok=True)
            for target, home in ((published, app.config.html_baseurl), (local, "")):
                nbformat.write(Page(app, name, home).notebook(), target)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
