"""The chapters, as the first page lists them (see intro.ipynb)."""

import json
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
_CSS = """
table.wn-contents.wn-contents {display: table; width: 100%}
.wn-contents.wn-contents :is(th, td) {
  padding: .35em .8em .35em 0; font-weight: 400;
  text-align: left; vertical-align: top; white-space: normal;
}
.wn-contents.wn-contents :is(th, td):nth-child(n + 3) {text-align: right}
"""


@dataclass(frozen=True)
class Chapter:
    """A notebook: title, minutes to read, seconds to run at most."""

    page: str
    title: str
    minutes: int
    seconds: int


def chapter(page, folder=HERE):
    """What the notebook itself says.

    Reading: the text up to the exercises at 200 words a minute, formulas
    included, and 20 lines of the code that is not folded; in fives of
    minutes, rounded.
    """
    path = Path(folder) / f"{page}.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = {"markdown": "", "code": ""}
    for cell in cells:
        if not FOLDED & set(cell.get("metadata", {}).get("tags", [])):
            text[cell["cell_type"]] += "".join(cell["source"]) + "\n"
        if "\n## Exercises\n" in "\n" + text["markdown"]:
            break
    main = text["markdown"].split("## Exercises")[0]
    words, lines = main.split(), text["code"].split("\n")
    minutes = len(words) / 200 + sum(map(bool, map(str.strip, lines))) / 20
    title = re.search(r"^# (.+)", text["markdown"], re.M)
    time = re.search(
        r"\*\*Running time:\*\* at most (\d+) seconds", text["markdown"]
    )
    assert title is not None, f"{page} has no title"
    assert time is not None, f"{page} does not say its running time"
    return Chapter(page, title[1], 5 * round(minutes / 5), int(time[1]))


@dataclass(frozen=True)
class Contents:
    """A table of chapters; in a notebook each title is a link."""

    chapters: list
    about: dict

    def __repr__(self):
        return "\n".join(
            f"{c.title}: {c.minutes} min, {c.seconds} s"
            for c in self.chapters
        )

    def _repr_html_(self):
        names = ("chapter", "read (min)", "run (s)")
        head = "<td></td>" + "".join(
            f'<th scope="col">{name}</th>' for name in names
        )
        body = "".join(map(self._row, self.chapters))
        return (
            f'<style>{_CSS}</style><table class="wn-contents">'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )

    def _row(self, one):
        number = one.page[:2].lstrip("0") if one.page[0].isdigit() else ""
        return (
            f"<tr><td>{number}</td>"
            f'<th scope="row"><a href="{escape(one.page)}.html">'
            f"{escape(one.title)}</a>"
            f"<br><small>{escape(self.about[one.page])}</small></th>"
            f"<td>{one.minutes}</td><td>{one.seconds}</td></tr>"
        )
