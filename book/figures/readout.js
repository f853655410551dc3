// Training curves in numbers: at the cursor, and all of them.
import { h } from "./base.js";
import { swatch } from "./chart.js";
import { METRICS, brief, isError, ranks, shown } from "./history.js";

const inWords = (metric, { line, raw }, i) => (line.runs.length > 1 && raw[i] != null ? brief : shown)(metric, raw[i]);
const ranked = (metric, one, i) => (isError(metric) ? inWords(metric, one, i) : brief(metric, one.raw[i]));

/** At a place on the x-axis, or at each curve's end (null): its epoch's index and value, lowest first, those without a value last. */
export function readAt({ series }, at) {
  const found = series.map((one) => {
    let i = at == null ? one.last : one.raw.length - 1;
    while (at != null && i >= 0 && one.x(i) > at + 1e-9) i--;
    // The loss with which a run diverged is no rank.
    const gone = one.allGone && (at == null || i + 1 >= one.gone);
    const ended = gone || (at != null && one.raw.length < at);
    return { one, i, ended, value: ended || i < 0 ? null : one.raw[i] };
  });
  const places = ranks(found.map(({ value }) => value));
  return found.map((entry, k) => ({ ...entry, place: places[k] })).sort((a, b) => (a.place ?? 1e9) - (b.place ?? 1e9));
}

function textOf({ metric }, at, { one, i, ended, value }) {
  if (ended) return one.diverged ?? `${one.line.done ? "ended at" : "so far"} epoch ${one.raw.length}`;
  return value == null ? "–" : ranked(metric, one, i) + (at == null ? ` (${i + 1})` : "");
}

const table = (caption, head, rows) =>
  h("table", {}, h("caption", {}, caption), h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows));
const column = (text) => h("th", { scope: "col" }, text);

/** The ranking as a table, numbers before names, and as a sentence; if narrow, with what must be. */
export function ranking(view, at, entries, narrow) {
  const { metric } = view;
  const smoothed = view.smoothed && !narrow;
  const where = at == null ? "at its end (epoch)" : `at epoch ${at}`;
  const title = `${METRICS[metric]} ${where.replace("its end (epoch)", "each run’s end")}, lowest first`;
  const rows = entries.map((entry) => {
    const { one, i, place, value } = entry;
    const cells = [String(place ?? "–"), textOf(view, at, entry)];
    if (smoothed) cells.push(value == null ? "–" : brief(metric, one.values[i]));
    if (!narrow) cells.push(`${ranked(metric, one, one.best)} (${one.best + 1})`);
    const name = h("td", {}, swatch(one.line), ` ${one.line.label}`);
    return h("tr", { class: place ? null : "over" }, cells.map((cell) => h("td", {}, cell)), name);
  });
  const head = [where, ...(smoothed ? ["smoothed"] : []), ...(narrow ? [] : ["lowest (epoch)"])];
  const said = entries.map((entry) => `${entry.place ? `${entry.place}. ` : ""}${entry.one.line.label} ${textOf(view, at, entry)}`);
  return [table(title, [h("td"), ...head.map(column), h("td")], rows), `${title}: ${said.join(", ")}`];
}

/** Every epoch of every curve. */
export function allValues({ series, metric }) {
  const cells = (i) => series.map((one) => h("td", {}, inWords(metric, one, i)));
  const length = Math.max(...series.map(({ raw }) => raw.length));
  const rows = Array.from({ length }, (_, i) => h("tr", {}, h("th", { scope: "row" }, i + 1), cells(i)));
  const head = ["epoch", ...series.map(({ line }) => line.label)];
  return table(`${METRICS[metric]} of each epoch, as recorded`, head.map(column), rows);
}
