import { Axes, format, h, s, widget } from "./base.js";

/** The mean; null if there is none, or one of them is missing. */
export function mean(values) {
  return !values.length || values.some((v) => v == null) ? null : values.reduce((a, b) => a + b, 0) / values.length;
}

/** Where each rate's runs end, on average. */
export const ends = ({ runs }) => runs.map((seeds) => mean(seeds.map((run) => run.at(-1))));

/** The place of the rate at which a line ends best. */
export function bestRate(line, lower) {
  const found = ends(line);
  const worth = (v) => (v == null ? -Infinity : lower ? -v : v);
  return found.reduce((best, v, i) => (worth(v) > worth(found[best]) ? i : best), 0);
}

const NAME = { style: "text-align: left" };
const VALUE = { style: "text-align: right" };
const thousands = (v) => v.toLocaleString("en-US");

function swatch({ color, dash }) {
  const svg = s("svg", { width: 30, height: 10, "aria-hidden": "true", style: "display:inline;vertical-align:middle" });
  svg.append(s("path", { d: "M1 5H29", stroke: color, "stroke-dasharray": dash, "stroke-width": 2.5 }));
  return svg;
}

function build(stage) {
  const { x, rates, lines, comparisons, lower, names, span, digits, level } = stage.get("data");
  stage.choice("comparison", "Compare", Object.fromEntries(Object.entries(comparisons).map(([key, { label }]) => [key, label])));
  const slider = stage.slider("rate", "Learning rate", { values: rates, show: String });
  const curves = new Axes(stage, { label: "The curves at a rate" });
  const byRate = new Axes(stage, { label: "Where they end, by rate" });
  const table = h("table");
  stage.canvas.append(table);
  const written = (v) => (v < 1000 ? v.toFixed(digits) : thousands(Math.round(v))); // as in the page's tables
  const shown = (v) => (v == null ? "diverged" : written(v).replace("-", "−"));

  return () => {
    const { lines: places, best } = comparisons[stage.get("comparison")];
    slider.disabled = best;
    const at = rates.indexOf(rates.reduce((a, b) => (Math.abs(Math.log(b / stage.get("rate"))) < Math.abs(Math.log(a / stage.get("rate"))) ? b : a)));
    const chosen = places.map((i) => ({ line: lines[i], at: best ? bestRate(lines[i], lower) : at }));

    const wide = stage.width >= 560;
    const half = wide ? (stage.width - 12) / 2 : stage.width;
    const height = wide ? 280 : 220;
    curves.frame({ x: [0, x.at(-1)], y: span, xLabel: names[0], yLabel: names[1], width: half, height, show: thousands });
    const edge = [rates[0] / 1.35, rates.at(-1) * 1.35];
    byRate.frame({ x: edge, y: span, xLog: true, xTicks: rates.map((r) => [r, String(r)]), xLabel: "learning rate", yLabel: wide ? "" : names[1], width: half, height });
    if (level) {
      for (const [axes, ...range] of [[curves, 0, x.at(-1)], [byRate, ...edge]])
        axes.line(range.map((v) => [v, level[0]]), { "stroke-opacity": 0.6, "stroke-width": 1, "stroke-dasharray": "2 3" });
      const below = curves.y(level[0]) + 15 < curves.box.y0;
      curves.text(x.at(-1), level[0], level[1], { dx: -4, dy: below ? 12 : -5, "text-anchor": "end" });
    }
    if (!best) byRate.line(span.map((v) => [rates[at], v]), { "stroke-opacity": 0.25, "stroke-width": 8 });
    for (const { line, at: place } of chosen) {
      const look = { stroke: line.color, "stroke-dasharray": line.dash };
      const seeds = line.runs[place];
      if (seeds.length > 1) for (const run of seeds) curves.line(x.map((v, i) => [v, run[i]]), { ...look, "stroke-width": 1, "stroke-opacity": 0.75 });
      curves.line(x.map((v, i) => [v, mean(seeds.map((run) => run[i]))]), { ...look, "stroke-width": 2.6 });
      byRate.line(ends(line).map((v, i) => [rates[i], v]), look);
      line.runs.forEach((runs, i) => {
        for (const run of runs) if (run.at(-1) != null) byRate.marks.append(s("circle", { cx: byRate.x(rates[i]), cy: byRate.y(run.at(-1)), r: 2.6, fill: line.color, "fill-opacity": 0.75 }));
      });
      const end = ends(line)[place];
      if (end != null) byRate.marks.append(s("circle", { cx: byRate.x(rates[place]), cy: byRate.y(end), r: 5.5, fill: "none", stroke: line.color, "stroke-width": 2.2 }));
    }

    const value = ({ line, at: place }) => shown(ends(line)[place]);
    const [first, last] = [chosen[0], chosen.at(-1)].map(({ line, at: place }) => ends(line)[place]);
    const gap = first == null || last == null ? null : lower ? first - last : last - first;
    table.replaceChildren(
      h("thead", {}, h("tr", {}, h("th", { scope: "col", ...VALUE }, `at the end${lower ? ", lower is better" : ""}`), h("th", { scope: "col" }, "rate"), h("td"))),
      h("tbody", {}, chosen.map((one) => h("tr", {}, h("td", VALUE, value(one)), h("td", {}, format(rates[one.at])), h("td", NAME, swatch(one.line), ` ${one.line.name}`)))),
    );
    if (chosen.length === 2 && gap != null)
      table.append(h("tfoot", {}, h("tr", {}, h("th", VALUE, `${gap < 0 ? "−" : "+"}${written(Math.abs(gap))}`), h("td"), h("td", NAME, "what the second gains"))));
    stage.say(chosen.map((one) => `${one.line.name} ${value(one)} at ${rates[one.at]}`).join("; "));
  };
}

export default widget(build);
