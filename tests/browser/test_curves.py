"""FiveCurves in a browser: read off, raced, live, broken."""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from figures import FiveCurves
from figures.base import Figure
from figures.scripts import site_script
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from wnlib import Recipe
from wnlib.lab import Run, load_runs
from wnlib.training import Row

from . import checks

RUNS = Path(__file__).parent.parent.parent / "book" / "runs"
Show = Callable[[Figure], Page]


@pytest.fixture(scope="module")
def report() -> list[Run]:
    return load_runs(RUNS / "report-2019")


def made(norm: str, errors: list[float], state: str = "finished", **changes: object) -> Run:
    recipe = Recipe.paper(norm).replace(**{"epochs": len(errors)} | changes)
    rows = [Row(i, 0.003, 4 * e, math.nan, 3 * e, e, 1.0) for i, e in enumerate(errors, 1)]
    return Run(recipe, rows, state)


def ranking(page: Page) -> list[list[str]]:
    """The table at the cursor."""
    checks.redrawn(page)
    rows = page.locator(".below tbody tr").all()
    return [[cell.strip() for cell in row.locator("td").all_inner_texts()] for row in rows]


def more(page: Page) -> None:
    page.locator("summary", has_text="more").click()


def cursor(page: Page) -> Locator:
    return page.get_by_role("application", name="Cursor")


def test_the_last_epoch_is_read_off_first(show: Show, report: list[Run]) -> None:
    page = show(FiveCurves(report))
    final = {run.norm.label: run.summary() for run in report}
    ranked = sorted(final.items(), key=lambda i: i[1].final_error)
    expected = [
        [
            str(place),
            f"{100 * s.final_error:.2f} %",
            f"{100 * s.best_error:.2f} % ({s.best_epoch})",
            name,
        ]
        for place, (name, s) in enumerate(ranked, 1)
    ]
    assert [row[:2] + row[3:] for row in ranking(page)] == expected
    drawn = "\n".join(page.locator("svg[role=img] text").all_text_contents())
    for name, summary in ranked:  # beside the curves, too
        assert f"{100 * summary.final_error:.2f} %  {name}" in drawn
    # The labels stand at these values, not at the smoothed ones, whose order differs.
    labels = page.locator("svg[role=img] text").filter(has_text=re.compile(r"\d %")).all()
    tops = {label.text_content(): label.bounding_box()["y"] for label in labels}
    assert sorted(tops, key=tops.get) == sorted(tops, reverse=True)
    assert len(tops) == 5


def test_first_come_the_curves_and_two_menus(show: Show, report: list[Run]) -> None:
    figure = FiveCurves({"the report": report, "here": load_runs(RUNS / "width24-paper-20")})
    page = show(figure)
    inputs = page.locator("figure :is(input, select):visible")
    assert [node.get_attribute("data-name") for node in inputs.all()] == ["metric", "whose"]
    box = page.locator("figure svg[role=img]").bounding_box()
    assert box["y"] + box["height"] < 600
    # The region where they differ, not the fall of the first epochs nor the paper's table.
    page.get_by_label("Runs").select_option("the report")
    low, high = page.evaluate(YTICKS)
    assert 16 <= low <= 18
    assert 22 <= high <= 26
    more(page)
    page.get_by_label("whole axis").check()
    assert page.evaluate(YTICKS)[1] >= 30


YTICKS = """async () => {
  await new Promise((next) => requestAnimationFrame(() => requestAnimationFrame(next)));
  const root = document.querySelector(".wn-figure > div").shadowRoot;
  const ticks = [...root.querySelectorAll("svg[role=img] > g > text[text-anchor=end]")];
  const numbers = ticks.map((t) => Number(t.textContent));
  return [Math.min(...numbers), Math.max(...numbers)];
}"""


@pytest.mark.parametrize("width", [360, 390])
def test_on_a_phone_numbers_come_before_names(show: Show, report: list[Run], width: int) -> None:
    page = show(FiveCurves({"the report of 2019": report, "recorded here": report}))
    page.set_viewport_size({"width": width, "height": 800})
    rows = ranking(page)
    assert all(row[1].endswith(" %") and "2019" in row[-1] + "2019" for row in rows)
    edges = page.evaluate(
        """() => {
          const root = document.querySelector(".wn-figure > div").shadowRoot;
          const inside = root.querySelector("figure").getBoundingClientRect().right;
          const cells = [...root.querySelectorAll(".below :is(td, th)")];
          return [inside, Math.max(...cells.map((cell) => cell.getBoundingClientRect().right))];
        }"""
    )
    assert edges[1] <= edges[0]
    assert checks.wider_than_a_phone(page) == []


def test_each_run_is_ranked_at_its_end(show: Show) -> None:
    wild = made("none", [0.5, 0.9, 0.9], "diverged at epoch 3")
    page = show(FiveCurves([made("wn", [0.5, 0.4, 0.3]), made("bn", [0.5, 0.2]), wild]))
    assert [row[:2] + row[3:] for row in ranking(page)] == [
        ["1", "20.00 % (2)", "batch norm"],
        ["2", "30.00 % (3)", "weight norm"],
        ["–", "diverged at epoch 3", "plain"],
    ]
    cursor(page).press("ArrowLeft")
    expect(page.locator(".below thead th").first).to_have_text("at epoch 2")


def test_losses_have_their_digits_below_each_other(show: Show, report: list[Run]) -> None:
    page = show(FiveCurves(report, metric="train_loss"))
    numbers = {cell.split()[0] for row in ranking(page) for cell in row[1:4]}
    assert {len(number.partition(".")[2]) for number in numbers} == {4}


def test_all_values_stand_in_the_table(show: Show, report: list[Run]) -> None:
    page = show(FiveCurves(report, metric="train_loss"))
    more(page)
    page.get_by_text("All values as a table").click()
    rows = page.locator("details tbody tr")
    expect(rows).to_have_count(200)
    cells = page.locator("details tbody td").all_inner_texts()
    recorded = [run.column("train_loss")[epoch] for epoch in range(200) for run in report]
    assert [float(cell) for cell in cells] == pytest.approx(recorded, rel=5e-6)
    assert "Training loss" in page.locator("details caption").inner_text()


def test_the_cursor_moves_by_keyboard_mouse_and_touch(show: Show, report: list[Run]) -> None:
    page = show(FiveCurves(report))
    head = page.locator(".below thead th").first
    cursor(page).focus()
    page.keyboard.press("ArrowLeft")
    expect(head).to_have_text("at epoch 199")
    page.keyboard.press("Shift+ArrowLeft")
    expect(head).to_have_text("at epoch 194")
    page.keyboard.press("Home")
    expect(head).to_have_text("at epoch 1")
    errors = sorted(100 * run.rows[0].test_error for run in report)
    assert [row[1] for row in ranking(page)] == [f"{e:.2f} %" for e in errors]
    expect(page.get_by_role("status")).to_contain_text("Test error at epoch 1, lowest first: 1. ")
    page.keyboard.press("End")
    expect(head).to_have_text("at epoch 200")
    box = page.locator("figure svg[role=img]").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 100)
    checks.redrawn(page)
    middle = int(head.inner_text().removeprefix("at epoch "))
    assert 80 < middle < 160
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + 100)
    expect(head).not_to_have_text(f"at epoch {middle}")


@pytest.fixture
def phone(context: BrowserContext, browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 390, "height": 700}, has_touch=True)
    yield context
    context.close()


def test_a_finger_reads_off_sideways_and_scrolls_upwards(
    phone: BrowserContext, report: list[Run]
) -> None:
    page = phone.new_page()
    page.set_content(f"<!doctype html><main>{FiveCurves(report).html()}<p style='height:2000px'>")
    page.add_script_tag(content=site_script())
    head = page.locator(".below thead th").first
    box = page.locator("figure svg[role=img]").bounding_box()
    x, y = box["x"] + 100, box["y"] + 200
    checks.swipe(page, (x, y), (5, -150))
    page.wait_for_function("scrollY > 50")
    expect(head).to_have_text("at epoch 200")
    page.evaluate("scrollTo(0, 0)")
    checks.swipe(page, (x, y), (60, 3))
    expect(head).not_to_have_text("at epoch 200")
    assert page.evaluate("scrollY") < 50  # what was left of the swipe before
    page.touchscreen.tap(x - 30, y)
    expect(head).to_have_text(re.compile(r"at epoch \d\d$"))
    # Every curve has its name beside it.
    names = page.locator("svg[role=img] text").all_text_contents()
    assert {"plain", "weight norm", "batch norm", "mean-only BN", "WN +"} <= set(names)


def test_what_can_be_switched(show: Show, report: list[Run]) -> None:
    own = load_runs(RUNS / "width24-paper-20")
    page = show(FiveCurves({"the report": report, "recorded here": own}))
    expect(page.locator(".below tbody tr")).to_have_count(10)
    page.get_by_label("Runs").select_option("recorded here")
    expect(page.locator(".below tbody tr")).to_have_count(5)
    more(page)
    page.get_by_label("weight norm", exact=True).uncheck()
    expect(page.locator(".below tbody tr")).to_have_count(4)
    page.get_by_label("Show").select_option("Training error")
    assert {row[1] for row in ranking(page)} == {
        f"{float(f'{100 * r.rows[-1].train_error:.6g}'):g} %" for r in own if r.norm != "wn"
    }
    for norm in ("plain", "batch norm", "mean-only BN", "WN + mean-only BN"):
        page.get_by_label(norm, exact=True).uncheck()
    expect(page.get_by_text("Everything is switched off")).to_be_visible()
    page.get_by_role("button", name="Reset").click()
    expect(page.locator(".below tbody tr")).to_have_count(10)


def test_what_was_not_recorded(show: Show, report: list[Run]) -> None:
    page = show(FiveCurves(report))
    expect(page.locator("option[value=train_error]")).to_be_disabled()
    page = show(FiveCurves(report, metric="test_loss"))
    expect(page.get_by_text("None of these runs has the test loss recorded.")).to_be_visible()
    page = show(FiveCurves([*report, made("bn", [0.5, 0.4])], metric="test_loss"))
    expect(page.get_by_text("Not shown, because the test loss was not")).to_be_visible()


def test_seeds(show: Show) -> None:
    seeds = [made("wn", [0.5 + s, 0.4 + s], seed=int(100 * s)) for s in (0, 0.01, 0.05)]
    page = show(FiveCurves(seeds))
    assert [row[1] for row in ranking(page)] == ["42.00 %"]
    expect(page.locator("svg[role=img] path[fill-opacity]")).to_have_count(1)
    more(page)
    expect(page.locator(".keys")).to_contain_text("lowest to highest of the seeds")


def test_a_diverged_run_says_so_at_its_epoch_and_is_no_rank(show: Show) -> None:
    wild = made("none", [0.5, 0.4, 90, 1e7], "diverged at epoch 4", epochs=10)
    good = made("wn", [2 / (i + 3) for i in range(10)])
    page = show(FiveCurves([wild, good], metric="train_loss", at=4))
    texts = page.locator("svg[role=img] text")
    place = {text.text_content(): text.bounding_box() for text in texts.all()}
    tick, said = place["4"], place["diverged at epoch 4"]
    assert abs(said["x"] - (tick["x"] + tick["width"] / 2) - 10) < 2  # the sign is between
    assert said["y"] < page.locator("svg[role=img]").bounding_box()["y"] + 40
    ys = page.locator("svg[role=img] g[aria-hidden] > text[text-anchor=end]").all_text_contents()
    assert max(float(text) for text in ys if text) <= 4
    assert [row[:2] for row in ranking(page)] == [
        ["1", f"{8 / 6:.4f}"],
        ["–", "diverged at epoch 4"],
    ]


HEATS = {"here": [("wn", [0.5, 0.3, 0.2]), ("bn", [0.4, 0.4, 0.3])], "again": [("bn", [0.5, 0.1])]}


def heats() -> dict[str, list[Run]]:
    return {
        name: [made(n, list(e), seed=i) for n, e in runs]
        for i, (name, runs) in enumerate(HEATS.items())
    }


def test_a_race_by_mouse(show: Show) -> None:
    page = show(FiveCurves(heats(), mode="race", speed=10.0))
    shown = page.locator("figure :is(input, select):visible")
    assert {
        node.get_attribute("name") or node.get_attribute("data-name") for node in shown.all()
    } == {
        "bet",
        "epoch",
    }
    expect(page.locator(".result")).to_have_text("Bet on one of the five, then press Play.")
    expect(page.locator(".below")).to_be_hidden()  # nothing is given away
    page.get_by_role("radio", name="batch norm").check()
    page.get_by_role("button", name="Play").click()
    first = "The winner is weight norm, with 20.00 %."
    expect(page.locator(".result")).to_have_text(
        f"here: Your bet, batch norm, with 30.00 %, comes second. {first}"
    )
    page.get_by_role("button", name="Would your bet win again?").click()
    expect(page.locator(".result")).to_have_text("again: Your bet wins: batch norm, with 10.00 %.")
    page.get_by_role("button", name="Reset").click()
    expect(page.locator(".transport output")).to_have_text("epoch 0 of 3")
    expect(page.get_by_role("radio", name="batch norm")).not_to_be_checked()


def test_a_race_pauses_and_steps_by_keyboard(show: Show) -> None:
    page = show(FiveCurves(heats(), mode="race", speed=0.1))
    page.emulate_media(reduced_motion="reduce")
    where, play = page.locator(".transport output"), page.locator(".play")
    play.press("Enter")
    expect(play).to_have_text("❚❚ Pause")
    play.press("Enter")
    expect(play).to_have_text("▶ Play")
    bar = page.get_by_role("slider", name="Epoch of the race")
    for key, epoch in (("Home", 0), ("ArrowRight", 1), ("End", 3), ("ArrowLeft", 2)):
        bar.press(key)
        expect(where).to_have_text(f"epoch {epoch} of 3")
    assert [row[1:] for row in ranking(page)] == [
        ["30.00 %", "30.00 % (2)", "weight norm"],
        ["40.00 %", "40.00 % (1)", "batch norm"],
    ]
    assert bar.get_attribute("aria-valuetext") == "epoch 2 of 3"


def test_a_race_by_touch(phone: BrowserContext) -> None:
    page = phone.new_page()
    page.set_content(f"<!doctype html><main>{FiveCurves(heats(), mode='race').html()}</main>")
    page.add_script_tag(content=site_script())
    page.locator(".chip", has_text="weight norm").first.tap()
    box = page.locator(".bar").bounding_box()
    y = box["y"] + box["height"] / 2
    checks.swipe(page, (box["x"] + 8, y), (box["width"] * 2 / 3, 2))
    expect(page.locator(".transport output")).to_have_text("epoch 2 of 3")
    page.touchscreen.tap(box["x"] + box["width"] - 3, y)
    expect(page.locator(".result")).to_have_text("here: Your bet wins: weight norm, with 20.00 %.")
    assert checks.wider_than_a_phone(page) == []


def test_without_motion_a_race_goes_by_epochs(context: BrowserContext) -> None:
    page = context.new_page()
    page.emulate_media(reduced_motion="reduce")
    page.set_content(f"<!doctype html><main>{FiveCurves(heats(), mode='play', speed=5.0).html()}")
    page.add_script_tag(content=site_script())
    page.get_by_role("button", name="Play").click()
    seen = page.evaluate(
        """() => new Promise((done) => {
          const root = document.querySelector(".wn-figure > div").shadowRoot, ends = new Set();
          const look = () => {
            const path = root.querySelector("svg[role=img] path[stroke='#2288CC']");
            if (path) ends.add(path.getAttribute("d").split(/[ML]/).at(-1));
            if (root.querySelector(".play").textContent === "▶ Play again") done(ends.size);
            else requestAnimationFrame(look);
          };
          look();
        })"""
    )
    assert seen <= 2 * 3  # an epoch each, and once more where the axis moves


def test_rows_of_the_page_itself_run_along(show: Show) -> None:
    page = show(FiveCurves(heats(), mode="race"))
    page.evaluate(
        """() => {
          const { begin, push, end } = document.querySelector("[data-wn-figure]").wnFigure;
          const row = { source: "my GPU", test_error: 0.5, train_loss: NaN };
          begin({ source: "my GPU", epochs: 9, norms: ["wn", "bn"] });
          for (const epoch of [1, 2]) push({ ...row, norm: "wn", epoch });
          push({ ...row, norm: "bn", epoch: 1 });
          end({ source: "my GPU", norm: "bn", state: "diverged" });
        }"""
    )
    assert [row[:2] + row[-1:] for row in ranking(page)] == [
        ["1", "50.00 % (2)", "weight norm"],
        ["–", "diverged at epoch 1", "batch norm"],
    ]
    ticks = page.locator("svg[role=img] text[text-anchor=middle]").all_text_contents()
    assert "8" in ticks  # the axis is that of the nine epochs to come


PANEL = "(globalThis.wnParts ??= {}).train = { mount: (p) => p.root.append(`at ${p.base}`) };"


def test_what_trains_here_is_asked_for_by_a_press(context: BrowserContext, tmp_path: Path) -> None:
    (tmp_path / "figures.js").write_text(site_script(), encoding="utf-8")
    figure = FiveCurves(heats(), mode="race", train=True)
    script = '<script src="figures.js"></script>'
    (tmp_path / "a.html").write_text(
        f"<!doctype html><meta charset=utf-8>{figure.html()}{script}", encoding="utf-8"
    )
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(Path(request.url).name))
    page.goto((tmp_path / "a.html").as_uri())
    press = page.get_by_role("button", name="Train here")
    press.click()
    expect(page.get_by_text("This could not be loaded: train.js is missing")).to_be_visible()
    assert asked == ["a.html", "figures.js", "train.js"]
    (tmp_path / "train.js").write_text(PANEL)
    press.click()
    expect(page.locator(".panel")).to_have_text(f"at {tmp_path.as_uri()}/")
    expect(press).to_have_count(0)


OPEN = """() => document.querySelector(".wn-figure > div").shadowRoot
  .querySelectorAll("details").forEach((details) => (details.open = true))"""


@pytest.mark.parametrize(
    "runs",
    [
        [],
        [Run(Recipe.paper("wn"))],
        [made("wn", [math.nan] * 3)],
        [made("wn", [0.5])],
        [made("wn", [0.0, 0.0])],
        [made("wn", [0.5, math.nan, 0.4]), made("bn", [0.3])],
    ],
    ids=["none", "no rows", "no numbers", "one epoch", "all zero", "a gap"],
)
def test_little_and_broken(show: Show, runs: list[Run]) -> None:
    page = show(FiveCurves(runs, window=21))
    checks.redrawn(page)
    page.evaluate(OPEN)
    assert page.locator(".message").count() or page.locator(".below tbody tr").count()
    for control in page.locator("figure input").all():
        if control.is_visible() and control.is_enabled():
            control.press("End" if control.get_attribute("type") == "range" else "Space")
    expect(page.get_by_role("button", name="Reset")).to_be_visible()
    checks.redrawn(page)
    assert "could not be drawn" not in page.locator("body").inner_text()


def test_names_are_text(show: Show) -> None:
    name = '<img src=x onerror="document.title=1"></script>' + "W" * 20
    page = show(FiveCurves({name: [made("wn", [0.5, 0.4])], "b": [made("wn", [0.5, 0.3])]}))
    assert name in ranking(page)[1][-1]
    assert page.title() == "t"
    assert checks.wider_than_a_phone(page) == []


LIVE = """async ([code, state]) => {
  const heard = {};
  const model = {
    get: (name) => state[name],
    set: (name, value) => {
      state[name] = value;
      (heard[`change:${name}`] ?? []).forEach((f) => f());
    },
    on: (event, f) => (heard[event] ??= []).push(f),
    off: () => {},
    save_changes: () => {},
  };
  window.model = model;
  const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  const { default: front } = await import(url);
  window.close = front.render({ model, el: document.querySelector("main") });
}"""


def test_rows_appear_while_a_run_trains(show: Show, context: BrowserContext) -> None:
    figure = FiveCurves([])
    page = context.new_page()
    page.set_content("<!doctype html><main></main>")
    page.evaluate(LIVE, [figure._esm, figure.state()])
    expect(page.get_by_text("No runs to show.")).to_be_visible()
    errors = [0.6, 0.5, 0.45, 0.42]
    widths = set()
    for norm in ("wn", "bn"):
        run = made(norm, errors)
        for row in run.rows:
            figure.add(run.recipe, row)
            page.evaluate("data => model.set('data', data)", figure.data)
            uneven = norm == "bn" and row.epoch < 4
            shown = "at its end (epoch)" if uneven else f"at epoch {row.epoch}"
            checks.redrawn(page)
            expect(page.locator(".below thead th").first).to_have_text(shown)
            ticks = page.locator("svg[role=img] text[text-anchor=middle]").all_text_contents()
            widths.add(tuple(ticks[: ticks.index("epoch")]))
    assert [[row[1], row[-1]] for row in ranking(page)] == [
        ["42.00 %", "weight norm"],
        ["42.00 %", "batch norm"],
    ]
    assert len(widths) == 1, "the x-axis jumped"
    page.evaluate("window.close()")
    expect(page.locator("main > *")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible(show: Show, report: list[Run], scheme: str) -> None:
    page = show(FiveCurves(report))
    page.emulate_media(color_scheme=scheme)
    more(page)
    page.get_by_text("All values as a table").click()
    assert checks.accessibility(page) == []
    assert checks.wider_than_a_phone(page) == []
