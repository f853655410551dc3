import { Axes, NORMS, h, s, widget } from "./base.js";

/** Of units' means and standard deviations: how far the means are off (root mean square), lowest and highest std. */
export function evenness(mean, std) {
  const off = Math.sqrt(mean.reduce((sum, v) => sum + v * v, 0) / mean.length);
  return { off, low: Math.min(...std), high: Math.max(...std) };
}

/** For each layer { mean, std }, as numbers; null where the state is none that was computed. */
export function after(data, norm, size) {
  const sizes = data.after?.[data.kinds?.[norm]];
  const place = data.sizes?.indexOf(size) ?? -1;
  if (!sizes || place < 0) return null;
  return sizes[Math.min(place, sizes.length - 1)].map(({ mean, std }) => ({
    mean: mean.map((v) => v / 100),
    std: std.map((v) => v / 100),
  }));
}

/** What the minibatch sets in each configuration. */
const SETS = {
  none: "w ← v/(‖v‖ σ[t]) and b ← −μ[t]/σ[t]",
  wn: "g ← 1/σ[t] and b ← −μ[t]/σ[t]",
  mobn: "w ← v/(‖v‖ σ[t]); b ← 0, since every minibatch centers itself",
  bn: "nothing; every minibatch centers and scales itself",
  wn_mobn: "g ← 1/σ[t]; b ← 0, since every minibatch centers itself",
};

function build(stage) {
  const data = stage.get("data");
  const { layers = [], sizes = [], others, kinds = {}, before = {} } = data;
  stage.choice("norm", "Configuration", Object.fromEntries(Object.entries(NORMS).map(([key, { label }]) => [key, label])));
  stage.slider("size", "Images in the init", { values: sizes, show: String });
  const margin = { top: 26, left: 34, bottom: 22 };
  const strip = new Axes(stage, { label: "Every unit, layer by layer", margin });
  const read = h("div", { class: "read", style: "width: 100%" });
  stage.canvas.append(read);
  const choice = h("div", { class: "controls" });
  stage.slider("layer", "Layer", { min: 0, max: layers.length - 1, show: (i) => layers[i], parent: choice });
  stage.canvas.after(h("details", { class: "more" }, h("summary", {}, "more"), choice));
  strip.front.append(s("text", { class: "strong", x: margin.left, y: 14 }, "every unit: mean ± standard deviation"));
  strip.svg.style.cursor = "pointer";
  strip.svg.addEventListener("click", (event) => {
    const at = Math.floor(strip.x.invert(event.clientX - strip.svg.getBoundingClientRect().left));
    stage.set("layer", Math.max(0, Math.min(layers.length - 1, at)));
  });

  return () => {
    const [norm, size, layer] = ["norm", "size", "layer"].map((name) => stage.get(name));
    const found = after(data, norm, size);
    stage.message(found ? "" : "There is nothing to show for this state.");
    if (!found) return;
    const itself = kinds[norm] === "batch"; // it normalizes without being initialized
    const raw = before[kinds[norm]];
    const wide = stage.width >= 560;

    const names = layers.map((name, i) => [i + 0.5, wide ? name : name.replace("conv", "").replace("dense", "d")]);
    strip.margin.bottom = wide ? 22 : 38;
    strip.frame({ x: [0, layers.length], y: [-3, 3], xTicks: names, xLabel: wide ? "" : "convolution 1 to 9, dense layer", height: wide ? 215 : 231 });
    bar(strip, layer, layer + 1, -3, 3, { class: "chosen", "fill-opacity": 0.1 });
    found.forEach(({ mean, std }, i) => {
      const step = 0.9 / mean.length;
      mean.forEach((m, k) => {
        const x = i + 0.05 + k * step;
        bar(strip, x + 0.1 * step, x + 0.9 * step, m - std[k], m + std[k], { class: "unit", fill: NORMS[norm].color, "fill-opacity": 0.7 });
        const [m0, s0] = [raw[i].mean[k], raw[i].std[k]];
        if (!itself) bar(strip, x + 0.3 * step, x + 0.7 * step, m0 - s0, m0 + s0, { class: "raw" });
      });
    });
    for (const y of [-1, 1]) strip.line([[0, y], [layers.length, y]], { ...DASHED });

    const { off, low, high } = evenness(found[layer].mean, found[layer].std);
    const text = [
      `Set by the minibatch: ${SETS[norm]}.`,
      `Layer ${layers[layer]} on ${others} other images: the units' means are typically ${off.toFixed(2)} off zero, their standard deviations lie between ${low.toFixed(2)} and ${high.toFixed(2)}.`,
    ];
    read.replaceChildren(...text.map((line) => h("p", { style: "margin: 0 0 0.2rem" }, line)), keys(norm, itself, others));
    strip.svg.setAttribute("aria-label", `Mean plus and minus standard deviation of every unit of ten layers, ${NORMS[norm].label}, initialized on ${size} images. ${text[1]}`);
    stage.say(text.join(" "));
  };
}

const DASHED = { "stroke-dasharray": "4 3", "stroke-width": 1.4 };

function bar(axes, left, right, low, high, attributes) {
  const [x, y] = [axes.x(left), axes.y(high)];
  const size = { width: axes.x(right) - x, height: Math.max(axes.y(low) - y, 1) };
  axes.marks.append(s("rect", { x, y, ...size, fill: "currentColor", ...attributes }));
}

/** What the marks mean. */
function keys(norm, itself, others) {
  const key = (mark, text) => {
    const sample = s("svg", { width: 26, height: 12, "aria-hidden": "true", style: "flex: none" }, mark);
    return h("span", { style: "display: inline-flex; align-items: center; gap: 0.35rem" }, sample, text);
  };
  const block = (attributes) => s("rect", { x: 1, y: 0, width: 24, height: 12, ...attributes });
  const list = [
    key(block({ fill: NORMS[norm].color, "fill-opacity": 0.7 }), `after, on ${others} other images`),
    key(s("path", { d: "M0 6H26", stroke: "currentColor", ...DASHED }), "on the images of the initialization all reach so far"),
  ];
  if (!itself) list.push(key(s("rect", { x: 1, y: 4, width: 24, height: 4, fill: "currentColor" }), "before"));
  return h("p", { class: "keys", style: "display: flex; flex-wrap: wrap; gap: 0.1rem 1.2rem; margin: 0.3rem 0 0" }, list);
}

export default widget(build);
