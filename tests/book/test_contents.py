"""The first page's map of the chapters: all of them, with what they say of themselves."""

import json
import re
from pathlib import Path

import pytest
from execute import pages

BOOK = Path(__file__).parent.parent.parent / "book"


@pytest.fixture(scope="module")
def contents(beside):
    """book/contents.py, as the first page imports it."""
    return beside("contents")


def notebook(folder, text, code="x = 1\n"):
    cells = [
        {"cell_type": "markdown", "source": [text]},
        {"cell_type": "code", "source": [code]},
    ]
    (folder / "a.ipynb").write_text(json.dumps({"cells": cells}))


def test_every_chapter_is_on_the_first_page():
    book = json.loads((BOOK / "intro.ipynb").read_text())
    html = "".join(
        "".join(output["data"]["text/html"])
        for cell in book["cells"]
        for output in cell.get("outputs", [])
        if "wn-contents" in "".join(output["data"]["text/html"])
    )
    linked = re.findall(r'<a href="([\w-]+)\.html">', html)
    chapters = [p.removeprefix("book/") for p in pages() if re.match(r"book/\d", p)]
    assert linked == [*chapters, "claims"]


def test_a_chapter_says_it_itself(contents, tmp_path):
    text = "# A title: of words\n\n**Running time:** at most 45 seconds on two.\n"
    notebook(tmp_path, text + "word " * 1000, "x = 1\n\n" * 100)  # 5 minutes and 5
    one = contents.chapter("a", tmp_path)
    assert (one.title, one.seconds, one.minutes) == ("A title: of words", 45, 10)
    notebook(tmp_path, text + "word " * 1000 + "\n## Exercises\n" + "word " * 9000)
    assert contents.chapter("a", tmp_path).minutes == 5
    for missing in ("# A title", "**Running time:** at most 45 seconds"):
        notebook(tmp_path, missing)
        with pytest.raises(AssertionError, match=r"a (has|does not say)"):
            contents.chapter("a", tmp_path)


def test_the_main_path_of_a_chapter_takes_half_an_hour_at_most(contents):
    chapters = [p.removeprefix("book/") for p in pages() if re.match(r"book/\d", p)]
    minutes = {name: contents.chapter(name).minutes for name in chapters}
    assert {name: m for name, m in minutes.items() if not 5 <= m <= 25} == {}
    assert sum(minutes.values()) <= 240


def test_titles_are_text(contents):
    one = contents.Chapter("02-a", "<b>&", 5, 30)
    html = contents.Contents([one], {"02-a": "<i>"})._repr_html_()
    assert "<td>2</td>" in html
    assert "&lt;b&gt;&amp;" in html
    assert "&lt;i&gt;" in html
