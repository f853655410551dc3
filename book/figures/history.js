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

/** One line a curve, or one for each of its runs, of sources that are on; those of one configuration are numbered, to tell them apart. */
export function linesOf(data, each, hidden = []) {
  const count = {};
  const lines = (data.curves ?? [])
    .flatMap((curve) => {
      const one = (run) => ({ ...curve, label: `${curve.label}, ${run.name}`, short: `${curve.short}, ${run.name}`, runs: [run] });
      const parts = each && curve.runs.length > 1 ? curve.runs.map(one) : [curve];
      return parts.map((line) => ({ ...line, variant: (count[line.norm] = (count[line.norm] ?? -1) + 1) }));
    })
    .map((line) => ({ ...line, runs: line.runs.filter(({ source }) => !hidden.includes(source)) }))
    .filter(({ runs }) => runs.length);
  const whose = lines.map(({ runs }) => [...new Set(runs.map(({ source }) => source))].join("\n"));
  const named = new Set(whose).size > 1 ? lines : lines.map((line) => ({ ...line, label: line.short }));
  const alone = new Set(lines.map(({ norm }) => norm)).size === lines.length;
  return alone ? named.map((line) => ({ ...line, variant: 0 })) : named;
}

/** Over runs, epoch by epoch: mean, and lowest and highest or a sample standard deviation around it. */
export function spreadOf(columns, kind) {
  const length = Math.max(0, ...columns.map((column) => column.length));
  const result = { mean: [], low: [], high: [] };
  for (let i = 0; i < length; i++) {
    const there = columns.map((column) => column[i]).filter((v) => Number.isFinite(v));
    const mean = there.length ? there.reduce((a, b) => a + b, 0) / there.length : null;
    const squares = there.reduce((sum, v) => sum + (v - mean) ** 2, 0);
    const deviation = there.length > 1 ? Math.sqrt(squares / (there.length - 1)) : 0;
    result.mean.push(mean);
    result.low.push(mean === null ? null : kind === "range" ? Math.min(...there) : mean - deviation);
    result.high.push(mean === null ? null : kind === "range" ? Math.max(...there) : mean + deviation);
  }
  return result;
}

/** When each epoch ended, in seconds; `even`: only the total is known, and is spread evenly. null: unknown. */
export function timesOf(line) {
  const each = line.runs.map((run) => {
    const count = epochsOf(run);
    let sum = 0;
    if (run.seconds && run.seconds.every((v) => Number.isFinite(v))) return run.seconds.map((v) => (sum += v));
    return run.wall > 0 && count ? Array.from({ length: count }, (_, i) => (run.wall * (i + 1)) / count) : null;
  });
  if (each.some((times) => times === null)) return null;
  return { times: spreadOf(each, "range").mean, even: line.runs.some((run) => !run.seconds) };
}

const epochsOf = (run) => Math.max(0, ...Object.keys(METRICS).map((metric) => run[metric]?.length ?? 0));

/** The window as it was set, or by the length: 21 epochs, none below 100, where it would bend the end. */
export const windowFor = (window, length) => window ?? (length < 100 ? 0 : 21);

const hasDiverged = ({ state }) => state.startsWith("diverged");

/** What one line draws: values, raw and smoothed, the band, where it is lowest, after how many epochs it was `gone`; null if it has none. */
export function seriesOf(line, metric, asked, degree, kind) {
  // In a mean the epoch in which a run diverges would hide the others.
  const cut = (run) => (line.runs.length > 1 && hasDiverged(run) ? (run[metric] ?? []).slice(0, -1) : (run[metric] ?? []));
  const columns = line.runs.map(cut);
  const raw = columns.length === 1 ? columns[0] : spreadOf(columns, kind).mean;
  if (!raw.some((v) => Number.isFinite(v))) return null;
  const window = windowFor(asked, raw.length);
  const smoothed = window > 1 ? columns.map((column) => smooth(column, window, degree)) : columns;
  const { mean, low, high } = columns.length > 1 ? spreadOf(smoothed, kind) : { mean: smoothed[0] };
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
export function rangeOf(all, extra = [], log = false, whole = true) {
  let [low, high] = [Infinity, -Infinity];
  const focus = !whole && !log;
  const steady = all.filter(({ diverged }) => !diverged);
  for (const one of focus && steady.length ? steady : all) {
    const { raw, values, band, diverged } = one;
    // The fall of the first epochs would take the room that the long end needs.
    const skip = log ? 0 : Math.floor(focus && raw.length >= 9 ? raw.length / 3 : 0.03 * raw.length);
    const first = raw.find((v) => Number.isFinite(v));
    const limit = first > 0 ? (diverged ? 1.5 : 3) * first : Infinity;
    if (focus && Number.isFinite(raw[one.best])) low = Math.min(low, raw[one.best]);
    for (const column of focus ? [values, ...(band ?? [])] : [raw, values, ...(band ?? [])])
      for (const v of column.slice(skip)) {
        if (!Number.isFinite(v) || (log && v <= 0)) continue;
        low = Math.min(low, v);
        high = Math.max(high, Math.min(v, limit));
      }
  }
  for (const v of extra) [low, high] = [Math.min(low, v), Math.max(high, v)];
  if (!(high >= low)) return log ? [0.1, 1] : [0, 1];
  if (log) return [low * 0.93, high * 1.07];
  if (high === low) return [low - 0.1 * (Math.abs(low) || 1), high + 0.1 * (Math.abs(high) || 1)];
  const marks = ticks(low, high, focus ? 12 : 5);
  const step = marks.length > 1 ? marks[1] - marks[0] : high - low;
  // Whole steps: an axis that grows with a run in training then moves rarely.
  return [Math.floor(low / step + 1e-9), Math.ceil(high / step - 1e-9)].map((k) => Number((k * step).toPrecision(12)));
}

/** Of points in the same pixel: the first, the lowest, the highest and the last. Gaps (null) stay. */
export function thin(points, place) {
  if (points.length < 3) return points;
  const result = [];
  let bucket = [];
  const close = () => {
    if (bucket.length > 4) {
      const there = bucket.filter(([, y]) => y != null).sort((a, b) => a[1] - b[1]);
      const keep = new Set([bucket[0], bucket.at(-1), there[0], there.at(-1), bucket.find(([, y]) => y == null)]);
      bucket = bucket.filter((point) => keep.has(point));
    }
    result.push(...bucket);
  };
  let pixel = null;
  for (const point of points) {
    const at = Math.floor(place(point[0]));
    if (at !== pixel) {
      close();
      [pixel, bucket] = [at, []];
    }
    bucket.push(point);
  }
  close();
  return result;
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
