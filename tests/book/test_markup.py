"""What the build adds to a page's HTML."""

import pytest

FORMULA = r'<span class="math notranslate nohighlight">\({}\)</span>'


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
