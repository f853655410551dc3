"""Connect-4 and films in a browser: played on the board, played as they were recorded."""

import re
from collections.abc import Callable

import drawn
import numpy as np
import pytest
from figures import Frames
from figures.base import Figure
from figures.frames import Film
from playwright.sync_api import Page, expect

from . import checks

Show = Callable[[Figure], Page]


def stones(page: Page) -> list[int]:
    """How many there are of each color: blue's, orange's."""
    checks.redrawn(page)
    board = page.locator("svg g")
    return [board.locator(f"circle[fill='{c}']").count() for c in ("#2288CC", "#D55E00")]


def answers(page: Page) -> int:
    return page.locator("svg text").filter(has_text="%").count()


@pytest.mark.parametrize("way", ["mouse", "keyboard"])
def test_the_reader_moves_then_sees_what_each_column_led_to(show: Show, way: str) -> None:
    page = show(drawn.connect4())
    blue, orange = stones(page)
    assert answers(page) == 0
    column = page.get_by_role("button", name="Column 2, ")
    if way == "mouse":
        column.click()
    else:
        page.get_by_role("button", name="Column 1, ").focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
    said = page.locator(".canvas p")
    expect(said).to_contain_text("You played column 2: that is a loss, where a win was to be had.")
    expect(said).to_contain_text("it is your turn")
    assert stones(page) == [blue + 1, orange + 1]  # the network has answered
    assert answers(page) == 7
    page.get_by_role("button", name="Take back").click()
    assert stones(page) == [blue, orange]
    assert answers(page) == 0


def test_a_game_ends(show: Show) -> None:
    page = show(drawn.connect4())
    page.get_by_role("button", name="Column 6, ").click()  # the winning one
    said = page.locator(".canvas p")
    expect(said).to_contain_text("that is a win, the best there is")
    for _ in range(20):
        if "your turn" not in said.inner_text():
            break
        page.locator(".column:not([aria-disabled=true])").first.click()
        checks.redrawn(page)
    expect(said).to_have_text(re.compile(r"(four in a line|The board is full)\.$"))
    assert page.locator(".column:not([aria-disabled=true])").count() == 0


def test_a_film_plays_to_its_own_end(show: Show) -> None:
    frames = np.zeros((5, 2, 2), np.uint8)
    films = {
        "long": Film("long", frames, [f"note {k}" for k in range(5)]),
        "short": Film("short", frames[:3], [f"remark {k}" for k in range(3)]),
    }
    figure = Frames(films, ("#000000",), name="Frame", alt="Nothing.", rate=40)
    page = show(figure)
    where, play = page.locator(".transport output"), page.locator(".play")
    expect(where).to_have_text("frame 1 of 5")
    play.click()
    expect(where).to_have_text("frame 5 of 5")
    expect(page.locator(".canvas")).to_contain_text("note 4")
    expect(play).to_have_text("▶ Play again")
    page.get_by_text("short").click()
    expect(where).to_have_text("frame 3 of 3")
    page.get_by_role("slider", name="Frame").press("Home")
    expect(page.locator(".canvas")).to_contain_text("remark 0")
