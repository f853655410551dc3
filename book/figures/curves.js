import { Axes, NORMS, h, s, ticks, widget } from "./base.js";
import { keyOf, paint, swatch } from "./chart.js";
import { png, save, slug, standalone } from "./download.js";
import { METRICS, csvOf, isError, linesOf, seriesOf, timesOf } from "./history.js";
import { allValues, ranking, readAt } from "./readout.js";

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
`;

/** The state in two halves: what the drawing depends on, and the cursor. */
const STATE = ["metric", "by", "log", "whole", "window", "degree", "spread", "references", "hidden_norms", "hidden_sources"];

/** Checkboxes for names, all on but those that the list trait holds. */
function switches(stage, trait, label, parent) {
  const box = h("fieldset", { "data-name": trait });
  stage.bind(trait);
  parent.append(box);
  let before = null;
  return (options) => {
    const names = options.map(([name]) => name).join("\n");
    if (names !== before) {
      before = names;
      const flip = (name, on) => stage.set(trait, [...stage.get(trait).filter((other) => other !== name), ...(on ? [] : [name])]);
      const chips = options.map(([name, ...content]) => {
        const input = h("input", { type: "checkbox", value: name, onchange: (event) => flip(name, event.target.checked) });
        return h("label", { class: "chip" }, input, ...content);
      });
      box.replaceChildren(h("legend", {}, label), ...chips);
      box.style.display = chips.length ? "" : "none";
    }
    for (const input of box.querySelectorAll("input")) input.checked = !stage.get(trait).includes(input.value);
  };
}

/** A menu of whose runs are on: everybody's, or one's. */
function whose(stage) {
  const input = h("select", { "data-name": "whose" });
  const label = h("label", {}, "Runs", input);
  stage.controls.append(label);
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

const unitOf = (seconds) => (seconds > 7200 ? [3600, "hours"] : seconds > 120 ? [60, "minutes"] : [1, "seconds"]);
const roundUp = (end) => {
  const [first, second] = ticks(0, end);
  return Math.ceil(end / (second - first)) * (second - first) || 1;
};

/** What is drawn in the stage's state: the series with their x, the axes' ends, notes; or `why` there is nothing. */
function viewOf(stage, data) {
  const [metric, time, smoothed] = [stage.get("metric"), stage.get("by") === "time", stage.get("window") > 1];
  if (!data.curves?.length) return { why: "No runs to show." };
  const lines = linesOf(data, stage.get("spread") === "each", stage.get("hidden_sources"));
  const on = lines.filter(({ norm }) => !stage.get("hidden_norms").includes(norm));
  if (!on.length) return { why: "Everything is switched off: choose under “more”." };
  const what = `the ${METRICS[metric].toLowerCase()}${time ? " with its times" : ""}`;
  const [series, without] = [[], []];
  for (const line of on) {
    const found = seriesOf(line, metric, stage.get("window"), stage.get("degree"), stage.get("spread"));
    const times = time ? timesOf(line) : {};
    if (found && times) series.push({ ...found, ...times });
    else without.push(line.label);
  }
  if (!series.length) return { why: `None of these runs has ${what} recorded.` };
  const [unit, unitName] = time ? unitOf(Math.max(...series.map(({ times }) => times.at(-1)))) : [1, "epoch"];
  for (const one of series) one.x = (i) => (time ? one.times[i] / unit : i + 1);
  const end = Math.max(...series.map((one) => one.x(one.raw.length - 1)));
  // A run in training has its whole axis from the first epoch on.
  const planned = Math.max(5, ...series.map(({ line }) => (line.done ? 0 : line.epochs)));
  const top = time ? roundUp(end) : Math.max(end, planned);
  const notes = [];
  if (without.length) notes.push(`Not shown, because ${what} was not recorded: ${without.join("; ")}.`);
  const even = series.filter((one) => one.even).map((one) => one.line.label);
  if (even.length) notes.push(`Only the total time was recorded, and is spread evenly over the epochs: ${even.join("; ")}.`);
  const drawn = new Set(series.map(({ line }) => line.norm));
  const tables = metric === "test_error" && stage.get("references") ? ["paper", "report"] : [];
  const errorsOf = (who) => Object.entries(stage.get("data")[who] ?? {}).filter(([norm]) => drawn.has(norm));
  const references = tables.map((who) => ({ who, errors: errorsOf(who) }));
  return {
    series,
    metric,
    time,
    smoothed,
    log: stage.get("log"),
    whole: stage.get("whole"),
    unit,
    unitName,
    end,
    top,
    step: time ? end / 100 : 1,
    references,
    notes,
  };
}

function build(stage) {
  stage.figure.append(h("style", {}, LOOK));
  const metrics = Object.fromEntries(["test_error", "train_loss", "test_loss", "train_error"].map((name) => [name, METRICS[name]]));
  const metric = stage.select("metric", "Show", metrics);
  const menu = whose(stage);
  const parent = h("div", { class: "controls" });
  const norms = switches(stage, "hidden_norms", "Configurations", parent);
  const sources = switches(stage, "hidden_sources", "Recorded by", parent);
  stage.choice("by", "Over", { epoch: "epochs", time: "wall time" }, { parent });
  stage.toggle("whole", "whole axis", { parent });
  stage.toggle("log", "logarithmic", { parent });
  const odd = Array.from({ length: 51 }, (_, i) => (i ? 2 * i + 1 : 0));
  stage.slider("window", "Smoothing window", { values: odd, show: (v) => (v > 1 ? `${v} epochs` : "off"), parent });
  const degree = stage.slider("degree", "Degree", { min: 0, max: 10, show: String, parent });
  const kinds = { range: "lowest to highest", deviation: "± standard deviation", each: "each run" };
  stage.choice("spread", "Several seeds", kinds, { parent });
  stage.toggle("references", "the paper’s and the report’s tables", { parent });
  stage.bind("at");

  let [version, painted, view] = [0, "", null];
  const axes = new Axes(stage, { label: "Training curves" });
  axes.front.setAttribute("data-live", "");
  const cursor = s("line", { stroke: "currentColor", "stroke-opacity": 0.5 });
  const dots = s("g", { "aria-hidden": "true" });
  axes.front.append(cursor, dots);
  const handle = axes.handle("Cursor", (x) => moveTo(x), { radius: 7, step: () => view.step });
  const region = (label, attributes) => h("div", { tabindex: 0, role: "region", "aria-label": label, ...attributes });
  const [keys, notes] = [h("p", { class: "keys" }), h("p", { class: "notes" })];
  const below = region("Values at the cursor", { class: "below scroll" });
  const every = region("All values", { class: "scroll" });
  const fillTable = () => every.replaceChildren(...(details.open && view ? [allValues(view)] : []));
  const details = h("details", { ontoggle: fillTable }, h("summary", {}, "All values as a table"), every);
  const files = h("div", { class: "controls", role: "group", "aria-label": "Download" }, "Download");
  for (const kind of ["csv", "svg", "png"]) stage.button(kind.toUpperCase(), () => keep(kind), { parent: files });
  const more = h("details", { class: "more" }, h("summary", {}, "more"), parent, keys, details, files);
  stage.canvas.after(notes, below, more);
  stage.onreset(() => (details.open = false));
  stage.listen("data", () => {
    version++;
    stage.redraw();
  });

  function moveTo(x) {
    if (!view) return;
    const [least, to] = view.time ? [0, x] : [1, Math.round(x)];
    const at = Math.max(least, Math.min(view.end, to));
    stage.set("at", at >= view.end ? null : at * view.unit);
  }
  for (const event of ["pointermove", "pointerdown"])
    axes.svg.addEventListener(event, ({ clientX, pointerType, buttons }) => {
      if (!view || (pointerType === "touch" && !buttons)) return;
      const pixel = clientX - axes.svg.getBoundingClientRect().left;
      if (pixel >= axes.box.x0 - 8 && pixel <= axes.box.x1 + 8) moveTo(axes.x.invert(pixel));
    });
  handle.node.addEventListener("keydown", (event) => {
    if (!["Home", "End"].includes(event.key) || !view) return;
    event.preventDefault();
    moveTo(event.key === "Home" ? 0 : view.end);
  });

  function redrawAll() {
    const curves = stage.get("data").curves ?? [];
    const runs = curves.flatMap((curve) => curve.runs);
    const present = Object.keys(NORMS).filter((norm) => curves.some((curve) => curve.norm === norm));
    norms(present.map((norm) => [norm, swatch({ norm, variant: 0 }), NORMS[norm].label]));
    const named = [...new Set(runs.map((run) => run.source))];
    menu(named);
    sources(named.length > 2 ? named.map((name) => [name, name]) : []);
    for (const option of metric.options) option.disabled = runs.length > 0 && !runs.some((run) => run[option.value]);
    const several = curves.some(({ runs }) => runs.length > 1);
    parent.querySelector("[data-name=spread]").style.display = several ? "" : "none";
    degree.disabled = stage.get("window") < 2;
    const found = viewOf(stage, stage.get("data"));
    view = found.why ? null : found;
    stage.message(found.why ?? "");
    for (const node of [axes.svg, keys, below, details, files]) node.style.display = view ? "" : "none";
    more.style.display = curves.length ? "" : "none";
    notes.textContent = (found.notes ?? []).join(" ");
    if (!view) return;
    paint(axes, view, stage.width);
    const any = (name) => view.series.some((one) => one[name]);
    const signs = [keyOf("lowest", "lowest epoch"), keyOf("last", "last epoch")];
    if (any("diverged")) signs.push(keyOf("diverged", "diverged"));
    if (view.smoothed) signs.push(h("span", {}, "faint: as recorded"));
    if (any("band")) signs.push(h("span", {}, `band: ${kinds[stage.get("spread")]} of the seeds`));
    keys.replaceChildren(...signs);
    axes.svg.setAttribute("aria-label", `${METRICS[view.metric]} of ${view.series.map(({ line }) => line.label).join("; ")}`);
    fillTable();
  }

  function read() {
    const moved = stage.get("at") != null;
    const at = moved ? Math.max(view.time ? 0 : 1, Math.min(view.end, stage.get("at") / view.unit)) : view.end;
    const uneven = new Set(view.series.map(({ raw }) => raw.length)).size > 1;
    const place = moved || view.time || !uneven ? at : null; // each is ranked at its own end
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

  async function keep(kind) {
    const name = `${slug(stage.get("title"))}.${kind}`;
    if (kind === "csv") return save(name, new Blob([csvOf(view.series.map(({ line }) => line))], { type: "text/csv" }));
    // With labels, however narrow the page is.
    paint(axes, view, 900);
    const text = standalone(axes.svg, stage.get("title"), stage.dark ? "#121212" : "#ffffff");
    paint(axes, view, stage.width);
    save(name, kind === "svg" ? new Blob([text], { type: "image/svg+xml" }) : await png(text));
  }

  return () => {
    const now = JSON.stringify([...STATE.map((name) => stage.get(name)), version, stage.width, stage.dark]);
    if (now !== painted) redrawAll();
    painted = now;
    if (view) read();
    else stage.say(stage.note.textContent);
  };
}

export default widget(build);
