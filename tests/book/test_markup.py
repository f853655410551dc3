"""What the build adds to a page's HTML."""

import pytest
from docutils import nodes
from docutils.utils import new_document

FORMULA = r'<span class="math notranslate nohighlight">\({}\)</span>'


@pytest.fixture(scope="module")
def markup(beside):
    return beside("markup")


@pytest.fixture(scope="module")
def mend(beside):
    """A page's body after book/markup.py has been at it."""

    def mended(body):
        context = {"body": body}
        beside("markup").mend(None, "page", "page.html", context, None)
        return context["body"]

    return mended


def test_a_formula_and_the_signs_at_it_stay_on_one_line(mend):
    g, b = FORMULA.format("g"), FORMULA.format("b")
    assert mend(f"set {g}, then ({b}).") == (
        f'set <span class="wn-unbroken">{g},</span> then <span class="wn-unbroken">({b}).</span>'
    )
    assert mend(f"where {g} is") == f"where {g} is"


def test_a_display_equation_is_left_alone(mend):
    body = '<div class="math notranslate nohighlight">\n\\[g = 1.\\]</div>'
    assert mend(body) == body


def cell(code, shown="", mode="input"):
    """A code cell as MyST-NB has it on the page."""
    block = nodes.literal_block("", code)
    parts = [nodes.container("", block, nb_element="cell_code_source")]
    if shown:
        output = nodes.raw("", shown, format="html")
        parts.append(nodes.container("", output, nb_element="cell_code_output"))
    return nodes.container("", *parts, hide_mode=mode, cell_metadata={"tags": []})


def test_folded_code_has_one_bar_below_what_it_shows(markup):
    """Without imports, which stand in the notebook; code that shows nothing goes to the next."""
    page = new_document("page")
    page += [
        cell("import math\nfrom sys import (\n    path,\n)"),
        cell("x = 1"),
        cell("import re\n\n# the check against autograd.\ny = x", "<table>"),
        nodes.paragraph("", "Text."),
        cell("from figures import Rates"),
        nodes.paragraph("", "Text."),
        cell("x", "<img>", mode="all"),
        cell("z = 1\nimport os"),
    ]
    markup.FoldedCode(page).run()
    first, _, empty, _, whole, alone = page.children
    output, bar = first
    assert output.astext() == "<table>"
    assert bar["text"] == "code: the check against autograd"
    code = [block.astext() for block in bar.findall(nodes.literal_block)]
    assert code == ["x = 1", "# the check against autograd.\ny = x"]
    assert not empty.children
    assert not list(whole.findall(markup.Bar)), "what is folded whole has MyST-NB's own bar"
    assert alone[0]["text"] == "code"


def test_a_bar_without_a_comment_says_what_is_shown(markup):
    assert markup.purpose("x", html="<table>") == "code: the table"
    assert markup.purpose("x", html="<img") == "code: the figure"
    why = "# Not compared: it differs."
    assert markup.purpose(why) == "code: Not compared: it differs"
    assert markup.purpose(why, ["nbval-ignore-output"]) == "code"
