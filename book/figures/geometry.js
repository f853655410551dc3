import { Axes, NORMS, format, h, s, widget } from "./base.js";
import { apart } from "./history.js";

const STEPS = 60;
const RANGE = [-1.5, STEPS + 1.5]; // of the plots by step
const REACH = 2; // of the plane, each way, unless something lies further out

const dotted = (a, b) => a[0] * b[0] + a[1] * b[1];
const combined = (a, p, b, q) => [p * a[0] + q * b[0], p * a[1] + q * b[1]];

/** The gradient of the loss ½ (w − w*)′ H (w − w*). */
export function slope(H, minimum, w) {
  const off = combined(w, 1, minimum, -1);
  return H.map((row) => dotted(row, off));
}

/** w = g v/‖v‖ and what reaches g and v of a gradient of w; where v is zero as wnlib.weight_norm has it. */
export function normalize(g, v) {
  const norm = Math.hypot(...v);
  const ratio = g / (norm || 1);
  const unit = norm ? [v[0] / norm, v[1] / norm] : [0, 0];
  return {
    norm,
    w: combined(v, ratio, v, 0),
    pull(gradient) {
      const along = dotted(gradient, unit);
      const across = combined(gradient, 1, unit, -along); // M_w ∇_w L
      return { g: along, across, v: combined(across, ratio, v, 0) };
    },
  };
}

/** Steps for a list of numbers, in place, as torch.optim takes them with its defaults (momentum 0.9). */
export const OPTIMIZERS = {
  sgd: (rate) => (p, gradient) => p.forEach((_, i) => (p[i] -= rate * gradient[i])),
  momentum: (rate) => {
    const velocity = [];
    return (p, gradient) =>
      p.forEach((_, i) => {
        velocity[i] = 0.9 * (velocity[i] ?? 0) + gradient[i];
        p[i] -= rate * velocity[i];
      });
  },
  adam: (rate) => {
    const [first, second] = [[], []];
    let t = 0;
    return (p, gradient) => {
      t += 1;
      p.forEach((_, i) => {
        first[i] = 0.9 * (first[i] ?? 0) + 0.1 * gradient[i];
        second[i] = 0.999 * (second[i] ?? 0) + 0.001 * gradient[i] ** 2;
        const size = Math.sqrt(second[i] / (1 - 0.999 ** t)) + 1e-8;
        p[i] -= (rate / (1 - 0.9 ** t)) * (first[i] / size);
      });
    };
  },
};

/** Normal numbers, always the same ones: what minibatches add to a component of the gradient. */
export function* normals(state = 752) {
  const uniform = () => {
    state = (state + 1831565813) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 2 ** 32;
  };
  while (true) {
    const [radius, angle] = [Math.sqrt(-2 * Math.log(uniform())), 2 * Math.PI * uniform()];
    yield radius * Math.cos(angle);
    yield radius * Math.sin(angle);
  }
}

/** Descent on g and v: each state with its gradients, ‖v‖, Pythagoras' prediction, the effective rate, and that with g fixed. */
export function descend({ H, minimum, g, v, optimizer, rate, noise = 0 }, steps) {
  const p = [g, ...v];
  const random = normals();
  const move = OPTIMIZERS[optimizer](rate);
  const states = [];
  let squares = dotted(v, v);
  for (let k = 0; k <= steps; k++) {
    const at = { g: p[0], v: [p[1], p[2]] };
    const { norm, w, pull } = normalize(at.g, at.v);
    const gradient = slope(H, minimum, w).map((x) => x + noise * random.next().value);
    const pulled = pull(gradient);
    const effective = (scale) => (norm ? (rate * scale ** 2) / norm ** 2 : null);
    states.push({ ...at, w, norm, gradient, pulled, told: Math.sqrt(squares), effective: effective(at.g), fixed: effective(g) });
    move(p, [pulled.g, ...pulled.v]);
    squares += (p[1] - at.v[0]) ** 2 + (p[2] - at.v[1]) ** 2;
  }
  return states;
}

/** The plane's reach: REACH, or some more of it, so that it doesn't change with every step. */
export function reach(points) {
  const far = Math.max(...points.flat().map(Math.abs).filter(Number.isFinite), 0) * 1.05;
  return far <= REACH ? REACH : REACH * 1.5 ** Math.ceil(Math.log(far / REACH) / Math.log(1.5));
}

const NAMES = { sgd: "gradient descent", momentum: "momentum 0.9", adam: "Adam" };
const COLORS = { v: NORMS.wn.color, w: NORMS.wn_mobn.color, down: NORMS.bn.color, across: NORMS.mobn.color };

function build(stage) {
  const two = (value) => value.toFixed(2).replace("-", "−");
  const run = stage.button("Run", () => (timer ? stop() : start()));
  stage.choice("optimizer", "Optimizer", NAMES);
  const parent = h("div", { class: "controls" });
  const once = () => {
    stop();
    stage.set("step", Math.min(stage.get("step") + 1, STEPS));
  };
  stage.button("Step", once, { parent });
  stage.slider("step", "Steps taken", { min: 0, max: STEPS, show: String, parent });
  const g = stage.slider("g", "g", { min: -2, max: 2, step: 0.05, show: two, parent });
  stage.slider("rate", "Learning rate η", { values: [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 3], parent });
  stage.slider("noise", "Noise", { min: 0, max: 1, step: 0.1, parent });
  stage.canvas.after(h("details", { class: "more" }, h("summary", {}, "more"), parent));
  for (const name of ["v", "minimum", "data"]) stage.bind(name);

  let timer = 0;
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    run.textContent = "Run";
  };
  const start = () => {
    if (stage.get("step") >= STEPS) stage.set("step", 0);
    if (stage.still) return stage.set("step", STEPS);
    run.textContent = "Pause";
    timer = setInterval(() => {
      if (!stage.draw || stage.get("step") >= STEPS) return stop();
      stage.set("step", stage.get("step") + 1);
    }, 150);
  };
  stage.onreset(stop);

  const columns = [h("div"), h("div")];
  stage.canvas.append(...columns);
  const plane = new Axes(stage, { label: "The plane with v, w, their gradients and the loss", parent: columns[0], margin: { left: 36, bottom: 24 } });
  const lengths = new Axes(stage, { label: "The norm of v by step", parent: columns[1], margin: { bottom: 24 } });
  const rates = new Axes(stage, { label: "The effective learning rate by step", parent: columns[1] });
  const read = h("div");
  columns[0].append(read, key());

  let now = null; // what is seen; whoever moves v or g starts anew from here
  let half = REACH;
  const anew = (changes) => {
    stop();
    for (const [name, value] of Object.entries({ v: now.v, g: Math.max(-2, Math.min(2, now.g)), step: 0, ...changes })) stage.set(name, value);
  };
  g.addEventListener("input", () => anew({ g: Number(g.value) }));
  let held = false; // while a point is, the plane keeps still under the pointer
  plane.front.addEventListener("pointerdown", () => (held = true));
  plane.front.addEventListener("lostpointercapture", () => {
    held = false;
    stage.redraw();
  });
  const within = (x) => Math.round(Math.max(-half, Math.min(half, x)) * 100) / 100;
  const target = plane.handle("Minimum of the loss", (x, y) => stage.set("minimum", [within(x), within(y)]), { radius: 6, fill: "currentColor" });
  const tip = plane.handle("v", (x, y) => anew({ v: Math.hypot(x, y) < 0.04 ? [0, 0] : [within(x), within(y)] }), { radius: 7 });

  return () => {
    const names = ["g", "v", "minimum", "optimizer", "rate", "noise"];
    const at = Object.fromEntries(names.map((name) => [name, stage.get(name)]));
    at.H = stage.get("data").curvature;
    const states = descend(at, STEPS + 1);
    const step = stage.get("step");
    now = states[step];
    g.value = now.g;
    g.nextSibling.textContent = two(now.g);

    const wide = stage.width >= 600;
    const side = wide ? Math.min(0.58 * stage.width, 440) : stage.width;
    if (!held) half = reach([at.minimum, ...states.slice(0, step + 2).map((state) => state.v)]);
    columns[0].style.width = `${side}px`;
    plane.frame({ x: [-half, half], y: [-half, half], width: side, height: side - 6 });
    drawPlane(plane, at, states, step);
    target.put(...at.minimum);
    tip.put(...now.v, `v at ${format(now.v[0])}, ${format(now.v[1])}; the arrow keys move it and start anew`);

    const small = { width: wide ? stage.width - side - 12 : stage.width, height: wide ? (side - 6) / 2 : 190 };
    const others = Object.keys(NAMES).filter((optimizer) => optimizer !== at.optimizer);
    drawLengths(lengths, states.slice(0, -1), step, small, NAMES[at.optimizer], others.map((optimizer) => [NAMES[optimizer], descend({ ...at, optimizer }, STEPS)]));
    drawRates(rates, states.slice(0, -1), step, small);
    const text = report(now, states[step + 1], step);
    read.textContent = text;
    stage.say(text);
  };
}

/** The arrows by their looks. */
function key() {
  const looks = [
    ["−∇", "w", "L", COLORS.down, ""],
    ["−∇", "g", "L along w", COLORS.down, "2 3"],
    ["−M", "w", "∇L across w", COLORS.across, ""],
    ["−∇", "v", "L", COLORS.v, "5 3"],
  ];
  const items = looks.map(([before, low, after, stroke, dash]) => {
    const line = s("path", { d: "M0 5H22", stroke, "stroke-width": 2.2, "stroke-dasharray": dash });
    const sample = s("svg", { width: 22, height: 10, "aria-hidden": "true", style: "display: inline; margin-right: 5px" }, line);
    return h("span", { style: "margin-right: 1rem; white-space: nowrap" }, sample, before, h("sub", {}, low), after);
  });
  return h("p", { style: "margin: 0.25rem 0 0; font-size: 0.92em" }, items);
}

/** In words: the step that comes next, and whether Pythagoras is right about it. */
function report(now, next, step) {
  if (!now.norm) return `Step ${step}: v = 0 has no direction. So w = 0, and the gradient of v is g times that of w.`;
  const by = combined(next.v, 1, now.v, -1);
  const size = Math.hypot(...by);
  const c = size / now.norm;
  const told = format(Math.sqrt(1 + c * c) * now.norm, 4);
  const cosine = size ? dotted(by, now.v) / (size * now.norm) : 0;
  const angle = Math.abs(cosine) < 1e-6 ? "a right angle" : `${format((Math.acos(cosine) * 180) / Math.PI)}°`;
  return `Step ${step}: ‖v‖ = ${format(now.norm, 4)}. The next one has c = ‖Δv‖/‖v‖ = ${format(c)}, at ${angle} to v. √(1 + c²) ‖v‖ = ${told}; measured, ${format(next.norm, 4)}.`;
}

function drawPlane(axes, { H, minimum }, states, step) {
  const now = states[step];
  const px = ([x, y]) => [axes.x(x), axes.y(y)];
  const unit = axes.x(1) - axes.x(0);
  const [ox, oy] = px([0, 0]);
  contours(axes, H, minimum, unit);
  const circle = (r, look) => axes.marks.append(s("circle", { cx: ox, cy: oy, r: r * unit, fill: "none", "stroke-width": 1.4, ...look }));
  circle(states[0].norm, { stroke: COLORS.v, "stroke-dasharray": "1.5 3.5" });
  circle(Math.abs(now.g), { stroke: COLORS.w, "stroke-opacity": 0.6 });

  const taken = states.slice(0, step + 1);
  for (const name of ["w", "v"]) {
    axes.line(taken.map((state) => state[name]), { stroke: COLORS[name], "stroke-width": 1.2, "stroke-opacity": 0.5 });
    axes.marks.append(...taken.map((state) => s("circle", { cx: px(state[name])[0], cy: px(state[name])[1], r: 2, fill: COLORS[name], "fill-opacity": 0.6 })));
  }
  const next = states[step + 1].v;
  axes.line([now.v, next], { stroke: COLORS.v, "stroke-width": 1.2 });
  axes.marks.append(s("circle", { cx: px(next)[0], cy: px(next)[1], r: 4, fill: "none", stroke: COLORS.v, "stroke-width": 1.5 }));

  const { pulled, gradient, v, w } = now;
  const along = now.norm ? combined(v, -pulled.g / now.norm, v, 0) : [0, 0];
  const arrows = [
    { from: [0, 0], to: v, name: "v", color: COLORS.v, thick: 4.5 },
    { from: w, to: combined(w, 1, along, 1), name: "−∇_gL", color: COLORS.down, dash: "2 3" },
    { from: w, to: combined(w, 1, pulled.across, -1), name: "−M_w∇_wL", color: COLORS.across },
    { from: w, to: combined(w, 1, gradient, -1), name: "−∇_wL", color: COLORS.down },
    { from: v, to: combined(v, 1, pulled.v, -1), name: "−∇_vL", color: COLORS.v, dash: "5 3" },
    { from: [0, 0], to: w, name: "w", color: COLORS.w },
  ].map((arrow) => ({ ...arrow, a: px(arrow.from), b: px(arrow.to) }));
  const drawn = arrows.filter(({ a, b, name }) => Math.hypot(b[0] - a[0], b[1] - a[1]) > 3 && (now.norm || name !== "−M_w∇_wL"));
  for (const arrow of drawn) axes.marks.append(...shaft(arrow));
  const vTip = arrows[4];
  if (drawn.includes(vTip) && now.norm) corner(axes, vTip, px([0, 0]));
  // The key below names the gradients.
  const [tip, end] = ["v", "w"].map((name) => drawn.find((arrow) => arrow.name === name));
  const one = tip && end && Math.hypot(tip.b[0] - end.b[0], tip.b[1] - end.b[1]) < 14; // one under the other
  const [mx, my] = px(minimum);
  label(axes, [...(one ? [{ ...tip, name: "v, w" }] : [tip, end].filter(Boolean)), { a: [mx, my + 1], b: [mx, my], name: "minimum" }]);
}

function contours(axes, H, [x, y], unit) {
  const middle = (H[0][0] + H[1][1]) / 2;
  const spread = Math.hypot((H[0][0] - H[1][1]) / 2, H[0][1]);
  const angle = (Math.atan2(2 * H[0][1], H[0][0] - H[1][1]) * 90) / Math.PI; // of the steepest direction
  for (let k = 1; k <= 8; k++) {
    const [rx, ry] = [middle + spread, middle - spread].map((value) => (k * Math.sqrt(0.06 / value)) * unit);
    const transform = `translate(${axes.x(x)} ${axes.y(y)}) rotate(${-angle})`;
    axes.marks.append(s("ellipse", { rx, ry, transform, fill: "none", stroke: "currentColor", "stroke-opacity": 0.28, "stroke-width": 0.9 }));
  }
}

function shaft({ a, b, color, dash, thick = 2.2 }) {
  const length = Math.hypot(b[0] - a[0], b[1] - a[1]);
  const [ux, uy] = [(b[0] - a[0]) / length, (b[1] - a[1]) / length];
  const head = Math.min(10, length);
  const [hx, hy] = [b[0] - head * ux, b[1] - head * uy];
  const corners = [b, [hx - 0.4 * head * uy, hy + 0.4 * head * ux], [hx + 0.4 * head * uy, hy - 0.4 * head * ux]];
  return [
    s("line", { x1: a[0], y1: a[1], x2: hx, y2: hy, stroke: color, "stroke-width": thick, "stroke-dasharray": dash ?? "" }),
    s("path", { d: `M${corners.map((point) => point.map((value) => value.toFixed(1)).join(" ")).join("L")}Z`, fill: color }),
  ];
}

/** The right angle between v and its gradient. */
function corner(axes, { a, b }, origin) {
  const toward = (from, to) => {
    const length = Math.hypot(to[0] - from[0], to[1] - from[1]);
    return [((to[0] - from[0]) / length) * 11, ((to[1] - from[1]) / length) * 11];
  };
  if (Math.hypot(b[0] - a[0], b[1] - a[1]) < 14 || Math.hypot(origin[0] - a[0], origin[1] - a[1]) < 14) return;
  const [p, q] = [toward(a, b), toward(a, origin)];
  const d = `M${a[0] + p[0]} ${a[1] + p[1]}l${q[0]} ${q[1]}l${-p[0]} ${-p[1]}`;
  axes.marks.append(s("path", { d, fill: "none", stroke: "currentColor", "stroke-width": 1.2 }));
}

/** Names beside the tips of what they name, within the frame, where none covers another. */
function label(axes, named) {
  const { x0, x1, y0, y1 } = axes.box;
  const boxes = [];
  for (const { a, b, name } of named) {
    const width = 9 * name.length;
    const places = [1, -1, 2, -2, 0, 3, -3, 4].map((k) => {
      const angle = Math.atan2(b[1] - a[1], b[0] - a[0]) + (k * Math.PI) / 4;
      const [x, y] = [b[0] + (14 + width / 2) * Math.cos(angle), b[1] + 20 * Math.sin(angle)];
      return [Math.max(x0 + width / 2 + 2, Math.min(x1 - width / 2 - 2, x)), Math.max(y1 + 10, Math.min(y0 - 10, y))];
    });
    const free = ([x, y]) => boxes.every((box) => Math.abs(x - box.x) > (width + box.width) / 2 || Math.abs(y - box.y) > 16);
    const [x, y] = places.find(free) ?? places[0];
    boxes.push({ x, y, width });
    axes.marks.append(s("text", { class: "strong", x, y: y + 4, "text-anchor": "middle" }, name));
  }
}

/** ‖v‖ of the chosen optimizer beside that of the others, on one axis, whichever is chosen. */
function drawLengths(axes, states, step, size, chosen, others) {
  const all = [states, ...others.map(([, run]) => run)];
  const norms = all.flat().map((state) => state.norm);
  const high = Math.max(...norms) || 1;
  const low = Math.max(Math.min(...norms), 1e-3 * high); // of v = 0 there is no logarithm
  axes.frame({ ...size, x: RANGE, y: [0.85 * low, 1.3 * high], yLog: true, yLabel: "‖v‖" });
  for (const [, run] of others) axes.line(run.map((state, k) => [k, state.norm || null]), { stroke: COLORS.v, "stroke-opacity": 0.35, "stroke-width": 1.4 });
  twice(axes, states, step, "told", { "stroke-dasharray": "5 3", "stroke-width": 4, "stroke-opacity": 0.5 });
  twice(axes, states, step, "norm", { stroke: COLORS.v });
  const named = [[chosen, states], ...others];
  const heights = named.map(([, run]) => axes.y(run.at(-1).norm) - 6);
  apart(heights, 14, axes.box.y1 + 10, axes.box.y0 - 4).forEach((y, i) =>
    axes.marks.append(s("text", { class: i ? "" : "strong", x: axes.x(STEPS), y, "text-anchor": "end", "fill-opacity": i ? 0.75 : 1 }, named[i][0])),
  );
}

function drawRates(axes, states, step, size) {
  const high = Math.max(...states.map((state) => Math.max(state.effective, state.fixed))) || 1;
  axes.frame({ ...size, x: RANGE, y: [0, 1.15 * high], xLabel: "step", yLabel: "η g²/‖v‖²" });
  twice(axes, states, step, "fixed", { "stroke-dasharray": "5 3" });
  twice(axes, states, step, "effective", { stroke: COLORS.across });
  name(axes, states, "effective", "g learned", "fixed", "g fixed");
}

/** Names at the ends of two curves, one above and one below; together where they lie on each other. */
function name(axes, states, key, text, other, otherText) {
  const late = states.slice(-15).map((state) => [state[key] ?? 0, state[other] ?? 0]); // as far as a name reaches
  const put = (value, words, dy) => axes.text(STEPS, value, words, { class: "strong", "text-anchor": "end", dy });
  const [high, low] = [Math.max(...late.flat()), Math.min(...late.flat())];
  if (late.every(([a, b]) => Math.abs(axes.y(a) - axes.y(b)) < 3)) {
    const same = states.every((state) => Math.abs(state[key] - state[other]) <= 1e-9 * Math.abs(state[other]));
    return put(high, `${text}${same ? " =" : ","} ${otherText}`, -7);
  }
  const above = late.reduce((sum, [a, b]) => sum + a - b, 0) > 0;
  const room = axes.box.y0 - axes.y(low) > 20; // below; without it both names stand above
  put(high, above ? text : otherText, room ? -7 : -21);
  put(room ? low : high, above ? otherText : text, room ? 16 : -7);
}

/** Pale over all steps, full over those taken, with a dot on the last. */
function twice(axes, states, step, name, look) {
  const points = states.map((state, k) => [k, state[name]]);
  axes.line(points, { ...look, "stroke-opacity": 0.55 });
  axes.line(points.slice(0, step + 1), look);
  const [k, value] = points[step];
  if (value != null && Number.isFinite(axes.y(value))) axes.marks.append(s("circle", { cx: axes.x(k), cy: axes.y(value), r: 4, fill: look.stroke ?? "currentColor" }));
}

export default widget(build);
