import { Axes, NORMS, h, load, s, widget } from "./base.js";
import { keyOf, paint, swatch } from "./chart.js";
import { METRICS, isError, linesOf, rangeOf, seriesOf } from "./history.js";
import { Live, outcome, upTo } from "./race.js";
import { allValues, ranking, readAt } from "./readout.js";
import { transport } from "./transport.js";

const LOOK = `
.keys, .notes { margin: 0.25rem 0 0; font-size: 0.92em; }
.keys span { display: inline-block; margin-right: 1.1rem; }
.swatch { display: inline-block; max-width: none; vertical-align: middle; overflow: visible; flex: none; }
.chip { padding: 0 0.5rem; overflow-wrap: anywhere; }
fieldset { min-width: 0; }
.below { width: 100%; max-height: none; }
.below th, .scroll td { white-space: nowrap; padding: 0.12em 0.55em; }
.scroll caption { text-align: left; padding: 0.3rem 0; font-weight: 600; }
.below td:last-child { min-width: 6rem; text-align: left; white-space: normal; overflow-wrap: anywhere; }
.below tbody td:last-child { padding-left: calc(0.55em + 34px); text-indent: -34px; } /* a long name goes on beside its line */
.below tr.over { opacity: 0.75; }
.result { margin: 0.25rem 0; font-weight: 600; }
.result:empty { display: none; }
.chip .swatch { width: 22px; }
`;

const SECONDS = 16; // of a race at its usual speed

/** The state in two halves: what the drawing depends on, and the cursor. */
const STATE = ["bet", "metric", "whole", "window", "hidden_norms", "hidden_sources"];

/** Checkboxes for the configurations, all on but those that are hidden. */
function switches(stage, parent) {
  const hidden = () => stage.get("hidden_norms");
  const box = h("fieldset", { "data-name": "hidden_norms" }, h("legend", {}, "Configurations"));
  const chips = Object.entries(NORMS).map(([norm, { label }]) => {
    const flip = () => stage.set("hidden_norms", [...hidden().filter((other) => other !== norm), ...(input.checked ? [] : [norm])]);
    const input = h("input", { type: "checkbox", value: norm, onchange: flip });
    return { norm, input, chip: h("label", { class: "chip" }, input, swatch({ norm, variant: 0 }), label) };
  });
  stage.bind("hidden_norms", () => chips.forEach(({ norm, input }) => (input.checked = !hidden().includes(norm))));
  box.append(...chips.map(({ chip }) => chip));
  parent.append(box);
  return (present) => chips.forEach(({ norm, chip }) => (chip.style.display = present.includes(norm) ? "" : "none"));
}

/** A menu of whose runs are on: everybody's, or one's. */
function whose(stage, parent) {
  const input = h("select", { "data-name": "whose" });
  const label = h("label", {}, "Runs", input);
  stage.bind("hidden_sources");
  parent.append(label);
  let names = [];
  input.addEventListener("change", () => stage.set("hidden_sources", input.value === "all" ? [] : names.filter((_, i) => String(i) !== input.value)));
  return (found) => {
    if (found.join("\n") !== names.join("\n"))
      input.replaceChildren(
        h("option", { value: "all" }, "all"),
        ...found.map((name, i) => h("option", { value: i }, name)),
        h("option", { value: "some", hidden: true }, "some"),
      );
    names = found;
    label.style.display = names.length > 1 ? "" : "none";
    const on = names.map((name, i) => [name, i]).filter(([name]) => !stage.get("hidden_sources").includes(name));
    input.value = on.length === names.length ? "all" : on.length === 1 ? on[0][1] : "some";
  };
}

/** What is drawn in the stage's state: the series with their x, the axes' ends, notes; or `why` there is nothing. */
function viewOf(stage, data) {
  const metric = stage.get("metric");
  if (!data.curves?.length) return { why: "No runs to show." };
  const lines = linesOf(data, stage.get("hidden_sources"));
  const on = lines.filter(({ norm }) => !stage.get("hidden_norms").includes(norm));
  if (!on.length) return { why: "Everything is switched off: choose under “more”." };
  const what = `the ${METRICS[metric].toLowerCase()}`;
  const [series, without] = [[], []];
  for (const line of on) {
    const found = seriesOf(line, metric, stage.get("window"));
    if (found) series.push(found);
    else if (line.done) without.push(line.label);
  }
  if (!series.length) return { why: on.some(({ done }) => !done) ? "Nothing has come in yet." : `None of these runs has ${what} recorded.` };
  const end = Math.max(...series.map(({ raw }) => raw.length));
  // A run in training has its whole axis from the first epoch on.
  const planned = Math.max(5, ...series.map(({ line }) => (line.done ? 0 : line.epochs)));
  return {
    series,
    metric,
    smoothed: series.some((one) => one.smoothed),
    whole: stage.get("whole"),
    open: on.some(({ done }) => !done),
    end,
    top: Math.max(end, planned),
    note: without.length ? `Not shown, because ${what} was not recorded: ${without.join("; ")}.` : "",
  };
}

function build(stage) {
  stage.figure.append(h("style", {}, LOOK));
  const mode = stage.get("mode");
  const parent = h("div", { class: "controls" });
  const bets = mode === "race" ? chips(stage) : () => {};
  const metrics = Object.fromEntries(["test_error", "train_loss", "test_loss", "train_error"].map((name) => [name, METRICS[name]]));
  const calm = mode === "curves" ? {} : { parent };
  const metric = stage.select("metric", "Show", metrics, calm);
  const menu = whose(stage, calm.parent ?? stage.controls);
  const norms = switches(stage, parent);
  if (mode !== "curves") stage.select("speed", "Speed", { 0.5: "half", 1: "usual", 2: "double", 4: "fourfold" }, { parent, number: true });
  stage.toggle("whole", "whole axis", { parent });
  const odd = [null, 0, ...Array.from({ length: 50 }, (_, i) => 2 * i + 3)];
  const windowText = (v) => (v == null ? "by length" : v > 1 ? `${v} epochs` : "off");
  stage.slider("window", "Smoothing window", { values: odd, show: windowText, parent });
  stage.bind("at");

  let [version, painted, view, range, told] = [0, "", null, null, ""];
  const live = new Live();
  const everything = () => ({ ...stage.get("data"), curves: [...(stage.get("data").curves ?? []), ...live.curves] });
  const race =
    mode !== "curves" &&
    transport(stage, {
      name: "epoch",
      label: "Epoch of the race",
      first: 1,
      rate: (end) => (end / SECONDS) * stage.get("speed"),
      words: (epoch, end) => `epoch ${epoch} of ${end}`,
      value: (epoch, end) => (epoch >= end ? null : epoch), // also when more epochs come
      moved: (head) => view && run(head),
    });
  const axes = new Axes(stage, { label: "Training curves" });
  const cursor = s("line", { stroke: "currentColor", "stroke-opacity": 0.5 });
  const dots = s("g", { "aria-hidden": "true" });
  axes.front.append(cursor, dots);
  const handle = axes.handle("Cursor", (x) => moveTo(x), { radius: 7, step: 1 });
  const region = (label, attributes) => h("div", { tabindex: 0, role: "region", "aria-label": label, ...attributes });
  const [keys, notes, result] = [h("p", { class: "keys" }), h("p", { class: "notes" }), h("p", { class: "result" })];
  const below = region("Values at the cursor", { class: "below scroll" });
  const every = region("All values", { class: "scroll" });
  const fillTable = () => every.replaceChildren(...(details.open && view ? [allValues(view)] : []));
  const details = h("details", { ontoggle: fillTable }, h("summary", {}, "All values as a table"), every);
  const more = h("details", { class: "more" }, h("summary", {}, "more"), parent, keys, details);
  const again = h("button", { type: "button", onclick: nextHeat }, "Would your bet win again?");
  const panel = h("div", { class: "panel" });
  stage.canvas.after(notes, result, again, below, panel, more);
  stage.onreset(() => (details.open = false));
  stage.listen("data", renew);
  function renew() {
    version++;
    stage.redraw();
  }

  function moveTo(x) {
    if (!view) return;
    const at = Math.max(1, Math.min(view.end, Math.round(x)));
    stage.set("at", at >= view.end ? null : at);
  }
  followPointer(axes, (x) => moveTo(x));
  handle.node.addEventListener("keydown", (event) => {
    if (!["Home", "End"].includes(event.key) || !view) return;
    event.preventDefault();
    moveTo(event.key === "Home" ? 0 : view.end);
  });

  // Each source is a heat of its own.
  const heats = () => [...new Set(everything().curves.flatMap(({ runs }) => runs.map(({ source }) => source)))];
  const current = () => heats().filter((name) => !stage.get("hidden_sources").includes(name));
  function showHeat(source, epoch) {
    race.stop();
    stage.set("hidden_sources", heats().filter((name) => name !== source));
    stage.set("epoch", epoch);
  }
  function nextHeat() {
    const all = heats();
    showHeat(all[(all.indexOf(current().at(-1)) + 1) % all.length], 1);
    stage.draw();
    race.start();
  }

  function redrawAll() {
    const { curves } = everything();
    const runs = curves.flatMap((curve) => curve.runs);
    const present = Object.keys(NORMS).filter((norm) => curves.some((curve) => curve.norm === norm));
    norms(present);
    bets(present);
    menu(heats());
    for (const option of metric.options) option.disabled = runs.length > 0 && !runs.some((run) => run[option.value]?.some(Number.isFinite));
    const found = viewOf(stage, everything());
    view = found.why ? null : found;
    stage.message(found.why ?? "");
    for (const node of [axes.svg, keys, below, details]) node.style.display = view ? "" : "none";
    for (const node of [result, again, ...(race ? [race.row] : [])]) node.style.display = view && race ? "" : "none";
    more.style.display = curves.length ? "" : "none";
    notes.textContent = found.note ?? "";
    if (!view) return;
    const any = (name) => view.series.some((one) => one[name]);
    const signs = [keyOf("lowest", "lowest epoch"), keyOf("last", "last epoch")];
    if (any("diverged")) signs.push(keyOf("diverged", "diverged"));
    if (view.smoothed) signs.push(h("span", {}, "faint: as recorded"));
    if (any("band")) signs.push(h("span", {}, "band: lowest to highest of the seeds"));
    keys.replaceChildren(...signs);
    range = null;
    fillTable();
  }

  /** Draw the race as it stands after so many epochs. */
  function run(head) {
    const over = head >= view.end;
    const series = over ? view.series : upTo(view.series, head);
    const seen = { ...view, series, all: view.series, head: over ? null : head };
    // The axis follows; of one epoch alone it would be a hair's breadth.
    const wanted = rangeOf(over ? view.series : upTo(view.series, Math.max(head, 3)), view.whole);
    range = range && race.playing && !stage.still ? range.map((v, i) => v + 0.12 * (wanted[i] - v)) : wanted;
    if (!over) seen.range = range;
    paint(axes, seen, stage.width);
    for (const node of [cursor, dots, handle.node]) node.style.display = over ? "" : "none";
    if (over) return read(), finish();
    const at = Math.floor(head + 1e-9);
    below.style.display = at ? "" : "none";
    result.textContent = at || mode === "play" ? "" : stage.get("bet") ? "The bet stands: press Play." : "Bet on one of the five, then press Play.";
    again.style.display = "none";
    const key = JSON.stringify([at, painted]);
    if (key === told) return;
    told = key;
    if (!at) return stage.say(result.textContent);
    const [table, text] = ranking(seen, at, readAt(seen, at), stage.width < 480);
    below.replaceChildren(table);
    axes.svg.setAttribute("aria-label", text);
    if (!race.playing) stage.say(text);
  }

  function finish() {
    told = "";
    below.style.display = "";
    const others = heats().length > current().length && mode === "race" && !view.open;
    again.style.display = others ? "" : "none";
    again.textContent = stage.get("bet") ? "Would your bet win again?" : "Would the winner win again?";
    if (mode === "play") return;
    const uneven = new Set(view.series.map(({ raw }) => raw.length)).size > 1;
    const entries = readAt(view, uneven ? null : view.end);
    const which = heats().length > 1 ? `${current().join(", ")}: ` : "";
    result.textContent = which + outcome(entries, view.metric, stage.get("bet"), view.open);
    stage.say(result.textContent);
  }

  function read() {
    const moved = stage.get("at") != null;
    const at = moved ? Math.max(1, Math.min(view.end, stage.get("at"))) : view.end;
    const uneven = new Set(view.series.map(({ raw }) => raw.length)).size > 1;
    const place = moved || !uneven ? at : null; // each is ranked at its own end
    const entries = readAt(view, place);
    const [table, text] = ranking(view, place, entries, stage.width < 480);
    below.replaceChildren(table);
    const [pixel, { y0, y1 }] = [axes.x(at), axes.box];
    for (const [name, value] of Object.entries({ x1: pixel, x2: pixel, y1, y2: y0 })) cursor.setAttribute(name, value);
    // At the end of the curves the marks of their last epochs stand already.
    const spots = entries
      .filter(({ value }) => moved && value != null)
      .map(({ one, i }) => {
        const [cx, cy] = [axes.x(one.x(i)), axes.y(one.values[i] * (isError(view.metric) ? 100 : 1))];
        return (
          cy >= y1 - 1 && cy <= y0 + 1 && s("circle", { cx, cy, r: 4, fill: NORMS[one.line.norm].color, stroke: "currentColor" })
        );
      });
    dots.replaceChildren(...spots.filter(Boolean));
    handle.put(at, axes.y.invert(y0), `Cursor. ${text}; the arrow keys move it`);
    stage.say(text);
  }

  // What a script of this page may do with the figure: rows of its own (notes/race: begin, push, end, rows).
  const closing = [];
  const api = {
    norms: NORMS,
    stage,
    rows: (source) => live.rows(source),
    onclose: (action) => closing.push(action),
    begin(which) {
      live.begin(which);
      showHeat(which.source, null);
      renew();
    },
    push(row) {
      live.push(row);
      renew();
    },
    end(which) {
      live.end(which);
      renew();
    },
  };
  stage.onclose(() => closing.forEach((action) => action()));
  stage.el.wnFigure = api;
  if (stage.get("train")) offerTraining(stage, panel, api);

  return () => {
    const now = JSON.stringify([...STATE.map((name) => stage.get(name)), version, stage.width, stage.dark]);
    const anew = now !== painted;
    painted = now;
    if (anew) redrawAll();
    if (!view) return stage.say(stage.note.textContent);
    if (race) return run(race.put(view.end, stage.get("epoch")));
    if (anew) paint(axes, view, stage.width);
    axes.svg.setAttribute("aria-label", `${METRICS[view.metric]} of ${view.series.map(({ line }) => line.label).join("; ")}`);
    read();
  };
}

/** The five as chips to bet on. */
function chips(stage) {
  const box = h("fieldset", { "data-name": "bet" }, h("legend", {}, "Your bet"));
  stage.controls.append(box);
  const inputs = {};
  stage.bind("bet", () => Object.values(inputs).forEach((input) => (input.checked = input.value === stage.get("bet"))));
  return (present) => {
    for (const norm of present.length ? present : Object.keys(NORMS)) {
      if (inputs[norm]) continue;
      inputs[norm] = h("input", { type: "radio", name: "bet", value: norm, onchange: () => stage.set("bet", norm) });
      inputs[norm].checked = norm === stage.get("bet");
      box.append(h("label", { class: "chip" }, inputs[norm], swatch({ norm, variant: 0 }), NORMS[norm].label));
    }
  };
}

/** Tell where the pointer is along the x-axis. A finger says so by a tap or by going sideways: else it scrolls the page. */
function followPointer(axes, moved) {
  let from = null;
  const to = ({ clientX }) => {
    const pixel = clientX - axes.svg.getBoundingClientRect().left;
    if (axes.x && pixel >= axes.box.x0 - 8 && pixel <= axes.box.x1 + 8) moved(axes.x.invert(pixel));
  };
  const far = (event, least) => Math.abs(event.clientX - from.x) > Math.max(least, Math.abs(event.clientY - from.y));
  axes.svg.addEventListener("pointerdown", (event) => {
    from = { x: event.clientX, y: event.clientY };
    if (event.pointerType !== "touch") to(event);
  });
  axes.svg.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "touch" || (from && event.buttons && far(event, 10))) to(event);
  });
  axes.svg.addEventListener("pointerup", (event) => {
    if (event.pointerType === "touch" && from && Math.hypot(event.clientX - from.x, event.clientY - from.y) < 10) to(event);
    from = null;
  });
  axes.svg.addEventListener("pointercancel", () => (from = null));
}

/** One button; only a press loads the script of what trains in the page (train.js), which builds the rest. */
function offerTraining(stage, root, api) {
  const said = h("p", { role: "status", class: "notes" });
  const button = h("button", { type: "button", onclick: begin }, "Train here");
  root.before(h("div", { class: "controls" }, button), said);
  async function begin() {
    button.disabled = true;
    said.textContent = "Loading …";
    try {
      const [parts, base] = await load(stage, "train");
      said.textContent = "";
      button.parentNode.remove();
      parts.mount({ ...api, root, base });
    } catch (error) {
      said.textContent = `This could not be loaded: ${error.message}`;
      button.disabled = false;
    }
  }
}

export default widget(build);
