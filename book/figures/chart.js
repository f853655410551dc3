// The drawing of training curves: lines and bands, their marks, labels beside their ends, tables' errors.
import { NORMS, h, s } from "./base.js";
import { METRICS, apart, brief, isError, rangeOf } from "./history.js";

// Curves of one configuration share its color and dashes; from the second on they carry signs of their own.
const VARIANTS = [
  "",
  "M-3.5 -3.5H3.5V3.5H-3.5Z",
  "M0 -4.5L4.5 0L0 4.5L-4.5 0Z",
  "M0 -4.5L4.2 3.5H-4.2Z",
  "M-4.5 0H4.5M0 -4.5V4.5",
];

/** What marks a point of a curve. */
export const SIGNS = { lowest: "M-5 -8H5L0 0Z", last: "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0 -4 0Z", diverged: "M-5 -5L5 5M-5 5L5 -5" };

const signAt = (d, x, y, attributes) => s("path", { d, transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`, ...attributes });
const variantOf = (line) => VARIANTS[line.variant % VARIANTS.length];
const strokeOf = ({ norm }) => ({ stroke: NORMS[norm].color, "stroke-dasharray": NORMS[norm].dash });
const atEnd = (one, metric) => (one.allGone ? "" : `${brief(metric, one.told ?? one.raw[one.last])}  `);
// On a phone: "WN +" above "mean-only BN".
const inTwo = ({ norm }) => NORMS[norm].label.split(/(?<=\+) /);
const shortName = ({ label }) => (label.length > 36 ? `${label.slice(0, 35)}…` : label);

function strip(line) {
  const sign = signAt(variantOf(line), 15, 0, { fill: "none", stroke: NORMS[line.norm].color, "stroke-width": 1.5 });
  return s("g", {}, s("path", { d: "M0 0H30", fill: "none", "stroke-width": 2, ...strokeOf(line) }), sign);
}

/** A piece of a curve, to stand beside its name. */
export function swatch(line) {
  return s("svg", { class: "swatch", width: 30, height: 12, viewBox: "0 -6 30 12", "aria-hidden": "true" }, strip(line));
}

/** A sign and what it means. */
export function keyOf(name, text) {
  const fill = name === "diverged" ? "none" : "currentColor";
  const sign = signAt(SIGNS[name], 0, name === "lowest" ? 2 : -1, { fill, stroke: "currentColor", "stroke-width": 1.5 });
  const picture = s("svg", { class: "swatch", width: 12, height: 14, viewBox: "-6 -9 12 14", "aria-hidden": "true" }, sign);
  return h("span", {}, picture, ` ${text}`);
}

let brush = null;
function textWidth(text, family) {
  brush ??= h("canvas").getContext("2d");
  brush.font = `12px ${family}`;
  return brush.measureText(text).width;
}

/** Draw the view (see curves.js) so many pixels wide. */
export function paint(axes, view, width) {
  const { series, metric, top } = view;
  const scale = isError(metric) ? 100 : 1;
  const wide = width >= 600;
  const family = getComputedStyle(axes.svg).fontFamily;
  const all = view.all ?? series;
  const room = Math.max(...all.map((one) => textWidth(atEnd(one, metric) + shortName(one.line), family)));
  const narrow = Math.max(...all.flatMap((one) => inTwo(one.line).map((text) => textWidth(text, family))));
  axes.margin.right = wide ? 56 + room : 18 + 0.92 * narrow;
  axes.margin.left = wide ? 52 : 44;
  const y = view.range ?? rangeOf(series, view.whole);
  axes.frame({
    x: [0, top],
    y: y.map((v) => v * scale),
    width,
    height: wide ? 380 : 300,
    xLabel: "epoch",
    yLabel: METRICS[metric].toLowerCase() + (scale > 1 ? " (%)" : " (nats)"),
  });
  const { y0, y1 } = axes.box;
  const inside = (v) => Math.max(y1 + 1, Math.min(y0 - 1, axes.y(v * scale)));
  const pointsOf = (one, column) => column.map((v, i) => [one.x(i), v == null ? null : v * scale]);

  for (const one of series) {
    if (!one.band) continue;
    const [low, high] = one.band.map((column) => pointsOf(one, column).filter(([, v]) => v !== null));
    axes.line([...high, ...low.reverse()], { fill: NORMS[one.line.norm].color, "fill-opacity": 0.16, stroke: "none" });
  }
  if (view.smoothed)
    for (const one of series) {
      const faint = { stroke: NORMS[one.line.norm].color, "stroke-opacity": 0.28, "stroke-width": 1 };
      axes.line(pointsOf(one, one.raw), faint);
    }
  const ends = series.map((one) => drawCurve(axes, one, pointsOf(one, one.values), inside));
  writeDivergences(
    axes,
    ends.filter(({ gone }) => gone),
    wide,
  );
  const named = ends.filter(({ one }) => !one.allGone);
  if (wide) writeLabels(axes, named, metric, view.head);
  else if (named.length <= 8) writeNames(axes, named);
}

function drawCurve(axes, one, points, inside) {
  const { line, diverged, best, raw, values, last } = one;
  const color = NORMS[line.norm].color;
  axes.line(points, { ...strokeOf(line), "stroke-width": line.variant ? 1.5 : 2 });
  const hollow = { fill: "none", stroke: color, "stroke-width": 1.5 };
  if (variantOf(line))
    for (let pixel = axes.box.x0 + 24 + 9 * line.variant; pixel < axes.box.x1; pixel += 70) {
      const near = points.find(([x]) => axes.x(x) >= pixel);
      if (near?.[1] != null) axes.marks.append(signAt(variantOf(line), axes.x(near[0]), axes.y(near[1]), hollow));
    }
  axes.marks.append(signAt(SIGNS.lowest, axes.x(one.x(best)), inside(raw[best]), { fill: color }));
  const [x, y] = [axes.x(one.x(last)), inside(raw[last])]; // as recorded, like its label
  if (!one.allGone) axes.marks.append(signAt(SIGNS.last, x, y, { fill: color }));
  if (!diverged) return { one, x, y };
  // At its epoch; at the drawing's edge, where the value lies beyond it.
  const gone = { x: axes.x(one.x(one.gone - 1)), y: Math.max(axes.box.y1 + 7, inside(values[one.gone - 1] ?? Infinity)) };
  const { x1, y1 } = axes.box;
  const behind = points.findLast(([at, v]) => v != null && axes.x(at) < gone.x && axes.y(v) >= y1);
  // Where it leaves the drawing on the way there, a thin line along the edge shows which curve the sign belongs to.
  if (behind && gone.y <= y1 + 7) axes.marks.append(s("path", { d: `M${axes.x(behind[0]).toFixed(1)} ${y1 + 1}H${Math.min(gone.x, x1)}`, ...hollow, "stroke-opacity": 0.5 }));
  axes.marks.append(signAt(SIGNS.diverged, gone.x, gone.y, { ...hollow, "stroke-width": 2 }));
  return { one, x, y, gone };
}

function writeDivergences(axes, ends, wide) {
  const { x0, x1, y0, y1 } = axes.box;
  apart(
    ends.map(({ gone }) => gone.y + 4),
    14,
    y1 + 12,
    y0 - 4,
  ).forEach((y, i) => {
    const { gone, one } = ends[i];
    const text = wide && ends.length === 1 ? one.diverged : `${shortName(one.line)} ${one.diverged}`;
    const family = getComputedStyle(axes.svg).fontFamily;
    const late = gone.x > (x0 + x1) / 2;
    const fits = textWidth(text, family) + 10 < (late ? gone.x - x0 : x1 - gone.x);
    const place = { x: gone.x + (late ? -10 : 10), y, "text-anchor": late ? "end" : "start" };
    axes.marks.append(s("text", place, fits ? text : "diverged"));
  });
}

/** Values and names: beside the axis; in a race beside the runners. */
function writeLabels(axes, ends, metric, head) {
  const { x0, x1, y0, y1 } = axes.box;
  const side = Math.min(x1, head == null ? x1 : Math.max(x0, axes.x(head)));
  apart(
    ends.map(({ y }) => y),
    15,
    y1 + 4,
    y0 - 4,
  ).forEach((at, i) => {
    const { one, x, y } = ends[i];
    const leader = {
      d: `M${x + 6} ${y}L${side + 14} ${at}`,
      stroke: NORMS[one.line.norm].color,
      "stroke-opacity": 0.5,
      fill: "none",
    };
    if (Math.abs(x - side) < 12) axes.scaffold.append(s("path", leader));
    const piece = strip(one.line);
    piece.setAttribute("transform", `translate(${side + 16} ${at})`);
    const words = [s("tspan", { "font-weight": 600 }, atEnd(one, metric)), s("tspan", {}, shortName(one.line))];
    axes.scaffold.append(piece, s("text", { x: side + 51, y: at + 4, style: "white-space: pre" }, ...words));
  });
}

/** Names alone, where there is little room: in one or two lines beside the axis. */
function writeNames(axes, ends) {
  const { x1, y0, y1 } = axes.box;
  apart(
    ends.map(({ y }) => y),
    Math.min(27, (y0 - y1) / ends.length),
    y1 + 8,
    y0 - 8,
  ).forEach((at, i) => {
    const { one, y } = ends[i];
    const stroke = NORMS[one.line.norm].color;
    axes.scaffold.append(s("path", { d: `M${x1 + 2} ${y}L${x1 + 9} ${at}H${x1 + 14}`, fill: "none", stroke, "stroke-width": 1.5 }));
    inTwo(one.line).forEach((text, k, all) => axes.scaffold.append(s("text", { x: x1 + 17, y: at + 4 + 12 * (k - (all.length - 1) / 2), style: "font-size: 11px" }, text)));
  });
}
