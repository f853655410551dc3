import { Axes, NORMS, format, s, widget } from "./base.js";

/** [f(t), f'(t)] of each activation; the derivative at a kink is the one from below, as torch has it. */
export const KINDS = {
  relu: (t) => (t > 0 ? [t, 1] : [0, 0]),
  leaky: (t, slope) => (t > 0 ? [t, 1] : [slope * t, slope]),
  sigmoid: (t) => {
    const f = 1 / (1 + Math.exp(-t));
    return [f, f * (1 - f)];
  },
  tanh: (t) => [Math.tanh(t), 1 - Math.tanh(t) ** 2],
};

function build(stage) {
  stage.choice("kind", "Activation", { relu: "ReLU", leaky: "leaky ReLU", sigmoid: "sigmoid", tanh: "tanh" });
  const slope = stage.slider("slope", "Slope below zero", { min: 0, max: 1, step: 0.01, show: (v) => v.toFixed(2) });
  const axes = new Axes(stage, { label: "The activation and its derivative over its input" });
  const handle = axes.handle("Input t", (x) => stage.set("at", Math.round(Math.max(-4, Math.min(4, x)) * 100) / 100), { step: 0.1 });
  stage.bind("at");
  const T = Array.from({ length: 161 }, (_, i) => (i - 80) / 20);

  return () => {
    const [f, at] = [(t) => KINDS[stage.get("kind")](t, stage.get("slope")), stage.get("at")];
    slope.disabled = stage.get("kind") !== "leaky";
    const xTicks = [-4, -2, 0, 2, 4].map((v) => [v, format(v)]);
    axes.frame({ x: [-4, 4], y: [-1.5, 4], xTicks, xLabel: "input t", height: 280 });
    axes.line(T.map((t) => [t, f(t)[0]]), { stroke: NORMS.wn.color, "stroke-width": 2.5 });
    axes.line(T.map((t) => [t, f(t)[1]]), { stroke: NORMS.bn.color, "stroke-dasharray": NORMS.bn.dash });
    const [value, derivative] = f(at);
    axes.line([[at, -1.5], [at, 4]], { "stroke-opacity": 0.4, "stroke-width": 1 });
    for (const [y, norm] of [[value, NORMS.wn], [derivative, NORMS.bn]])
      axes.marks.append(s("circle", { cx: axes.x(at), cy: axes.y(y), r: 4, fill: norm.color }));
    const text = `t = ${format(at)}: f(t) = ${format(value)}, f′(t) = ${format(derivative)}`;
    axes.text(-3.8, 3.5, text, { class: "strong read" });
    handle.put(at, 0, `Input ${text}; the arrow keys move it`);
    stage.say(text);
  };
}

export default widget(build);
