import { Axes, NORMS, format, h, s, ticks, widget } from "./base.js";
import { png, save, slug, standalone } from "./download.js";
import { METRICS, apart, csvOf, isError, linesOf, rangeOf, ranks, seriesOf, shown, thin, timesOf } from "./history.js";

const LOOK = `
.keys, .notes { margin: 0.25rem 0 0; font-size: 0.92em; }
.keys span { margin-right: 1.1rem; white-space: nowrap; }
.swatch { display: inline-block; max-width: none; vertical-align: middle; overflow: visible; flex: none; }
.chip { padding: 0 0.5rem; overflow-wrap: anywhere; }
fieldset { min-width: 0; }
.below { width: 100%; max-height: none; }
.below th, .below td { white-space: nowrap; padding: 0.12em 0.55em; }
.below caption { text-align: left; padding: 0.3rem 0; font-weight: 600; }
.below td:nth-child(2) { text-align: left; }
.below tr.over { opacity: 0.75; }
details { width: 100%; }
summary { cursor: pointer; min-height: 32px; padding: 0.3rem 0; }
`;

// Curves of one configuration share its colour and dashes; from the second on they carry marks of their own.
const VARIANTS = [
  "",
  "M-3.5 -3.5H3.5V3.5H-3.5Z",
  "M0 -4.5L4.5 0L0 4.5L-4.5 0Z",
  "M0 -4.5L4.2 3.5H-4.2Z",
  "M-4.5 0H4.5M0 -4.5V4.5",
];
const BEST = "M-5 -8H5L0 0Z";
const FINAL = "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0 -4 0Z";
const CROSS = "M-5 -5L5 5M-5 5L5 -5";

const mark = (d, x, y, attributes) => s("path", { d, transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`, ...attributes });
const shape = (line) => VARIANTS[line.variant % VARIANTS.length];
const stroke = (line) => ({ stroke: NORMS[line.norm].colour, "stroke-dasharray": NORMS[line.norm].dash });

function sample(line, width = 30) {
  const strip = s("path", { d: `M0 0H${width}`, fill: "none", "stroke-width": 2, ...stroke(line) });
  const sign = mark(shape(line), width / 2, 0, { fill: "none", stroke: NORMS[line.norm].colour, "stroke-width": 1.5 });
  return s("g", {}, strip, sign);
}

const swatch = (line) => s("svg", { class: "swatch", width: 30, height: 12, viewBox: "0 -6 30 12", "aria-hidden": "true" }, sample(line));
const key = (d, text) =>
  h("span", {}, s("svg", { class: "swatch", width: 12, height: 14, viewBox: "-6 -9 12 14", "aria-hidden": "true" }, mark(d, 0, d === BEST ? 2 : -1, { fill: d === CROSS ? "none" : "currentColor", stroke: "currentColor", "stroke-width": 1.5 })), ` ${text}`);

const roundUp = (end) => {
  const [first, second] = ticks(0, end);
  return Math.ceil(end / (second - first)) * (second - first) || 1;
};

let brush = null;
function textWidth(text, family) {
  brush ??= h("canvas").getContext("2d");
  brush.font = `12px ${family}`;
  return brush.measureText(text).width;
}

/** Checkboxes for names, all on but those that the list trait holds. */
function switches(stage, trait, label) {
  const box = h("fieldset", { "data-name": trait });
  stage.bind(trait);
  stage.controls.append(box);
  let before = null;
  return (options) => {
    const names = options.map(([name]) => name);
    if (names.join("\n") !== before) {
      before = names.join("\n");
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

function build(stage) {
  stage.figure.append(h("style", {}, LOOK));
  stage.choice("metric", "Show", METRICS);
  const norms = switches(stage, "hidden_norms", "Configurations");
  const sources = switches(stage, "hidden_sources", "Recorded by");
  const parent = h("div", { class: "controls" });
  stage.choice("by", "Over", { epoch: "epochs", time: "wall time" }, { parent });
  stage.toggle("log", "logarithmic", { parent });
  const odd = Array.from({ length: 51 }, (_, i) => (i ? 2 * i + 1 : 0));
  stage.slider("window", "Smoothing window", { values: odd, show: (v) => (v > 1 ? `${v} epochs` : "off"), parent });
  const degree = stage.slider("degree", "Degree", { min: 0, max: 10, show: String, parent });
  stage.choice("spread", "Several seeds", { range: "lowest to highest", deviation: "± standard deviation", each: "each run" }, { parent });
  stage.toggle("references", "the paper’s and the report’s tables", { parent });
  stage.bind("at");

  const axes = new Axes(stage, { label: "Training curves" });
  axes.front.setAttribute("data-live", "");
  const cursor = s("line", { stroke: "currentColor", "stroke-opacity": 0.5 });
  const dots = s("g", { "aria-hidden": "true" });
  axes.front.append(cursor, dots);
  const handle = axes.handle("Cursor", (x) => moveTo(x), { radius: 7, step: () => view.step });
  const [keys, notes, below] = [h("p", { class: "keys" }), h("p", { class: "notes" }), h("div", { class: "below scroll", tabindex: 0, role: "region", "aria-label": "Values at the cursor" })];
  const every = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "All values" });
  const details = h("details", { ontoggle: () => fillTable() }, h("summary", {}, "All values as a table"), every);
  const files = h("div", { class: "controls", role: "group", "aria-label": "Download" }, "Download");
  stage.canvas.after(keys, parent, notes, below, details, files);
  stage.onreset(() => (details.open = false));
  let [version, painted, view] = [0, "", null];
  stage.listen("data", () => {
    version++;
    stage.redraw();
  });

  function moveTo(x) {
    if (!view) return;
    const to = view.time ? x : Math.round(x);
    const at = Math.max(view.time ? 0 : 1, Math.min(view.end, to));
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

  /** What is to be drawn in this state: all series with their x, units and ranges, or why there is nothing. */
  function look() {
    const [metric, time] = [stage.get("metric"), stage.get("by") === "time"];
    const all = linesOf(stage.get("data"), stage.get("spread") === "each");
    norms(Object.keys(NORMS).filter((norm) => all.some((line) => line.norm === norm)).map((norm) => [norm, swatch({ norm, variant: 0 }), NORMS[norm].label]));
    const named = [...new Set(all.map((line) => line.source))];
    sources(named.length > 1 ? named.map((name) => [name, name]) : []);
    for (const input of stage.controls.querySelectorAll("[data-name=metric] input"))
      input.disabled = all.length > 0 && !all.some(({ runs }) => runs.some((run) => run[input.value]));
    const on = all.filter((line) => !stage.get("hidden_norms").includes(line.norm) && !stage.get("hidden_sources").includes(line.source));
    if (!all.length) return { why: "No runs to show." };
    if (!on.length) return { why: "Everything is switched off: choose a configuration above." };
    const [series, without] = [[], []];
    for (const line of on) {
      const found = seriesOf(line, metric, stage.get("window"), stage.get("degree"), stage.get("spread"));
      const times = time ? timesOf(line) : null;
      if (found && (times || !time)) series.push({ ...found, ...times });
      else without.push(line.label);
    }
    const what = found(metric, time);
    if (!series.length) return { why: `None of these runs has ${what} recorded.` };
    const seconds = Math.max(...series.map(({ times }) => times?.at(-1) ?? 0));
    const [unit, unitName] = !time ? [1, "epoch"] : seconds > 7200 ? [3600, "hours"] : seconds > 120 ? [60, "minutes"] : [1, "seconds"];
    for (const one of series) one.x = (i) => (time ? one.times[i] / unit : i + 1);
    const end = Math.max(...series.map((one) => one.x(one.raw.length - 1)));
    // A run in training has its whole axis from the first epoch on.
    const planned = time ? 0 : Math.max(...series.map(({ line }) => (line.done ? 0 : line.epochs)));
    const notes = [];
    if (without.length) notes.push(`Not shown, because ${what} was not recorded: ${without.join("; ")}.`);
    const even = series.filter((one) => one.even).map((one) => one.line.label);
    if (even.length) notes.push(`Only the total time was recorded, and is spread evenly over the epochs: ${even.join("; ")}.`);
    return { series, metric, time, unit, unitName, end, top: time ? roundUp(end) : Math.max(end, planned, 5), step: time ? end / 100 : 1, notes };
  }
  const found = (metric, time) => (time ? `the ${METRICS[metric].toLowerCase()} with its times` : `the ${METRICS[metric].toLowerCase()}`);

  function paint(width) {
    const { series, metric, time, unitName, top } = view;
    const [log, scale] = [stage.get("log"), isError(metric) ? 100 : 1];
    const wide = width >= 600;
    const name = ({ label }) => (label.length > 36 ? `${label.slice(0, 35)}…` : label);
    axes.margin.right = wide ? 56 + Math.max(...series.map(({ line }) => textWidth(name(line), getComputedStyle(axes.svg).fontFamily))) : 14;
    const tables = metric === "test_error" && stage.get("references") ? ["paper", "report"].map((who) => [who, stage.get("data")[who] ?? {}]) : [];
    const drawn = new Set(series.map(({ line }) => line.norm));
    const references = tables.map(([who, errors]) => [who, Object.entries(errors).filter(([norm]) => drawn.has(norm))]);
    const y = rangeOf(series, references.flatMap(([, errors]) => errors.map(([, error]) => error)), log);
    axes.frame({ x: [0, top], y: y.map((v) => v * scale), yLog: log, width, height: wide ? 380 : 300, xLabel: time ? `wall time (${unitName})` : "epoch", yLabel: METRICS[metric].toLowerCase() + (scale > 1 ? " (%)" : " (nats)") });
    const { x0, x1, y0, y1 } = axes.box;
    const height = (v) => Math.max(y1 + 1, Math.min(y0 - 1, axes.y(v * scale)));
    const points = (one, column) => thin(column.map((v, i) => [one.x(i), v == null || (log && v <= 0) ? null : v * scale]), axes.x);

    for (const [who, errors] of references) {
      for (const [norm, error] of errors) axes.line([[0, 100 * error], [top, 100 * error]], { stroke: NORMS[norm].colour, "stroke-dasharray": "2 3", "stroke-width": 1 });
      if (errors.length) axes.text(0, 0, `the ${who}’s table`, { x: x0 + 6, y: Math.min(height(Math.min(...errors.map(([, error]) => error))) + 13, y0 - 4) });
    }
    for (const one of series) {
      if (!one.band) continue;
      const [low, high] = one.band.map((column) => points(one, column).filter(([, v]) => v !== null));
      axes.line([...high, ...low.reverse()], { fill: NORMS[one.line.norm].colour, "fill-opacity": 0.16, stroke: "none" });
    }
    if (stage.get("window") > 1)
      for (const one of series) axes.line(points(one, one.raw), { stroke: NORMS[one.line.norm].colour, "stroke-opacity": 0.28, "stroke-width": 1 });
    const ends = [];
    for (const one of series) {
      const [line, colour] = [one.line, NORMS[one.line.norm].colour];
      const at = points(one, one.values);
      axes.line(at, { ...stroke(line), "stroke-width": line.variant ? 1.5 : 2 });
      if (shape(line))
        for (let pixel = x0 + 24 + 9 * line.variant; pixel < x1; pixel += 70) {
          const near = at.find(([x]) => axes.x(x) >= pixel);
          if (near?.[1] != null) axes.marks.append(mark(shape(line), axes.x(near[0]), axes.y(near[1]), { fill: "none", stroke: colour, "stroke-width": 1.5 }));
        }
      let out = one.last;
      if (one.diverged) while (out > 0 && !(scale * one.values[out - 1] <= axes.y.invert(y1))) out--;
      const [x, value] = [axes.x(one.x(out)), one.values[out]];
      axes.marks.append(mark(BEST, axes.x(one.x(one.best)), height(one.raw[one.best]), { fill: colour }));
      axes.marks.append(mark(one.diverged ? CROSS : FINAL, x, one.diverged ? Math.max(y1 + 7, height(value)) : height(value), { fill: one.diverged ? "none" : colour, stroke: colour, "stroke-width": 2 }));
      ends.push({ one, x, y: height(value) });
    }
    const gone = ends.filter(({ one }) => one.diverged);
    apart(gone.map(({ y }) => y + 4), 14, y1 + 12, y0 - 4).forEach((at, i) => {
      const [{ x, one }, late] = [gone[i], gone[i].x > (x0 + x1) / 2];
      axes.marks.append(s("text", { x: x + (late ? -10 : 10), y: at, "text-anchor": late ? "end" : "start" }, `${wide ? "" : `${name(one.line)} `}${one.diverged}`));
    });
    if (wide)
      apart(ends.map(({ y }) => y), 15, y1 + 4, y0 - 4).forEach((at, i) => {
        const { one, x, y } = ends[i];
        const colour = NORMS[one.line.norm].colour;
        const lead = Math.abs(x - x1) < 12 ? s("path", { d: `M${x + 6} ${y}L${x1 + 14} ${at}`, stroke: colour, "stroke-opacity": 0.5, fill: "none" }) : "";
        const strip = sample(one.line);
        strip.setAttribute("transform", `translate(${x1 + 16} ${at})`);
        axes.scaffold.append(...[lead, strip, s("text", { x: x1 + 51, y: at + 4 }, name(one.line))].filter(Boolean));
      });
  }

  function read() {
    const { series, metric, time, unit, unitName, end } = view;
    const at = stage.get("at") == null ? end : Math.max(time ? 0 : 1, Math.min(end, stage.get("at") / unit));
    const found = series.map((one) => {
      let i = one.raw.length - 1;
      while (i >= 0 && one.x(i) > at + 1e-9) i--;
      const ended = !time && one.raw.length < at;
      return { one, i, ended, value: ended || i < 0 ? null : one.raw[i] };
    });
    const place = ranks(found.map(({ value }) => value));
    const order = found.map((entry, i) => ({ ...entry, place: place[i] })).sort((a, b) => (a.place ?? 1e9) - (b.place ?? 1e9));
    const where = time ? `after ${format(at)} ${unitName}` : `at epoch ${at}`;
    const smoothed = stage.get("window") > 1;
    const cell = ({ one, i, ended, value }) => (ended ? (one.diverged ?? `${one.line.done ? "ended at" : "so far"} epoch ${one.raw.length}`) : value == null ? "–" : `${shown(metric, value)}${time ? ` (epoch ${i + 1})` : ""}`);
    const rows = order.map((entry) => {
      const { one, i, place, value } = entry;
      const cells = [place ?? "–", [swatch(one.line), ` ${one.line.label}`], cell(entry), ...(smoothed ? [value == null ? "–" : isError(metric) ? `${(100 * one.values[i]).toFixed(2)} %` : format(one.values[i], 4)] : [])];
      for (const k of [one.best, one.raw.length - 1]) cells.push(`${shown(metric, mean(one, k))} (${k + 1})`);
      return h("tr", { class: place ? null : "over" }, cells.map((content) => h("td", {}, ...[content].flat().map((part) => (part instanceof Node ? part : String(part))))));
    });
    const head = ["", "", where, ...(smoothed ? ["smoothed"] : []), "lowest (epoch)", "last (epoch)"];
    const title = `${METRICS[metric]} ${where}, lowest first`;
    below.replaceChildren(h("table", {}, h("caption", {}, title), h("thead", {}, h("tr", {}, head.map((text) => h(text ? "th" : "td", text ? { scope: "col" } : {}, text)))), h("tbody", {}, rows)));
    const text = `${title}: ${order.map((entry) => `${entry.place ? `${entry.place}. ` : ""}${entry.one.line.label} ${cell(entry)}`).join(", ")}`;
    const pixel = axes.x(at);
    for (const [k, v] of Object.entries({ x1: pixel, x2: pixel, y1: axes.box.y1, y2: axes.box.y0 })) cursor.setAttribute(k, v);
    const inside = (v) => Number.isFinite(v) && v <= axes.box.y0 + 1 && v >= axes.box.y1 - 1;
    const dot = ({ one, i, value }) => (value == null || stage.get("at") == null ? null : [axes.x(one.x(i)), axes.y(one.values[i] * (isError(metric) ? 100 : 1)), NORMS[one.line.norm].colour]);
    dots.replaceChildren(...order.map(dot).filter((d) => d && inside(d[1])).map(([cx, cy, fill]) => s("circle", { cx, cy, r: 4, fill, stroke: "currentColor" })));
    handle.put(at, axes.y.invert(axes.box.y0), `Cursor. ${text}; the arrow keys move it`);
    stage.say(text);
  }
  // A mean over seeds has no more digits than what it came from.
  const round = (v) => (v == null ? v : Number(v.toPrecision(6)));
  const mean = (one, k) => (one.line.runs.length > 1 ? round(one.raw[k]) : one.raw[k]);

  function fillTable() {
    if (!details.open || !view) return every.replaceChildren();
    const { series, metric } = view;
    const length = Math.max(...series.map(({ raw }) => raw.length));
    const skip = Math.ceil(length / 1000);
    const rows = [];
    for (let i = 0; i < length; i++)
      if ((i + 1) % skip === 0 || i === 0 || i === length - 1) rows.push(h("tr", {}, h("th", { scope: "row" }, i + 1), series.map((one) => h("td", {}, shown(metric, mean(one, i))))));
    const title = `${METRICS[metric]} of each epoch, as recorded${skip > 1 ? `; every ${skip}th epoch, all are in the CSV file` : ""}`;
    every.replaceChildren(h("table", {}, h("caption", {}, title), h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "epoch"), series.map(({ line }) => h("th", { scope: "col" }, line.label)))), h("tbody", {}, rows)));
  }

  async function keep(kind) {
    const name = `${slug(stage.get("title"))}.${kind}`;
    if (kind === "csv") return save(name, new Blob([csvOf(view.series.map(({ line }) => line))], { type: "text/csv" }));
    paint(900);
    const text = standalone(axes.svg, stage.get("title"), stage.dark ? "#121212" : "#ffffff");
    paint(stage.width);
    save(name, kind === "svg" ? new Blob([text], { type: "image/svg+xml" }) : await png(text));
  }
  const buttons = ["csv", "svg", "png"].map((kind) => stage.button(kind.toUpperCase(), () => keep(kind), { parent: files }));

  return () => {
    const state = ["metric", "by", "log", "window", "degree", "spread", "references", "hidden_norms", "hidden_sources"].map((name) => stage.get(name));
    const now = JSON.stringify([...state, version, stage.width, stage.dark]);
    if (now !== painted) {
      view = look();
      const several = (stage.get("data").curves ?? []).some(({ runs }) => runs.length > 1);
      parent.querySelector("[data-name=spread]").style.display = several ? "" : "none";
      degree.disabled = stage.get("window") < 2;
      stage.message(view.why ?? "");
      for (const node of [axes.svg, keys, parent, below, details, files]) node.style.display = view.why ? "none" : "";
      notes.textContent = (view.notes ?? []).join(" ");
      if (!view.why) {
        paint(stage.width);
        const some = (test) => view.series.some(test);
        const band = some(({ band }) => band) ? { range: "band: lowest to highest of the seeds", deviation: "band: ± standard deviation over the seeds" }[stage.get("spread")] : "";
        keys.replaceChildren(...[key(BEST, "lowest epoch"), key(FINAL, "last epoch"), stage.get("window") > 1 && h("span", {}, "faint: as recorded"), some(({ diverged }) => diverged) && key(CROSS, "diverged"), band && h("span", {}, band)].filter(Boolean));
        axes.svg.setAttribute("aria-label", `${METRICS[view.metric]} of ${view.series.map(({ line }) => line.label).join("; ")}`);
        fillTable();
      } else view = null;
      painted = now;
    }
    if (view) read();
    else stage.say(stage.note.textContent);
  };
}

export default widget(build);
