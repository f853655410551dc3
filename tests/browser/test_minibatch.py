"""Initialization and BatchNoise in a browser: what is read off, and at the edges."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from drawn import initialized
from figures import BatchNoise, Initialization
from figures.base import Figure
from figures.initialization import LAYERS, SIZES
from playwright.sync_api import Locator, Page, expect

from wnlib import load_cifar10

from . import checks

Show = Callable[[Figure], Page]


@pytest.fixture(scope="module")
def initialization() -> Initialization:
    return initialized()


def layer(page: Page) -> Locator:
    return page.get_by_role("slider", name="Layer", exact=True)


def open_more(page: Page) -> None:
    page.locator("summary", has_text="more").click()


def test_what_is_read_off_is_what_was_measured(show: Show, initialization: Initialization) -> None:
    page = show(initialization)
    page.get_by_role("slider", name="Images in the init").fill("5")
    open_more(page)
    layer(page).fill("4")
    found = initialization.data["after"]["set"][5][4]
    mean, std = np.array(found["mean"]) / 100, np.array(found["std"]) / 100
    assert SIZES[5] == 500
    read = page.locator(".read")
    expect(read).to_contain_text(f"Layer {LAYERS[4]} on 500 other images")
    text = read.inner_text()
    assert f"typically {np.square(mean).mean() ** 0.5:.2f} off" in text
    assert f"between {std.min():.2f} and {std.max():.2f}." in text


def test_a_bar_for_every_unit(show: Show, initialization: Initialization) -> None:
    page = show(initialization)
    units = 3 * 8 + 6 * 16 + 10
    expect(page.locator("rect.unit")).to_have_count(units)
    expect(page.locator("rect.raw")).to_have_count(units)
    page.get_by_label("batch norm", exact=True).check()
    expect(page.locator("rect.raw")).to_have_count(0)  # it needs no initialization
    checks.redrawn(page)
    heights = {bar.get_attribute("height") for bar in page.locator("rect.unit").all()[:40:5]}
    assert len({round(float(h), 3) for h in heights}) == 1
    expect(page.get_by_text("Set by the minibatch: nothing; every").first).to_be_visible()


def test_a_layer_is_chosen_by_a_click(show: Show, initialization: Initialization) -> None:
    page = show(initialization)
    strip = page.locator("svg[role=img]").first
    label = strip.get_by_text("conv3")
    label.click(force=True)
    expect(page.locator(".read")).to_contain_text("Layer conv3 on 500 other images")
    expect(layer(page)).not_to_be_visible()
    open_more(page)
    expect(layer(page)).to_have_value("2")
    box = strip.bounding_box()
    strip.click(position={"x": 1, "y": 40})  # beside the axes
    expect(layer(page)).to_have_value("0")
    strip.click(position={"x": box["width"] - 2, "y": 40})
    expect(layer(page)).to_have_value("9")


@pytest.mark.parametrize("data", [{}, {"after": {}, "sizes": []}])
def test_without_measurements_it_says_so(
    show: Show, initialization: Initialization, data: dict
) -> None:
    figure = Initialization(load_cifar10())
    figure.data = data
    page = show_without_picture(show, figure)
    expect(page.get_by_text("There is nothing to show for this state.")).to_be_visible()


def show_without_picture(show: Show, figure: Figure) -> Page:
    """A state that Python could not draw."""
    figure.picture = Initialization(load_cifar10()).picture
    return show(figure)


def numbers(page: Page) -> dict[str, list[float]]:
    """The table of BatchNoise: n times variance and kurtosis, each with its first order."""
    checks.redrawn(page)
    return {
        row.locator("th").inner_text(): [
            float(text.strip("()"))
            for cell in row.locator("td").all_inner_texts()
            for text in cell.split()
        ]
        for row in page.locator("figure tbody tr").all()
    }


def test_measured_beside_the_first_order(show: Show) -> None:
    page = show(BatchNoise(n=100))
    found = numbers(page)
    variance, told, kurtosis, told_kurtosis = found["noise of batch norm"]
    assert [told, told_kurtosis] == [1.5, 3.7]
    assert variance == pytest.approx(1.5, rel=0.1)
    assert kurtosis == pytest.approx(11 / 3, abs=0.4)
    assert found["noise of mean-only BN"] == pytest.approx([1, 1, 3, 3], abs=0.2)
    page.get_by_label("Laplace").check()
    laplace = numbers(page)
    assert laplace["noise of batch norm"][1:4:2] == pytest.approx([2.25, 7.6], abs=0.11)
    assert laplace["noise of batch norm"][2] > 5
    expect(page.get_by_text("kurtosis 6.0", exact=False).first).to_be_visible()


def test_the_noise_shrinks_on_axes_that_stay(show: Show) -> None:
    page = show(BatchNoise())

    def seen() -> tuple[list[str], float]:
        checks.redrawn(page)
        panel = page.locator("figure svg").first
        return panel.locator("text").all_text_contents()[:-1], panel.evaluate(
            "(svg) => svg.querySelector('path[fill-opacity]').getBBox().width"
        )

    (texts, wide), slider = seen(), page.get_by_label("Minibatch size n")
    slider.press("End")
    later, narrow = seen()
    assert [t for t in later if "k" not in t] == [t for t in texts if "k" not in t]
    assert narrow == pytest.approx(wide / 10, rel=0.1)  # 10 images, then 1,000


def test_drawn_again_it_differs_and_reset_brings_it_back(show: Show) -> None:
    page = show(BatchNoise(n=20))
    first = page.locator("figure svg").nth(1).inner_html()
    page.locator("summary", has_text="more").click()
    page.get_by_role("button", name="Draw again").click()
    expect(page.locator("figure svg").nth(1)).not_to_have_js_property("innerHTML", first)
    page.get_by_role("button", name="Reset").click()
    page.wait_for_function(
        "first => document.querySelector('.wn-figure > div').shadowRoot"
        ".querySelectorAll('svg')[1].innerHTML === first",
        arg=first,
    )


def test_a_layer_is_offered_where_there_is_one(show: Show) -> None:
    torch.manual_seed(0)
    page = show(BatchNoise(torch.rand(500, 3)))  # uniform: kurtosis 9/5
    expect(page.get_by_label("dense layer")).to_be_checked()
    expect(page.locator("caption")).to_contain_text("kurtosis 1.8")
    page = show(BatchNoise())
    expect(page.get_by_label("dense layer")).to_have_count(0)
    figure = BatchNoise()
    figure.source = "layer"  # without its values
    page = show(figure)
    expect(page.locator("caption")).to_contain_text("kurtosis 3.0")


@pytest.mark.parametrize("n", [2, 3, 999, 1000])
def test_smallest_and_largest(show: Show, n: int) -> None:
    page = show(BatchNoise(n=n, source="laplace"))
    found = numbers(page)
    assert all(np.isfinite(values).all() for values in found.values())
    mean = found["noise of mean-only BN"]
    assert mean[0] == pytest.approx(1, abs=0.15)
    assert "NaN" not in page.locator("figure").inner_html()
