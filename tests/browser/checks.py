"""What a page may not do to its reader. Each check returns its findings, one line each."""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

AXE = Axe().axe_script
PHONE = {"width": 360, "height": 740}

# Contrast is looked up text by text, which takes seconds on a long page. It depends on the colors
# and sizes of a text and of all that it stands in, so each set of these is looked at once.
RUN_AXE = """
async (colorsOnly) => {
  const seen = new Set(), marked = [];
  const visit = (element, around) => {
    if (element.localName === "mjx-container") return;
    if (!element.checkVisibility({ visibilityProperty: true })) return;
    const s = getComputedStyle(element);
    const drawn = [s.color, s.fill, s.backgroundColor, s.backgroundImage, s.opacity, s.textShadow];
    const look = `${around}>${drawn} ${s.fontSize} ${s.fontWeight}`;
    const texts = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (texts && !seen.has(look)) {
      seen.add(look);
      marked.push(element);
    }
    for (const child of element.shadowRoot?.children ?? []) visit(child, look);
    for (const child of element.children) visit(child, look);
  };
  visit(document.body, "");

  const rules = [
    { id: "color-contrast", selector: "[data-look]" },
    { id: "link-in-text-block", selector: "a[data-look]" },
  ];
  axe.configure({ rules });
  const options = { resultTypes: ["violations"], preload: false };
  if (colorsOnly) options.runOnly = rules.map((rule) => rule.id);
  marked.forEach((element) => element.setAttribute("data-look", ""));
  const { violations } = await axe.run(document, options);
  marked.forEach((element) => element.removeAttribute("data-look"));
  return violations;
}"""


# A color on its way from one theme to the other is nobody's choice, nor is a menu's place while
# it slides away.
FINISH_TRANSITIONS = (
    "() => document.getAnimations().forEach((a) => a.transitionProperty && a.finish())"
)


def redrawn(page: Page) -> None:
    """Wait for all that was asked for by now: a figure draws anew with the next frame."""
    page.evaluate(
        "() => new Promise((next) => requestAnimationFrame(() => requestAnimationFrame(next)))"
    )


def swipe(page: Page, start: tuple[float, float], by: tuple[float, float]) -> None:
    """A finger, as the browser itself handles it: it may scroll instead."""
    session = page.context.new_cdp_session(page)
    (x, y), (dx, dy) = start, by
    touch = "Input.dispatchTouchEvent"
    session.send(touch, {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    for k in range(1, 9):
        at = {"x": x + dx * k / 8, "y": y + dy * k / 8}
        session.send(touch, {"type": "touchMove", "touchPoints": [at]})
    session.send(touch, {"type": "touchEnd", "touchPoints": []})
    redrawn(page)


def accessibility(page: Page, *, colors_only: bool = False) -> list[str]:
    """What axe-core calls serious or critical; only its look at colors, if so wished."""
    page.evaluate(FINISH_TRANSITIONS)
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(AXE)
    violations = page.evaluate(RUN_AXE, colors_only)
    return [
        f"{found['id']} ({found['impact']}): {node['target'][0]}: {why(node)}"
        for found in violations
        if found["impact"] in {"serious", "critical"}
        for node in found["nodes"]
    ]


def why(node: dict) -> str:
    failed = [*node["any"], *node["all"], *node["none"]]
    return failed[0]["message"] if failed else node["html"]


def wider_than_a_phone(page: Page) -> list[str]:
    """What reaches over the right edge of a screen of 360 px and makes it scroll sideways."""
    before = page.viewport_size
    page.set_viewport_size(PHONE)
    redrawn(page)  # the sidebar's transition begins with the next frame
    page.evaluate(FINISH_TRANSITIONS)
    found = page.evaluate(
        """() => {
          const width = document.documentElement.clientWidth;
          const scrolls = Math.max(document.documentElement.scrollWidth, document.body.scrollWidth);
          if (scrolls <= width) return [];
          const inner = (element) => {
            for (let e = element.parentElement; e; e = e.parentElement)
              if (e !== document.body && getComputedStyle(e).overflowX !== "visible") return true;
            return getComputedStyle(element).position === "fixed";
          };
          const wide = [...document.querySelectorAll("body *")].filter(
            (e) => e.getBoundingClientRect().right > width + 1 && !inner(e));
          const named = wide.slice(0, 5).map((e) => e.outerHTML.slice(0, 120));
          return [`the page is ${scrolls} px wide`, ...named];
        }"""
    )
    page.set_viewport_size(before)
    return found


def images(page: Page) -> list[str]:
    """Images without alternative text, and images that did not load."""
    return page.evaluate(
        """() => [...document.images].flatMap((image) => {
          const name = image.outerHTML.slice(0, 100);
          return [
            ...(image.alt.trim() ? [] : [`no alternative text: ${name}`]),
            ...(image.complete && !image.naturalWidth ? [`not drawn: ${name}`] : []),
          ];
        })"""
    )


def focus(page: Page) -> list[str]:
    """What can be reached by keyboard but shows no outline, or is not to be seen."""
    page.keyboard.press("Tab")  # whoever uses the keyboard sees the focus, from here on
    found = page.evaluate(
        """() => {
          const all = "a[href], button, input, select, textarea, summary, [tabindex]";
          const found = [];
          for (const element of document.querySelectorAll(all)) {
            if (element.tabIndex < 0 || element.disabled || !element.checkVisibility()) continue;
            element.focus({ preventScroll: true });
            if (document.activeElement !== element) continue;
            const style = getComputedStyle(element);
            const name = element.outerHTML.replace(/\\s+/g, " ").slice(0, 100);
            const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
            if (!outlined) found.push(`focus without an outline: ${name}`);
            const box = element.getBoundingClientRect();
            if (!(box.width > 1 && box.height > 1)) found.push(`focus nowhere to be seen: ${name}`);
          }
          document.activeElement.blur();
          return found;
        }"""
    )
    return found


def shown_images(page: Page) -> list[str]:
    """The pictures of the text that can be seen now, by their sources."""
    return page.evaluate(
        """() => [...document.querySelectorAll("main img")]
          .filter((image) => image.checkVisibility())
          .map((image) => image.getAttribute("src"))"""
    )


def switch_theme(page: Page) -> None:
    """Press the theme's switch; what shows then shows at once, in the same task."""
    page.evaluate(
        """() => [...document.querySelectorAll("button.theme-switch-button")]
          .find((button) => button.checkVisibility()).click()"""
    )
