// What is drawn of recorded runs, as plain functions: which lines, their values, their range, their texts.
import { format, ticks } from "./base.js";
import { smooth } from "./savgol.js";

export const METRICS = {
  train_loss: "Training loss",
  train_error: "Training error",
  test_loss: "Test loss",
  test_error: "Test error",
};

export const isError = (metric) => metric.endsWith("error");

/** The curves of sources that are on; those of one configuration are numbered, to tell them apart. */
export function linesOf(data, hidden = []) {
  const count = {};
  const lines = (data.curves ?? [])
    .map((line) => ({ ...line, variant: (count[line.norm] = (count[line.norm] ?? -1) + 1) }))
    .filter(({ runs }) => !hidden.includes(runs[0].source));
  const one = new Set(lines.map(({ runs }) => runs[0].source)).size === 1;
  const alone = new Set(lines.map(({ norm }) => norm)).size === lines.length;
  return lines.map((line) => ({ ...line, label: one ? line.short : line.label, variant: alone ? 0 : line.variant }));
}

/** Over runs, epoch by epoch: mean, lowest and highest. */
export function spreadOf(columns) {
  const length = Math.max(0, ...columns.map((column) => column.length));
  const result = { mean: [], low: [], high: [] };
  for (let i = 0; i < length; i++) {
    const there = columns.map((column) => column[i]).filter((v) => Number.isFinite(v));
    const [some, sum] = [there.length > 0, there.reduce((a, b) => a + b, 0)];
    result.mean.push(some ? sum / there.length : null);
    result.low.push(some ? Math.min(...there) : null);
    result.high.push(some ? Math.max(...there) : null);
  }
  return result;
}

const epochsOf = (run) => Math.max(0, ...Object.keys(METRICS).map((metric) => run[metric]?.length ?? 0));

/** The window as it was set, or by the length: 21 epochs, none below 100, where it would bend the end. */
export const windowFor = (window, length) => window ?? (length < 100 ? 0 : 21);

const DEGREE = 2; // of the smoothing's polynomial
const hasDiverged = ({ state }) => state.startsWith("diverged");

/** What one line draws: values, raw and smoothed, the band, where it is lowest, after how many epochs it was `gone`; null if it has none. */
export function seriesOf(line, metric, asked) {
  // In a mean the epoch in which a run diverges would hide the others.
  const cut = (run) => (line.runs.length > 1 && hasDiverged(run) ? (run[metric] ?? []).slice(0, -1) : (run[metric] ?? []));
  const columns = line.runs.map(cut);
  const raw = columns.length === 1 ? columns[0] : spreadOf(columns).mean;
  if (!raw.some((v) => Number.isFinite(v))) return null;
  const window = windowFor(asked, raw.length);
  const smoothed = window > 1 ? columns.map((column) => smooth(column, window, DEGREE)) : columns;
  const { mean, low, high } = columns.length > 1 ? spreadOf(smoothed) : { mean: smoothed[0] };
  let best = -1;
  raw.forEach((v, i) => {
    if (Number.isFinite(v) && (best < 0 || v < raw[best])) best = i;
  });
  let last = raw.length - 1;
  while (!Number.isFinite(raw[last])) last--;
  const gone = line.runs.filter(hasDiverged);
  const { state } = gone[0] ?? {};
  return {
    line,
    raw,
    x: (i) => i + 1,
    values: window > 1 ? mean : raw,
    smoothed: window > 1,
    band: columns.length > 1 ? [low, high] : null,
    best,
    last,
    diverged: state ? (line.runs.length > 1 ? `${gone.length} of ${line.runs.length} runs ${state}` : state) : null,
    allGone: gone.length === line.runs.length,
    gone: state ? Math.min(...gone.map((run) => epochsOf(run))) : null,
  };
}

/** The part of the y-axis that shows all, but for the heights to which a diverging run rises; if not `whole`, where the curves differ. */
export function rangeOf(all, whole = true) {
  let [low, high] = [Infinity, -Infinity];
  const steady = all.filter(({ diverged }) => !diverged);
  for (const one of !whole && steady.length ? steady : all) {
    const { raw, values, band, diverged } = one;
    // The fall of the first epochs would take the room that the long end needs.
    const skip = Math.floor(!whole && raw.length >= 9 ? raw.length / 3 : 0.03 * raw.length);
    const first = raw.find((v) => Number.isFinite(v));
    const limit = first > 0 ? (diverged ? 1.5 : 3) * first : Infinity;
    if (!whole && Number.isFinite(raw[one.best])) low = Math.min(low, raw[one.best]);
    for (const column of whole ? [raw, values, ...(band ?? [])] : [values, ...(band ?? [])])
      for (const v of column.slice(skip).filter((v) => Number.isFinite(v))) {
        low = Math.min(low, v);
        high = Math.max(high, Math.min(v, limit));
      }
  }
  if (!(high >= low)) return [0, 1];
  if (high === low) return [low - 0.1 * (Math.abs(low) || 1), high + 0.1 * (Math.abs(high) || 1)];
  const marks = ticks(low, high, whole ? 5 : 12);
  const step = marks.length > 1 ? marks[1] - marks[0] : high - low;
  // Whole steps: an axis that grows with a run in training then moves rarely.
  return [Math.floor(low / step + 1e-9), Math.ceil(high / step - 1e-9)].map((k) => Number((k * step).toPrecision(12)));
}

/** Heights as near as possible to those wanted, in the same order, `gap` apart, and within low and high. */
export function apart(wanted, gap, low, high) {
  const order = wanted.map((_, i) => i).sort((a, b) => wanted[a] - wanted[b] || a - b);
  const result = Array.from({ length: wanted.length });
  let before = -Infinity;
  for (const i of order) before = result[i] = Math.max(wanted[i], before + gap, low);
  let after = high + gap;
  for (const i of order.reverse()) after = result[i] = Math.min(result[i], after - gap);
  return result;
}

/** Places from 1 up by value, equal values sharing one; null for what has no value. */
export function ranks(values) {
  const there = values.filter((v) => Number.isFinite(v));
  return values.map((v) => (Number.isFinite(v) ? 1 + there.filter((w) => w < v).length : null));
}

/** A value as the record has it: errors in percent, with two digits after the point or as many as there are. */
export function shown(metric, value) {
  if (!Number.isFinite(value)) return "–";
  if (!isError(metric)) return format(value, 6);
  const percent = Math.round(value * 1e6) / 1e4;
  return `${percent.toFixed(Math.max(2, (String(percent).split(".")[1] ?? "").length))} %`;
}

/** The same in short: beside a curve, where runs are ranked, and where it is a mean or smoothed. */
export function brief(metric, value) {
  if (isError(metric)) return `${(100 * value).toFixed(2)} %`;
  return value >= 0.01 && value < 100 ? value.toFixed(4) : format(value, 4); // as many digits in all rows
}
