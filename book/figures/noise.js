import { Axes, NORMS, format, h, s, widget } from "./base.js";

/** Random 32-bit integers, the same for the same seed (mulberry32). */
export function mulberry32(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 1831565813) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) >>> 0;
  };
}

/** Below which value a standard Gaussian lies with probability p (Acklam's approximation, to 1e-9 of the value). */
export function gaussianQuantile(p) {
  if (p > 0.5) return -gaussianQuantile(1 - p);
  const ratio = (x, above, below) => above.reduce((sum, c) => sum * x + c, 0) / (below.reduce((sum, c) => sum * x + c, 0) * x + 1);
  if (p < 0.02425) {
    const q = Math.sqrt(-2 * Math.log(p));
    const above = [-7.784894002430293e-3, -0.3223964580411365, -2.400758277161838, -2.549732539343734, 4.374664141464968, 2.938163982698783];
    return ratio(q, above, [7.784695709041462e-3, 0.3224671290700398, 2.445134137142996, 3.754408661907416]);
  }
  const q = p - 0.5;
  const above = [-39.69683028665376, 220.9460984245205, -275.9285104469687, 138.357751867269, -30.66479806614716, 2.506628277459239];
  return q * ratio(q * q, above, [-54.47609879822406, 161.5858368580409, -155.6989798598866, 66.80131188771972, -13.28068155288572]);
}

/** The same for Laplace's distribution of variance 1. */
export function laplaceQuantile(p) {
  return (p < 0.5 ? Math.log(2 * p) : -Math.log(2 * (1 - p))) / Math.SQRT2;
}

/** The same for values of which quantiles are known at some levels from 0 to 1; linear in between. */
export function knownQuantile(levels, quantiles, p) {
  let [low, high] = [0, levels.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (levels[middle] <= p) low = middle;
    else high = middle;
  }
  const share = (p - levels[low]) / (levels[high] - levels[low]);
  return quantiles[low] + share * (quantiles[high] - quantiles[low]);
}

const SIZE = 65536; // values to draw from: 16 random bits choose one

/** All that a source can give, each value as likely as another; mean 0 and variance 1. */
export function possible(quantile) {
  const all = Float64Array.from({ length: SIZE }, (_, i) => quantile((i + 0.5) / SIZE));
  const { mean, variance } = moments(all);
  return all.map((v) => (v - mean) / Math.sqrt(variance));
}

/** Mean, biased variance and kurtosis (3 for a Gaussian). */
export function moments(x) {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i];
  const mean = sum / x.length;
  let [second, fourth] = [0, 0];
  for (let i = 0; i < x.length; i++) {
    const square = (x[i] - mean) ** 2;
    second += square;
    fourth += square * square;
  }
  const variance = second / x.length;
  return { mean, variance, kurtosis: fourth / x.length / variance ** 2 };
}

/** To first order: n times the variance, and the kurtosis, for pre-activations of kurtosis κ. */
export function firstOrder(kappa) {
  const c = (kappa - 1) / 4;
  return {
    meanOnly: [1, 3],
    batchNorm: [1 + c, (3 * (1 + 2 * c + kappa * c * c)) / (1 + c) ** 2],
  };
}

/** How many minibatches of n are drawn: many, within a frame's time. */
export const repeats = (n) => Math.round(Math.min(16000, Math.max(1000, 8e5 / n)));

const EACH = 8; // of a minibatch's values, how many are followed into batch norm's noise

/** Minibatches of n, drawn with replacement: the noise that normalizing by their mean and (biased) std adds. */
export function simulate(source, n, seed, count = repeats(n)) {
  const random = mulberry32(seed);
  const each = Math.min(n, EACH);
  const first = new Float64Array(each);
  const meanOnly = new Float64Array(count);
  const batchNorm = new Float64Array(count * each);
  for (let r = 0; r < count; r++) {
    let [sum, squares, bits] = [0, 0, 0];
    for (let i = 0; i < n; i++) {
      bits = i & 1 ? bits >>> 16 : random();
      const z = source[bits & 65535];
      sum += z;
      squares += z * z;
      if (i < each) first[i] = z;
    }
    const mu = sum / n;
    const variance = squares / n - mu * mu;
    // Where all values of a minibatch are the same, what comes out is 0.
    const scale = variance > 1e-12 ? 1 / Math.sqrt(variance) : 0;
    meanOnly[r] = -mu;
    for (let i = 0; i < each; i++) batchNorm[r * each + i] = (first[i] - mu) * scale - first[i];
  }
  return { meanOnly, batchNorm };
}

/** Density of x in equal bins from low to high. */
export function density(x, low, high, bins) {
  const heights = new Float64Array(bins);
  const scale = bins / (high - low);
  for (let i = 0; i < x.length; i++) {
    const bin = Math.floor((x[i] - low) * scale);
    if (bin >= 0 && bin < bins) heights[bin]++;
  }
  return heights.map((count) => (count * scale) / x.length);
}

const SOURCES = { gauss: "Gaussian", laplace: "Laplace", layer: "dense layer" };
const NUMBERS = [2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000];
const REACH = 7; // the bins reach so far, in units of 1/√n
const BINS = 70;
const SIDE = 1.6; // the axes: the same for every n, so that one sees the noise shrink
const HEIGHT = [1e-3, 40];
const PANELS = {
  meanOnly: { name: "noise of mean-only BN", color: NORMS.mobn.color },
  batchNorm: { name: "noise of batch norm", color: NORMS.bn.color },
};

function build(stage) {
  const data = stage.get("data");
  const known = data.quantiles?.length > 1;
  const offered = Object.entries(SOURCES).filter(([key]) => key !== "layer" || known);
  stage.choice("source", "Pre-activations", Object.fromEntries(offered));
  stage.slider("n", "Minibatch size n", { values: NUMBERS, show: String });
  stage.bind("seed");
  const parent = h("div", { class: "controls" });
  stage.button("Draw again", () => stage.set("seed", (stage.get("seed") + 1) % 1000), { parent });
  stage.canvas.after(h("details", { class: "more" }, h("summary", {}, "more"), parent));
  const panels = Object.entries(PANELS).map(([key, { name }]) => {
    const axes = new Axes(stage, { label: name, margin: { top: 26, bottom: 22, left: 44 } });
    const [left, right] = [heading("start"), heading("end")];
    axes.front.append(left, right);
    left.textContent = name;
    return { key, name, axes, right };
  });
  const table = h("table");
  stage.canvas.append(table);

  const quantile = {
    gauss: gaussianQuantile,
    laplace: laplaceQuantile,
    layer: (p) => knownQuantile(data.levels, data.quantiles, p),
  };
  const sources = {};
  let last = {};
  // Drawn anew when something that it depends on has changed; the page's width has not.
  const drawn = (source, n, seed) => {
    if (last.source !== source || last.n !== n || last.seed !== seed) {
      const values = (sources[source] ??= possible(quantile[source]));
      const { kurtosis } = moments(values);
      const found = simulate(values, n, seed);
      for (const key in found) found[key] = { x: found[key], told: firstOrder(kurtosis)[key], ...moments(found[key]) };
      last = { source, n, seed, kurtosis, found };
    }
    return last;
  };

  return () => {
    const [source, n, seed] = ["source", "n", "seed"].map((name) => stage.get(name));
    const { kurtosis, found } = drawn(source === "layer" && !known ? "gauss" : source, n, seed);
    const wide = stage.width >= 520;
    const size = { width: wide ? Math.floor((stage.width - 12) / 2) : stage.width, height: wide ? 180 : 140 };
    for (const { key, name, axes, right } of panels) {
      drawPanel(axes, found[key], n, PANELS[key].color, size);
      const text = `kurtosis ${found[key].kurtosis.toFixed(1)}`;
      right.textContent = text;
      right.setAttribute("x", axes.box.x1);
      axes.svg.setAttribute("aria-label", `Density of the ${name}: standard deviation ${format(Math.sqrt(found[key].variance))}, ${text}`);
    }
    table.replaceChildren(...rows(found, n, kurtosis));
    const told = Object.entries(PANELS).map(([key, { name }]) => `${name}: variance ${format(found[key].variance)}, kurtosis ${found[key].kurtosis.toFixed(1)}`);
    stage.say(`Minibatches of ${n}. ${told.join("; ")}.`);
  };
}

/** One end of a panel's heading. */
function heading(anchor) {
  return s("text", { class: anchor === "start" ? "strong" : "", x: 0, y: 14, "text-anchor": anchor });
}

function drawPanel(axes, { x, mean, variance }, n, color, size) {
  const reach = REACH / Math.sqrt(n);
  axes.frame({ x: [-SIDE, SIDE], y: HEIGHT, yLog: true, ...size });
  const ground = HEIGHT[0] / 10;
  const heights = density(x, -reach, reach, BINS);
  const step = (2 * reach) / BINS;
  const steps = Array.from(heights).flatMap((v, i) => [
    [i * step - reach, Math.max(v, ground)],
    [(i + 1) * step - reach, Math.max(v, ground)],
  ]);
  axes.line([[-reach, ground], ...steps, [reach, ground]], { stroke: color, fill: color, "fill-opacity": 0.3, "stroke-width": 1.2 });
  const std = Math.sqrt(variance);
  const bell = Array.from({ length: 121 }, (_, i) => reach * (i / 60 - 1));
  const gauss = (v) => Math.exp(-0.5 * ((v - mean) / std) ** 2) / (std * Math.sqrt(2 * Math.PI));
  axes.line(bell.map((v) => [v, Math.max(gauss(v), ground)]), { "stroke-dasharray": "5 3", "stroke-width": 1.6 });
}

function rows(found, n, kurtosis) {
  const head = ["", "n · variance", "kurtosis"].map((text) => h(text ? "th" : "td", text ? { scope: "col", style: "white-space: nowrap" } : {}, text));
  const pair = (measured, told, digits) => h("td", {}, h("b", {}, measured.toFixed(digits)), ` (${told.toFixed(digits)})`);
  const lines = Object.entries(PANELS).map(([key, { name }]) => {
    const { variance, kurtosis: measured, told } = found[key];
    return h("tr", {}, h("th", { scope: "row" }, name), pair(n * variance, told[0], 2), pair(measured, told[1], 1));
  });
  const note = `Measured (to first order, for pre-activations of kurtosis ${kurtosis.toFixed(1)})`;
  return [h("caption", { style: "text-align: left; padding-bottom: 0.3rem" }, note), h("thead", {}, h("tr", {}, head)), h("tbody", {}, lines)];
}

export default widget(build);
