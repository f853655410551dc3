// Training curves in numbers: at the cursor, and all of them.
import { format, h } from "./base.js";
import { swatch } from "./chart.js";
import { METRICS, isError, ranks, shown } from "./history.js";

// A mean over seeds has no more digits than what it came from.
const recorded = ({ line, raw }, i) => (line.runs.length > 1 && raw[i] != null ? Number(raw[i].toPrecision(6)) : raw[i]);
const ofSmooth = (metric, value) => (isError(metric) ? `${(100 * value).toFixed(2)} %` : format(value, 4));

/** At a place on the x-axis: the epoch's index and value of each curve, lowest first, those without a value last. */
export function readAt({ series, time }, at) {
  const found = series.map((one) => {
    let i = one.raw.length - 1;
    while (i >= 0 && one.x(i) > at + 1e-9) i--;
    const ended = !time && one.raw.length < at;
    return { one, i, ended, value: ended || i < 0 ? null : recorded(one, i) };
  });
  const places = ranks(found.map(({ value }) => value));
  return found.map((entry, k) => ({ ...entry, place: places[k] })).sort((a, b) => (a.place ?? 1e9) - (b.place ?? 1e9));
}

function textOf({ metric, time }, { one, i, ended, value }) {
  if (ended) return one.diverged ?? `${one.line.done ? "ended at" : "so far"} epoch ${one.raw.length}`;
  return value == null ? "–" : shown(metric, value) + (time ? ` (epoch ${i + 1})` : "");
}

const table = (caption, head, rows) =>
  h("table", {}, h("caption", {}, caption), h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows));
const column = (text) => h("th", { scope: "col" }, text);

/** The ranking as a table, and as a sentence. */
export function ranking(view, at, entries) {
  const { metric, time, smoothed, unitName } = view;
  const where = time ? `after ${format(at)} ${unitName}` : `at epoch ${at}`;
  const title = `${METRICS[metric]} ${where}, lowest first`;
  const rows = entries.map((entry) => {
    const { one, i, place, value } = entry;
    const cells = [textOf(view, entry)];
    if (smoothed) cells.push(value == null ? "–" : ofSmooth(metric, one.values[i]));
    for (const k of [one.best, one.raw.length - 1]) cells.push(`${shown(metric, recorded(one, k))} (${k + 1})`);
    const name = h("td", {}, swatch(one.line), ` ${one.line.label}`);
    return h(
      "tr",
      { class: place ? null : "over" },
      h("td", {}, String(place ?? "–")),
      name,
      cells.map((cell) => h("td", {}, cell)),
    );
  });
  const head = [where, ...(smoothed ? ["smoothed"] : []), "lowest (epoch)", "last (epoch)"];
  const said = entries.map((entry) => `${entry.place ? `${entry.place}. ` : ""}${entry.one.line.label} ${textOf(view, entry)}`);
  return [table(title, [h("td"), h("td"), ...head.map(column)], rows), `${title}: ${said.join(", ")}`];
}

/** Every epoch of every curve; of very long runs some. */
export function allValues({ series, metric }) {
  const length = Math.max(...series.map(({ raw }) => raw.length));
  const skip = Math.ceil(length / 1000);
  const rows = [];
  for (let i = 0; i < length; i++) {
    if ((i + 1) % skip !== 0 && i !== 0 && i !== length - 1) continue;
    rows.push(
      h(
        "tr",
        {},
        h("th", { scope: "row" }, i + 1),
        series.map((one) => h("td", {}, shown(metric, recorded(one, i)))),
      ),
    );
  }
  const part = skip > 1 ? `; every ${skip}th epoch, all are in the CSV file` : "";
  const head = ["epoch", ...series.map(({ line }) => line.label)];
  return table(`${METRICS[metric]} of each epoch, as recorded${part}`, head.map(column), rows);
}
