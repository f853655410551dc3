import { Axes, NORMS, h, s, ticks, widget } from "./base.js";
import { cut, hatMatrix, smooth, windowStart } from "./savgol.js";

/** The window of value i: where it begins, its fitted polynomial, and the weight of value i in its own smoothed value. */
export function windowAt(values, i, window, degree) {
  const [width, power] = cut(values.length, window, degree);
  const start = windowStart(i, values.length, width);
  const hat = hatMatrix(width, power);
  const fit = hat.map((row) => row.reduce((sum, weight, j) => sum + weight * values[start + j], 0));
  return { start, width, fit, weight: hat[i - start][i - start] };
}

function build(stage) {
  const runs = stage.get("data").runs;
  const odd = Array.from({ length: 50 }, (_, i) => 2 * i + 3);
  stage.slider("window", "Window", { values: odd, show: (v) => `${v} epochs` });
  stage.slider("degree", "Degree", { min: 0, max: 10, show: String });
  const parent = h("div", { class: "controls" });
  stage.choice("norm", "Run", Object.fromEntries(runs.map(({ norm }) => [norm, NORMS[norm].label])), { parent });
  stage.choice("part", "Epochs", { end: "the last 75", all: "all" }, { parent });
  stage.bind("at");
  const axes = new Axes(stage, { label: "One run's test error, smoothed", margin: { right: 18 } });
  const read = h("p", { class: "read", style: "margin: 0.25rem 0" });
  const more = h("details", { class: "more" }, h("summary", {}, "more"), parent);
  stage.canvas.after(read, more);
  const values = () => (runs.find(({ norm }) => norm === stage.get("norm")) ?? runs[0]).test_error.map((v) => 100 * v);
  const moveTo = (x) => {
    const [count, to] = [values().length, Math.max(1, Math.round(x))];
    stage.set("at", to >= count ? null : to);
  };
  const handle = axes.handle("Window", moveTo, { step: 1, radius: 7 });

  return () => {
    if (!runs.length) {
      axes.svg.style.display = more.style.display = "none";
      return stage.message("No run with the test errors of all its epochs.");
    }
    const [window, degree, all] = [stage.get("window"), stage.get("degree"), values()];
    const norm = NORMS[stage.get("norm")];
    const count = all.length;
    const at = Math.min(stage.get("at") ?? count, count);
    const smoothed = smooth(all, window, degree);
    const { start, width, fit, weight } = windowAt(all, at - 1, window, degree);
    const first = stage.get("part") === "end" ? Math.max(1, count - 75) : 0;
    const seen = [...all.slice(Math.max(first - 1, 0)), ...smoothed.slice(Math.max(first - 1, 0))];
    const [low, high] = [Math.min(...seen), Math.max(...seen)];
    const step = ((marks) => marks[1] - marks[0] || 1)(ticks(low, high + 1e-6));
    const y = [Math.floor(low / step) * step, Math.ceil(high / step) * step + (low === high ? step : 0)];
    const wide = stage.width > 500;
    axes.frame({
      x: [first, Math.max(count, first + 1) + 0.5],
      y,
      xLabel: "epoch",
      yLabel: "test error (%)",
      height: wide ? 340 : 290,
    });
    const { x0, x1, y0, y1 } = axes.box;

    const half = (width - 1) / 2;
    const zones = [
      [1, half + 0.5],
      [count - half + 0.5, count + 0.5],
    ];
    for (const [from, to] of zones) {
      const [left, right] = [Math.max(axes.x(from), x0), Math.min(axes.x(to), x1)];
      if (right <= left) continue;
      axes.marks.append(
        s("rect", { x: left, y: y1, width: right - left, height: y0 - y1, fill: "currentColor", "fill-opacity": 0.08 }),
      );
      if (right - left > 150)
        axes.marks.append(
          s("text", { x: (left + right) / 2, y: y1 + 16, "text-anchor": "middle" }, "all read off one polynomial"),
        );
    }
    for (const [i, v] of all.entries())
      if (i + 1 >= first)
        axes.marks.append(
          s("circle", {
            cx: axes.x(i + 1),
            cy: axes.y(v),
            r: stage.get("part") === "end" ? 2.6 : 1.6,
            fill: norm.color,
            "fill-opacity": 0.45,
          }),
        );
    axes.line(
      smoothed.map((v, i) => [i + 1, v]),
      { stroke: norm.color, "stroke-width": 2.5 },
    );
    axes.line(
      fit.map((v, j) => [start + j + 1, v]),
      { "stroke-dasharray": "6 4", "stroke-width": 1.6 },
    );
    const [left, right] = [axes.x(start + 1), axes.x(start + width)];
    axes.marks.append(
      s("path", { d: `M${left} ${y0 - 14}V${y0 - 5}H${right}V${y0 - 14}`, fill: "none", stroke: "currentColor" }),
    );
    if (right - Math.max(left, x0) > 130)
      axes.marks.append(
        s("text", { x: (Math.max(left, x0) + right) / 2, y: y0 - 10, "text-anchor": "middle" }, `window of epoch ${at}`),
      );

    const percent = (v) => `${v.toFixed(2)} %`;
    const value = `Epoch ${at}: recorded ${percent(all[at - 1])}, smoothed ${percent(smoothed[at - 1])}.`;
    const [own, noise] = [weight, Math.sqrt(weight)].map((part) => `${Math.round(100 * part)} %`);
    const text = `${value} Of the smoothed value ${own} is the recorded one itself; ${noise} of the noise is left.`;
    read.textContent = text;
    handle.put(at, smoothed[at - 1], `Window. ${text} The arrow keys move it`);
    stage.say(`${norm.label}. ${text}`);
  };
}

export default widget(build);
