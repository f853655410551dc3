"""What holds for every figure: each control works by keyboard and by mouse, and can be reset."""

from .figure_page import Control, Shown, by_keyboard, by_mouse, changed, controls, drawn, locate


def test_every_control_is_a_stop_of_the_tab_key(light: Shown) -> None:
    page = light.page
    expected = page.evaluate(
        """() => {
          window.stops = wn.roots().flatMap((r) => wn.controls(r).filter(wn.stop));
          return stops.map(wn.name);
        }"""
    )
    assert len(expected) >= 4
    visited, outlined = [], []
    for _ in range(len(expected) + 10):
        page.keyboard.press("Tab")
        at, focus = page.evaluate(
            """() => {
              const style = getComputedStyle(wn.active());
              const width = style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth);
              return [stops.indexOf(wn.active()), width];
            }"""
        )
        if at >= 0:
            visited.append(at)
            outlined.append(focus >= 2)
        if at == len(expected) - 1:
            break
    assert [expected[i] for i in visited] == expected
    assert visited == list(range(len(expected)))
    assert all(outlined)
    page.evaluate("() => wn.active().blur()")


def test_every_control_works_by_keyboard(light: Shown) -> None:
    found, groups = [], set()
    for control in light.operable():
        if not control.usable or control.name == "Reset":
            continue
        if control.kind != "radio":
            if not by_keyboard(light.page, control):
                found.append(f"{control}: nothing changes")
        elif control.group not in groups:
            groups.add(control.group)
            found += radios_by_keyboard(light, control)
        if drawn(light.page)[1] != light.first[1]:
            found.append(f"{control} changes the other figure")
        found += [f"{control}, then Reset: {line}" for line in light.reset()]
    assert found == []


def radios_by_keyboard(light: Shown, control: Control) -> list[str]:
    """Once around the group."""
    group = [c for c in light.operable() if c.usable and c.group == control.group]
    checked = [c for c in group if locate(light.page, c).is_checked()]
    assert len(checked) == 1
    start = group.index(checked[0])
    found = []
    for i in range(len(group)):
        now = group[(start + i) % len(group)]
        if not by_keyboard(light.page, now):
            found.append(f"{now}: nothing changes to the next")
    return found


def test_every_control_works_by_mouse(light: Shown) -> None:
    found = []
    for control in light.operable():
        if not control.usable or control.name == "Reset":
            continue
        if control.kind == "radio" and locate(light.page, control).is_checked():
            continue
        if not by_mouse(light.page, control):
            found.append(f"{control}: nothing changes")
        found += [f"{control}, then Reset: {line}" for line in light.reset()]
    assert found == []


QUICK = """async ([index, pause]) => {
  const node = wn.controls(wn.roots()[0])[index];
  for (const key of ["ArrowLeft", "ArrowUp", "ArrowLeft", "ArrowUp"]) {
    node.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    if (pause) await wn.frame();
  }
  return (await wn.drawn())[0];
}"""


def test_no_key_is_lost_between_two_frames(light: Shown) -> None:
    for handle in [c for c in light.operable() if c.kind == "handle"]:
        slow, quick = [], []
        for seen, pause in ((slow, True), (quick, False)):
            seen.append(light.page.evaluate(QUICK, [handle.index, pause]))
            assert light.reset() == []
        assert slow == quick != [light.first[0]], handle


def test_what_is_disabled_can_be_enabled(light: Shown) -> None:
    """Some other control brings each to life; then it works."""
    found = []
    for sleeping in [c for c in light.operable() if c.shown and not c.usable]:
        for other in [c for c in light.operable() if c.usable and c.name != "Reset"]:
            if other.kind not in {"radio", "checkbox", "range", "button", "rect"}:
                continue
            by_keyboard(light.page, other)
            awake = controls(light.page)[sleeping.index]
            if awake.usable and awake.name == sleeping.name:
                break
            light.reset()
        else:
            found.append(f"{sleeping}: nothing enables it")
            continue
        if not by_keyboard(light.page, awake):
            found.append(f"{awake}: nothing changes once it is enabled")
        found += [f"{awake}, then Reset: {line}" for line in light.reset()]
    assert found == []


def test_reset_by_keyboard_and_mouse_stops_everything(light: Shown) -> None:
    page = light.page
    reset = page.locator("[data-wn-figure]").first.get_by_role("button", name="Reset")
    for button in [c for c in light.operable() if c.kind == "button" and c.usable]:
        for press in (lambda: reset.press("Enter"), reset.click):
            if button.name != "Reset":
                locate(page, button).click()
            press()
            assert drawn(page) == light.first, button
            assert not changed(page, light.first[0], frames=40), button
