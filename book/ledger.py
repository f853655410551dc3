"""Claims, and what the chapters print about them (see claims.ipynb)."""

import json
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
VERDICT = re.compile(
    "holds|holds here only if .+|not seen here|does not hold"
)
_NUMBER = re.compile(r"[-−]?\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?")
_CSS = """
table.wn-ledger.wn-ledger {display: table; width: 100%}
.wn-ledger.wn-ledger :is(th, td) {
  padding: .5em .8em 0 0; border: 0; font-weight: 400;
  text-align: left; vertical-align: top; white-space: normal;
}
.wn-ledger.wn-ledger .wn-out {
  max-width: 0; padding: .2em 0 .8em; border-bottom: 1px solid #8888;
}
.wn-ledger pre {
  margin: 0; padding: 0; border: 0; overflow-x: auto;
  background: none; color: inherit; font-size: .78em;
}
.wn-ledger small {display: block}
.wn-ledger td {width: 38%}
@media (max-width: 480px) {
  .wn-ledger.wn-ledger :is(tr, th, td) {display: block; width: auto}
  .wn-ledger.wn-ledger tr:first-child {display: none}
  .wn-ledger.wn-ledger .wn-out {max-width: none}
  .wn-ledger pre {white-space: pre-wrap; overflow-wrap: anywhere}
}
"""


@dataclass(frozen=True)
class Cell:
    """A tagged code cell: its chapter, the heading above, its text."""

    chapter: str
    heading: str
    printed: str


def tagged_cells(folder=HERE):
    """All chapters' cells with a tag "claim-...": a list for each tag."""
    found = {}
    for path in sorted(Path(folder).glob("*.ipynb")):
        heading = ""
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                text = "".join(cell["source"])
                text = re.sub(r"```.*?```", "", text, flags=re.S)
                headings = re.findall(r"^#+ (.*)", text, re.M)
                heading = headings[-1] if headings else heading
                continue
            printed = "".join(map(text_of, cell.get("outputs", [])))
            for tag in cell["metadata"].get("tags", []):
                if tag.startswith("claim-"):
                    each = Cell(path.stem, heading, printed)
                    found.setdefault(tag, []).append(each)
    return found


def text_of(output):
    """What a cell printed, or a table, a check or a plot says in text."""
    data = output.get("data", {})
    html = "".join(data.get("text/html", ""))
    said = "".join(data.get("text/plain", ""))
    ours = re.search("<(table|small|figure) class=.wn-", html)
    if ours and not said.startswith("Plot("):
        return said + "\n"
    return "".join(output.get("text", ""))


def place(cell):
    """The chapter by its number, a reference page by its name."""
    number, _, _ = cell.chapter.partition("-")
    if number.isdigit():
        return f"chapter {int(number)}"
    return {"cifar-10": "CIFAR-10"}.get(
        cell.chapter, cell.chapter.replace("-", " ")
    )


def lines_of(claim, cell):
    """The lines that the claim asks for.

    It has a pattern, or the number of last lines; without either, the
    lines that end in True or False, or else the last.
    """
    lines = [line for line in cell.printed.splitlines() if line.strip()]
    wanted = claim.get("lines", "(True|False)$")
    if isinstance(wanted, int):
        return lines[-wanted:]
    chosen = [line for line in lines if re.search(wanted, line)]
    return chosen if chosen or "lines" in claim else lines[-1:]


def outcome(claim, lines):
    """Whether the lines say what the claim predicts; None: no rule.

    A rule is "ends in WORD", "number N above X", "number N below X" or
    "number N falls" (numbers count from 0, or from -1 at the end), and
    must hold for all lines, or all that match the claim's "on"; a cell
    without such a line says nothing.
    Without one, all lines that end in True or False must say True.
    """
    lines = [x for x in lines if re.search(claim.get("on", ""), x)]
    if not lines:
        return None
    last = [line.split()[-1] for line in lines]
    match claim.get("rule", "").split():
        case []:
            said = [w == "True" for w in last if w in ("True", "False")]
            return all(said) if said else None
        case ["none"]:
            return None
        case ["ends", "in", word]:
            return bool(last) and set(last) == {word}
        case ["number", n, *how]:
            found = [_NUMBER.findall(line)[int(n)] for line in lines]
            plain = str.maketrans({",": None, "−": "-"})
            values = [float(value.translate(plain)) for value in found]
            match how:
                case ["above", x]:
                    return bool(values) and min(values) > float(x)
                case ["below", x]:
                    return bool(values) and max(values) < float(x)
                case ["falls"]:
                    down = sorted(set(values), reverse=True)
                    return len(values) > 1 and values == down
    raise ValueError(f"{claim['id']}: no such rule: {claim['rule']}")


def problems(claims, cells):
    """What is wrong with the ledger, in lines; none, if nothing is."""
    found = []
    for claim in claims:
        name, verdict = claim["id"], claim["verdict"]
        known = VERDICT.fullmatch(verdict)
        if not known:
            found.append(f"{name}: no such verdict: {verdict}")
        if not claim["cells"]:
            found.append(f"{name}: a verdict without a cell")
        decided = "on" not in claim
        for tag in claim["cells"]:
            there = cells.get(tag, [])
            if len(there) != 1:
                found.append(f"{name}: {len(there)} cells have {tag}")
                continue
            lines = lines_of(claim, there[0])
            if not lines:
                found.append(f"{name}: {tag} prints no such line")
                continue
            says = outcome(claim, lines) if known else None
            decided |= says is not None
            if says is not None and says != verdict.startswith("holds"):
                printed = " / ".join(lines)
                found.append(f"{name}, {verdict}: {tag} has {printed}")
        if not decided and not found:
            found.append(f"{name}: no line has {claim['on']}")
    return found


def address(cell):
    """The cell's section, from a page beside its own."""
    plain = cell.heading.lower().encode("ascii", "ignore").decode()
    plain = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    return f"{cell.chapter}.html#{plain}"


@dataclass(frozen=True)
class Ledger:
    """Claims, verdicts, and below each what its cells print."""

    claims: list
    cells: dict

    def __repr__(self):
        return "\n".join(f"{c['id']:4}{c['verdict']}" for c in self.claims)

    def _repr_html_(self):
        rows = "".join(map(self._row, self.claims))
        head = "".join(
            f'<th scope="col"><b>{name}</b></th>'
            for name in ("claim", "verdict")
        )
        return (
            f"<style>{_CSS}</style>"
            f'<table class="wn-ledger"><tr>{head}</tr>{rows}</table>'
        )

    def _row(self, claim):
        text = {k: escape(v) for k, v in claim.items() if type(v) is str}
        remark = text.get("remark", "")
        shown = ""
        for tag in claim["cells"]:
            (cell,) = self.cells[tag]
            printed = escape("\n".join(lines_of(claim, cell)))
            shown += (
                f"<pre>{printed}</pre>"
                f'<small><a href="{escape(address(cell))}">'
                f"{place(cell)}, {escape(cell.heading)}</a></small>"
            )
        return (
            f'<tr id="{text["id"]}"><th scope="row">'
            f"<b>{text['id']}</b> {text['claim']} "
            f"<small>{text['source']}</small></th>"
            f"<td><b>{text['verdict']}</b><small>{remark}</small></td>"
            f'</tr><tr><td class="wn-out" colspan="2">{shown}</td></tr>'
        )
