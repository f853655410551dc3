"""Smoothing in a browser: the window is moved, the end bends less with the degree."""

import re
from pathlib import Path

import pytest
from figures import Smoothing
from figures.plots import smooth
from figures.scripts import site_script
from playwright.sync_api import BrowserContext, Page, expect

from wnlib import Recipe
from wnlib.lab import Run, load_runs
from wnlib.lab.records import Row

from . import checks

RUNS = Path(__file__).parent.parent.parent / "book" / "runs"


def shown(context: BrowserContext, figure: Smoothing) -> Page:
    page = context.new_page()
    page.set_content(f"<!doctype html><html lang='en'><title>t</title>{figure.html()}")
    page.add_script_tag(content=site_script())
    expect(page.locator("[data-wn-ready]")).to_have_count(1)
    return page


def test_the_end_bends_less_with_the_degree(context: BrowserContext) -> None:
    report = load_runs(RUNS / "report-2019")
    page = shown(context, Smoothing(report, norm="mobn"))
    read = page.locator(".read")
    inputs = page.locator("figure input:visible")
    assert [node.get_attribute("data-name") for node in inputs.all()] == ["window", "degree"]
    page.locator("summary", has_text="more").click()
    errors = 100 * report[2].column("test_error")
    for degree in (10, 3, 1):
        page.get_by_role("slider", name="Degree").fill(str(degree))
        checks.redrawn(page)
        end = smooth(errors, 51, degree)[-1]
        found = re.match(r"Epoch 200: recorded 22.36 %, smoothed ([\d.]+) %", read.inner_text())
        # In wide windows scipy loses digits above degree 5.
        assert float(found[1]) == pytest.approx(end, abs=0.006 if degree < 6 else 0.1)
    page.get_by_label("batch norm", exact=True).check()
    expect(read).not_to_contain_text("recorded 22.36 %")
    page.get_by_role("application").focus()
    page.keyboard.press("ArrowLeft")
    expect(read).to_contain_text("Epoch 199")
    expect(page.get_by_role("status")).to_contain_text("batch norm. Epoch 199")
    page.get_by_role("button", name="Reset").click()
    expect(read).to_contain_text("Epoch 200: recorded 22.36 %")
    assert checks.wider_than_a_phone(page) == []


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_short_runs(context: BrowserContext, count: int) -> None:
    rows = [Row(i + 1, 0.1, 1.0, 1.0, 1.0, 0.5, 1.0) for i in range(count)]
    page = shown(context, Smoothing([Run(Recipe.paper("wn"), rows)]))
    if count:
        expect(page.locator(".read")).to_contain_text(f"Epoch {count}: recorded 50.00 %")
    else:
        expect(page.get_by_text("No run with the test errors of all its epochs.")).to_be_visible()
